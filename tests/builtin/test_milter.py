import asyncio
import struct
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.builtin.scanning import RAW, an_app, asked, released, scripted, started

from relayproxy.api import (
    Action,
    AddRecipient,
    Direction,
    DropRecipient,
    Message,
    Recipient,
    ReplaceBody,
    ServiceError,
    SetSender,
    TlsInfo,
)
from relayproxy.builtin._milter_talk import Talk
from relayproxy.builtin._milter_wire import Skips
from relayproxy.builtin.milter import Milter, MilterSettings
from relayproxy.model.edits import apply_to_message
from relayproxy.testing.mail import call, make_address, make_mail

FOLDED = b"From: <a@example.org>\r\nX-Folded:  one\r\n\ttwo\r\nSubject:\r\n\r\nhello\r\n"


class Filter:
    """A milter for tests: answers `c` to every step unless `answers` says otherwise; `told` is what it was told."""

    def __init__(self, habits=0, end=(b"c",), version=6, deeds=0x7F, **answers):
        self.negotiated = struct.pack("!III", version, deeds, habits)
        self.habits = Skips(habits)
        self.end = end
        self.answers = {key.encode(): value for key, value in answers.items()}
        self.told = []

    async def __call__(self, reader, writer):
        while True:
            length = int.from_bytes(await reader.readexactly(4), "big")
            code, data = (octets := await reader.readexactly(length))[:1], octets[1:]
            self.told.append((code, data))
            if code == b"Q":
                return
            if code == b"O":
                replies = [b"O" + self.negotiated]
            elif code == b"E":
                replies = self.end
            elif code == b"D" or self._unanswered(code):
                replies = ()
            else:
                replies = [self.answers.get(code, b"c")]
            for reply in replies:
                writer.write(len(reply).to_bytes(4, "big") + reply)
            await writer.drain()

    def _unanswered(self, code):
        bit = {b"L": Skips.NR_HDR, b"B": Skips.NR_BODY, b"C": Skips.NR_CONN}.get(code)
        return bit is not None and bool(self.habits & bit)

    def heard(self, code):
        return [data for told, data in self.told if told == code]

    @property
    def codes(self):
        return b"".join(code for code, _ in self.told if code != b"D")


async def filtered(milter, raw=RAW, at="message", **facts):
    """Ask one milter; return the verdict, the finding and the message as it would be forwarded."""
    async with scripted(milter) as address:
        return await asked(plugin_for(address, at=at), raw, **facts)


def plugin_for(*addresses, at="message"):
    milters = [{"name": f"m{n}", "address": address, "at": at} for n, address in enumerate(addresses)]
    return started(Milter, milters=milters)


async def changes(milter, raw=RAW):
    """Return the edits that a milter wants."""
    async with scripted(milter) as address:
        plugin, mail = plugin_for(address), make_mail(raw)
        await call(plugin, "message", mail=mail)
        return await call(plugin, "before_forward", mail=mail, route="x")


def edit(code, *texts, number=None):
    front = b"" if number is None else number.to_bytes(4, "big")
    return code + front + b"".join(text.encode() + b"\0" for text in texts)


async def test_the_whole_transaction_is_told():
    milter = Filter()
    facts = {"recipients": ["b@example.net", Recipient(make_address("c@example.net"), ("NEVER",))]}
    verdict, finding, message = await filtered(milter, **facts)
    assert verdict is None
    assert finding.props == {"milter": "m0", "action": "accept"}
    assert bytes(message) == RAW
    assert milter.codes == b"OCHMRRTLLLNBEQ"
    assert milter.heard(b"O") == [struct.pack("!III", 6, 0x7F, 0x1DF7FF)]
    assert milter.heard(b"C") == [b"[192.0.2.1]\x004" + (49152).to_bytes(2, "big") + b"192.0.2.1\0"]
    assert milter.heard(b"H") == [b"client.example.org\0"]
    assert milter.heard(b"M") == [b"<a@example.org>\0SIZE=73\0"]
    assert milter.heard(b"R") == [b"<b@example.net>\0", b"<c@example.net>\0NOTIFY=NEVER\0"]
    assert milter.heard(b"L")[0] == b"From\0<a@example.org>\0"
    assert milter.heard(b"B") == [b"hello\r\n"]


