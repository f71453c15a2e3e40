import pytest
from pydantic import ValidationError

from relayproxy.api import (
    NULL_SENDER,
    AddHeader,
    Address,
    Credentials,
    Direction,
    DropHeader,
    Finding,
    Plugin,
    Recipient,
    Settings,
    TlsInfo,
    accept,
    hook,
)
from relayproxy.catalogue import PluginError
from relayproxy.testing.mail import call, load_plugin, make_address, make_client, make_mail, run_hook

TLS = TlsInfo("TLSv1.3", "", 256)


class Everything(Plugin[Settings]):
    """Answers each hook with whatever the test put there."""

    name = "everything"

    def __init__(self, answer=None):
        super().__init__(Settings())
        self.answer = answer
        self.got = None

    @hook
    def connect(self, client, note):
        note("iprev", "pass", policy__iprev=client.ip)
        return self.answer

    @hook
    def auth(self, credentials):
        return self.answer

    @hook
    def rcpt(self, rcpt):
        self.got = rcpt
        return self.answer

    @hook
    async def message(self, mail):
        mail.note("size", "hit", score=1.5)
        return self.answer

    @hook
    def before_forward(self, mail, route):
        return self.answer

    @hook
    def after_forward(self):
        return self.answer

    def helo(self, client):
        """Lacks the mark."""


# --- make_mail --------------------------------------------------------------------------------------------


def test_a_mail_is_what_the_arguments_say():
    mail = make_mail(
        b"Subject: x\r\n\r\nbody\r\n",
        sender="",
        recipients=["b@example.net", Recipient(Address("c", "example.net"), ("NEVER",))],
        ip="2001:db8::1",
        tls=TLS,
        direction=Direction.OUTBOUND,
        findings=[Finding("spf", "pass")],
        listener="submission",
    )
    assert bytes(mail.message) == b"Subject: x\r\n\r\nbody\r\n"
    assert mail.message.subject == "x"
    assert mail.envelope.sender == NULL_SENDER
    assert [str(r.address) for r in mail.envelope.recipients] == ["b@example.net", "c@example.net"]
    assert mail.envelope.recipients[1].notify == ("NEVER",)
    assert (mail.client.ip, mail.client.tls, mail.client.listener) == ("2001:db8::1", TLS, "submission")
    assert mail.direction is Direction.OUTBOUND
    assert mail.finding("spf").result == "pass"


@pytest.mark.parametrize(
    ("facts", "trusted"),
    [({}, False), ({"identity": "ana"}, True), ({"direction": Direction.INTERNAL}, True)],
)
def test_only_a_stranger_is_not_trusted(facts, trusted):
    assert make_mail(**facts).client.trusted is trusted


@pytest.mark.parametrize("raw", [b"a\nb", b"a\rb", b"a\r\n\n", b"\n\r"])
def test_a_bare_cr_or_lf_is_no_message(raw):
    with pytest.raises(ValueError, match="CRLF"):
        make_mail(raw)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("a@b", Address("a", "b")),
        ('"x@y"@b', Address('"x@y"', "b")),
        ("postmaster", Address("postmaster", "")),
        ("", NULL_SENDER),
    ],
)
def test_addresses(text, address):
    assert make_address(text) == address


# --- call -------------------------------------------------------------------------------------------------


async def test_a_hook_gets_only_what_it_names():
    plugin = Everything()
    rcpt = make_mail().envelope.recipients[0]
    assert await call(plugin, "rcpt", mail=make_mail(), rcpt=rcpt) is None
    assert plugin.got is rcpt


async def test_findings_are_there_afterwards_with_the_name_of_the_plugin():
    mail = make_mail(findings=[Finding("spf", "pass", 0.5)])
    assert await call(Everything(), "message", mail=mail) is None
    assert mail.finding("size") == Finding("size", "hit", 1.5, by="everything")
    assert mail.score == 2.0
    await call(Everything(), "message", mail=mail)
    assert len(mail.findings) == 3


def test_run_hook_needs_no_loop():
    verdict = accept()
    assert run_hook(Everything(verdict), "message", mail=make_mail()) is verdict