async def test_macros_go_before_their_step():
    milter = Filter()
    await filtered(milter, identity="me", tls=TlsInfo("TLSv1.3", "AES", 128))
    macros = milter.heard(b"D")
    assert b"Cj\0mx.example.com\0{daemon_name}\0inbound\0" in macros[0]
    assert macros[1].startswith(b"H{tls_version}\0TLSv1.3\0{cipher}\0AES\0{cipher_bits}\x00128\0")
    assert (
        macros[2] == b"Mi\0test.1\0{mail_addr}\0a@example.org\0{mail_host}\0example.org\0{auth_authen}\0me\0"
    )
    assert macros[-1] == b"Ei\0test.1\0"


async def test_folds_and_blanks_of_a_field():
    plain, leading = Filter(), Filter(habits=Skips.HDR_LEADSPC)
    await filtered(plain, FOLDED)
    await filtered(leading, FOLDED)
    assert plain.heard(b"L")[1:] == [b"X-Folded\0one\n\ttwo\0", b"Subject\0\0"]
    assert leading.heard(b"L")[1:] == [b"X-Folded\0  one\n\ttwo\0", b"Subject\0\0"]


async def test_what_is_not_wanted_is_not_told_and_what_is_not_answered_not_waited_for():
    milter = Filter(
        habits=Skips.NOHELO | Skips.NORCPT | Skips.NOBODY | Skips.NODATA | Skips.NR_HDR | Skips.NR_CONN
    )
    verdict, _, _ = await filtered(milter)
    assert verdict is None
    assert milter.codes == b"OCMLLLNEQ"


async def test_a_body_goes_in_chunks_until_enough_is_seen():
    raw = RAW[:-7] + b"x" * 200_000 + b"\r\n"
    milter = Filter()
    await filtered(milter, raw)
    assert [len(chunk) for chunk in milter.heard(b"B")] == [65_535, 65_535, 65_535, 3397]
    assert b"".join(milter.heard(b"B")) == raw[66:]
    sated = Filter(B=b"s")
    await filtered(sated, raw)
    assert sated.codes.endswith(b"NBEQ")


@pytest.mark.parametrize("step", "CHMRTLNB")
@pytest.mark.parametrize(
    ("answer", "action", "reply"),
    [
        (b"r", Action.REJECT, "550 5.7.1 Message refused"),
        (b"t", Action.DEFER, "451 4.7.1 Try again later"),
        (b"d", Action.DISCARD, None),
        (b"y554 5.6.0 not %% this\0", Action.REJECT, "554 5.6.0 not % this"),
        (b"y550-5.7.1 one\r\n550 5.7.1 two\0", Action.REJECT, "550 5.7.1 one / two"),
        (b"y450 4.2.0 sp\xc3\xa4ter\0", Action.DEFER, "450 4.2.0 sp?ter"),
        (b"y421 gone", Action.DEFER, "421 4.7.1 gone"),
        (b"y550 4.7.1 odd\0", Action.REJECT, "550 5.7.1 odd"),
    ],
)
async def test_a_refusal_at_any_step(step, answer, action, reply):
    milter = Filter(**{step: answer})
    verdict, finding, _ = await filtered(milter)
    assert verdict.action is action
    assert (verdict.reply and str(verdict.reply)) == reply
    assert finding.props["action"] == action.name.lower()
    assert b"E" not in milter.codes


async def test_a_refusal_at_the_end_drops_the_changes():
    async with scripted(Filter(end=[edit(b"h", "X-A", "x"), b"r"])) as address:
        plugin, mail = plugin_for(address), make_mail(RAW)
        assert (await call(plugin, "message", mail=mail)).action is Action.REJECT
        assert await call(plugin, "before_forward", mail=mail, route="x") == []


async def test_acceptance_ends_the_questions_but_of_a_recipient_it_does_not():
    accepts = Filter(M=b"a")
    assert (await filtered(accepts))[0] is None
    assert accepts.codes == b"OCHMQ"
    takes = Filter(R=b"a")
    await filtered(takes)
    assert takes.codes.endswith(b"EQ")


async def test_quarantine_is_hold_and_a_refusal_is_stronger():
    verdict, _, _ = await filtered(Filter(end=[b"qodd\nmail\0", b"c"]))
    assert (verdict.action, verdict.reason) == (Action.HOLD, "odd?mail")
    verdict, _, _ = await filtered(Filter(end=[b"qodd\0", b"r"]))
    assert verdict.action is Action.REJECT


async def test_progress_is_patience():
    assert (await filtered(Filter(end=[b"p", b"p", b"c"])))[0] is None


@pytest.mark.parametrize(
    ("reply", "names"),
    [
        (edit(b"h", "X-New", "v"), ["From", "Message-ID", "Subject", "X-New"]),
        (edit(b"i", "X-New", " v", number=0), ["X-New", "From", "Message-ID", "Subject"]),
        (edit(b"m", "Subject", "v", number=1), ["From", "Message-ID", "Subject"]),
        (edit(b"m", "Subject", "", number=1), ["From", "Message-ID"]),
        (edit(b"m", "X-None", "", number=1), ["From", "Message-ID", "Subject"]),
        (edit(b"m", "X-New", "v", number=1), ["From", "Message-ID", "Subject", "X-New"]),
        (edit(b"h", "X-New", "v\nSubject: y"), ["From", "Message-ID", "Subject", "X-New"]),
    ],
)
async def test_changes_of_the_header(reply, names):
    _, _, message = await filtered(Filter(end=[reply, b"c"]))
    assert [field.name for field in message.fields] == names
    assert message.body == b"hello\r\n"


async def test_a_signature_keeps_its_folds():
    value = " v=1; a=rsa-sha256;\n\tb=abc\n\t def"
    _, _, message = await filtered(
        Filter(habits=Skips.HDR_LEADSPC, end=[edit(b"i", "DKIM-Signature", value, number=0), b"c"])
    )
    assert message.fields[0].raw == b"DKIM-Signature: v=1; a=rsa-sha256;\r\n\tb=abc\r\n\t def\r\n"


async def test_a_body_of_several_replies():
    _, _, message = await filtered(Filter(end=[b"bone\n", b"h" + b"X\0y\0", b"btwo\r\nthree\r", b"c"]))
    assert message.body == b"one\r\ntwo\r\nthree\r\n"
    assert message.header("X") == "y"


async def test_changes_of_the_envelope():
    end = [
        edit(b"+", "<c@example.net>"),
        edit(b"-", "<b@example.net>"),
        edit(b"e", "<>", "SIZE=1"),
        edit(b"2", "d@x.org", "NOTIFY=NEVER"),
        b"c",
    ]
    assert await changes(Filter(end=end)) == [
        AddRecipient(Recipient(make_address("c@example.net"))),
        DropRecipient(make_address("b@example.net")),
        SetSender(make_address("")),
        AddRecipient(Recipient(make_address("d@x.org"))),
    ]


@pytest.mark.parametrize(
    "milter",
    [
        Filter(version=7),
        Filter(version=1),
        Filter(deeds=0x100),
        Filter(habits=0x8000_0000),
        Filter(H=b"z"),
        Filter(H=b"s"),
        Filter(H=b"4"),
        Filter(H=b"f"),
        Filter(H=b"y250 ok\0"),
        Filter(H=b"y\0"),
        Filter(H=b"x" * 2_000_000),
        Filter(end=[b"z"]),
        Filter(end=[b"h"]),
        Filter(end=[b"i\0"]),
        Filter(end=[b"m\0\0\0\1"]),
        Filter(end=[edit(b"h", "A b", "x"), b"c"]),
        Filter(end=[edit(b"+", "<a b@x>"), b"c"]),
        Filter(end=[edit(b"h", "X", "x")] * 1001 + [b"c"]),
        Filter(end=[b"b" + b"x" * 1_000_000] * 17 + [b"c"]),
    ],
)
async def test_what_the_protocol_does_not_allow_is_a_fault(milter):
    with pytest.raises(ServiceError, match=r"^milter m0: "):
        await filtered(milter)


def understood(octets):
    """Let a milter that has been told everything send `octets`: they mean something, or are a fault."""

    async def held():
        reader = asyncio.StreamReader()
        agreed = b"O" + struct.pack("!III", 6, 0x7F, int(Skips.NOBODY | Skips.NR_HDR))
        for reply in (agreed, *([b"c"] * 6)):
            reader.feed_data(len(reply).to_bytes(4, "big") + reply)
        reader.feed_data(octets)
        reader.feed_eof()
        return await Talk(reader, Nowhere(), make_mail(RAW), "mx.example.com").held()

    try:
        said = asyncio.run(held())
    except (ServiceError, EOFError):
        return
    message = apply_to_message(Message.from_bytes(RAW), said.edits)
    if not any(isinstance(edit, ReplaceBody) for edit in said.edits):
        assert message.body == b"hello\r\n"