async def test_connect_notes_into_a_mail():
    mail = make_mail()
    await call(Everything(), "connect", client=make_client(), note=mail.note)
    assert mail.noted == [Finding("iprev", "pass", 0.0, {"policy.iprev": "192.0.2.1"})]


@pytest.mark.parametrize(
    ("answer", "edits"),
    [
        (None, []),
        ([], []),
        (DropHeader("X"), [DropHeader("X")]),
        ((DropHeader("X"), AddHeader("Y", "z")), [DropHeader("X"), AddHeader("Y", "z")]),
        (iter([DropHeader("X")]), [DropHeader("X")]),
    ],
)
async def test_edits_come_as_a_list(answer, edits):
    assert await call(Everything(answer), "before_forward", mail=make_mail(), route="store") == edits


@pytest.mark.parametrize(
    ("hook_name", "arguments", "answer"),
    [
        ("message", {"mail": make_mail()}, True),
        ("message", {"mail": make_mail()}, AddHeader("X", "y")),
        ("before_forward", {"mail": make_mail(), "route": "r"}, accept()),
        ("before_forward", {"mail": make_mail(), "route": "r"}, "X: y"),
        ("before_forward", {"mail": make_mail(), "route": "r"}, [accept()]),
        ("after_forward", {}, accept()),
        ("auth", {"credentials": Credentials("PLAIN", "ana", "x")}, True),
    ],
)
async def test_an_answer_that_the_pipeline_would_not_take(hook_name, arguments, answer):
    with pytest.raises(TypeError):
        await call(Everything(answer), hook_name, **arguments)


async def test_an_identity_is_a_text():
    answer = await call(Everything("ana"), "auth", credentials=Credentials("PLAIN", "ana", "x"))
    assert answer == "ana"


async def test_a_missing_argument_is_named():
    with pytest.raises(TypeError, match="before_forward of everything wants route"):
        await call(Everything(), "before_forward", mail=make_mail())


async def test_an_unknown_argument_is_named():
    with pytest.raises(TypeError, match="has no argument body; it has mail"):
        await call(Everything(), "message", mail=make_mail(), body=b"")


@pytest.mark.parametrize(
    ("hook_name", "words"), [("mesage", "no hook called"), ("helo", "marked with @hook"), ("mail", "marked")]
)
async def test_what_is_no_hook(hook_name, words):
    with pytest.raises(LookupError, match=words):
        await call(Everything(), hook_name)


# --- load_plugin ------------------------------------------------------------------------------------------

CLASS_FORM = """
from relayproxy.api import Plugin, Settings, hook, accept

class LimitSettings(Settings):
    limit: int = 3

class Limit(Plugin[LimitSettings]):
    settings = LimitSettings

    @hook
    def message(self, mail):
        mail.note("limit", "hit")
"""

MODULE_FORM = """
from relayproxy.api import hook

@hook
def message(mail):
    mail.note("plain", "hit")
"""


async def test_a_class_is_made_with_its_settings(tmp_path):
    (tmp_path / "limit.py").write_text(CLASS_FORM)
    assert load_plugin(tmp_path / "limit.py").options.limit == 3
    plugin = load_plugin(tmp_path / "limit.py", limit=5)
    assert plugin.options.limit == 5
    mail = make_mail()
    await call(plugin, "message", mail=mail)
    assert mail.finding("limit").by == "Limit"


def test_wrong_settings_are_refused(tmp_path):
    (tmp_path / "limit.py").write_text(CLASS_FORM)
    with pytest.raises(ValidationError, match="limt"):
        load_plugin(tmp_path / "limit.py", limt=5)


async def test_a_module_of_functions_is_a_plugin(tmp_path):
    (tmp_path / "plain.py").write_text(MODULE_FORM)
    mail = make_mail()
    await call(load_plugin(tmp_path / "plain.py"), "message", mail=mail)
    assert mail.finding("plain").by == "plain"
    with pytest.raises(ValidationError, match="limit"):
        load_plugin(tmp_path / "plain.py", limit=5)


def test_what_is_no_plugin(tmp_path):
    (tmp_path / "nothing.py").write_text("x = 1")
    with pytest.raises(PluginError, match="holds no plugin"):
        load_plugin(tmp_path / "nothing.py")