@given(st.binary(max_size=200))
def test_whatever_a_milter_sends_is_understood_or_a_fault(octets):
    understood(octets)


@given(st.lists(st.tuples(st.sampled_from("himeb+-2qycz"), st.binary(max_size=40)), max_size=6))
def test_whatever_a_milter_wants_is_an_edit_or_a_fault(replies):
    ended = [*replies, ("c", b"")]
    understood(b"".join((len(data) + 1).to_bytes(4, "big") + code.encode() + data for code, data in ended))


class Nowhere:
    """A writer that forgets."""

    transport = SimpleNamespace(is_closing=lambda: False)

    def get_extra_info(self, name):
        assert name == "socket"

    def writelines(self, data):
        assert data

    async def drain(self):
        assert self


async def test_each_milter_sees_what_those_before_it_changed():
    first, second = Filter(end=[edit(b"i", "X-First", "1", number=0), edit(b"+", "c@x"), b"c"]), Filter()
    async with scripted(first) as one, scripted(second) as two:
        _, _, message = await asked(plugin_for(one, two))
    assert second.heard(b"L")[0] == b"X-First\x001\0"
    assert second.heard(b"R") == [b"<b@example.net>\0", b"<c@x>\0"]
    assert message.header("X-First") == "1"


async def test_a_refusal_spares_those_after_it():
    refuses, idle = Filter(H=b"r"), Filter()
    async with scripted(refuses) as one, scripted(idle) as two:
        verdict, _, _ = await asked(plugin_for(one, two))
    assert verdict.action is Action.REJECT
    assert idle.told == []


async def test_before_the_forwarding_a_milter_changes_and_can_not_refuse():
    milter = Filter(end=[edit(b"i", "X-Late", "1", number=0), b"c"])
    verdict, _, message = await filtered(milter, at="before_forward")
    assert verdict is None
    assert message.fields[0].name == "X-Late"
    with pytest.raises(ServiceError, match="milter: too late to reject"):
        await filtered(Filter(H=b"r"), at="before_forward")


async def test_a_client_without_an_address():
    milter = Filter()
    await filtered(milter, ip="", direction=Direction.OUTBOUND)
    assert milter.heard(b"C") == [b"localhost\0U"]
    milter = Filter()
    await filtered(milter, ip="2001:db8::1")
    assert milter.heard(b"C") == [b"[2001:db8::1]\x006" + (49152).to_bytes(2, "big") + b"2001:db8::1\0"]


async def test_a_mail_without_a_header():
    milter = Filter()
    async with scripted(milter) as address:
        mail = make_mail(RAW)
        mail.message = Message.from_bytes(b"\r\nx\r\n")
        plugin = plugin_for(address)
        await call(plugin, "message", mail=mail)
        assert (
            apply_to_message(mail.message, await call(plugin, "before_forward", mail=mail, route="x"))
            is mail.message
        )
    assert milter.codes == b"OCHMRTNBEQ"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"milters": []},
        {"milters": [{"name": "a", "address": "x:1"}, {"name": "a", "address": "y:1"}]},
        {"milters": [{"name": "A b", "address": "x:1"}]},
        {"milters": [{"name": "a", "address": "x:1", "at": "connect"}]},
    ],
)
def test_settings_that_are_refused(options):
    with pytest.raises(ValidationError):
        MilterSettings.model_validate(options)


def test_each_milter_is_counted_by_its_name():
    seen = []
    milters = [{"name": name, "address": "x:1"} for name in ("a", "b")]
    app = an_app()
    meter = app.meter
    started(Milter, milters=milters, app=an_app(meter=lambda what: seen.append(what) or meter(what)))
    assert seen == ["milter a", "milter b"]


@pytest.mark.parametrize(
    "end", [[edit(b"h", "X-A", "x"), b"c"], [edit(b"h", "X-A", "x"), b"qsee to it\0", b"c"]]
)
async def test_what_a_human_released_leaves_as_the_milters_want_it(end):
    async with scripted(Filter(end=end)) as address:
        plugin = started(Milter, milters=[{"name": "one", "address": address}])
        assert (await released(plugin)).header("X-A") == "x"
