from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from relayproxy.api import App, Reply, SetRoute, Setup
from relayproxy.builtin._alias_table import AliasTable, read_lines
from relayproxy.builtin.address_rewrite import AddressRewrite, AddressRewriteSettings
from relayproxy.builtin.aliases import Aliases, AliasesSettings
from relayproxy.testing import FakeClock, FakeResolver
from relayproxy.testing.mail import call, make_mail
from relayproxy.testing.session import SessionDriver
from relayproxy.testing.standin import Standin

FILE = """\
# Basic system aliases
postmaster: root
root:       jane, "admin"@example.org
"abuse":    postmaster
jane:       jane, archive@example.org
staff:      jane,
            john,
            ann@far.example
News@Lists.Example: staff@example.net
"""
MESSAGE = b"From: a@example.org\r\n\r\nHello\r\n"


def plugin(folder=Path(), clock=None, **settings):
    made = Aliases(AliasesSettings(**{"domains": ["example.net"], **settings}))
    made.startup(App("mx.example.net", FakeResolver(), clock or FakeClock(), folder))
    return made


async def members(made, address):
    mail = make_mail(recipients=[address])
    edits = await call(made, "rewrite_envelope", mail=mail, rcpt=mail.envelope.recipients[0])
    if not edits:
        return [address]
    return [str(edits[0].new), *(str(edit.recipient.address) for edit in edits[1:])]


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        (
            "staff@example.net",
            ["jane@example.net", "archive@example.org", "john@example.net", "ann@far.example"],
        ),
        (
            "STAFF@Example.net",
            ["jane@Example.net", "archive@example.org", "john@Example.net", "ann@far.example"],
        ),
        ("abuse@example.net", ["jane@example.net", "archive@example.org", '"admin"@example.org']),
        ("jane@example.net", ["jane@example.net", "archive@example.org"]),
        (
            "news@lists.example",
            ["jane@example.net", "archive@example.org", "john@example.net", "ann@far.example"],
        ),
        ("staff@example.org", ["staff@example.org"]),
        ("nobody@example.net", ["nobody@example.net"]),
        ("postmaster", ["postmaster"]),
    ],
)
async def test_the_members_of_a_name(tmp_path, address, wanted):
    (tmp_path / "aliases").write_text(FILE)
    assert await members(plugin(tmp_path, file="aliases"), address) == wanted


async def test_the_configuration_comes_before_the_file(tmp_path):
    (tmp_path / "aliases").write_text(FILE)
    made = plugin(tmp_path, file="aliases", aliases={"Abuse": ["desk@example.org"]})
    assert await members(made, "abuse@example.net") == ["desk@example.org"]
    made = plugin(aliases={"abuse": ["desk"]})
    assert await members(made, "abuse@example.net") == ["desk@example.net"]


async def test_the_sender_stays():
    assert await call(plugin(), "rewrite_envelope", mail=make_mail(), rcpt=None) == []


async def test_a_file_is_read_again_and_a_loop_in_it_changes_nothing(tmp_path, caplog):
    clock = FakeClock()
    path = tmp_path / "aliases"
    path.write_text("a: b\n")
    made = plugin(tmp_path, clock, file="aliases")
    assert await members(made, "a@example.net") == ["b@example.net"]
    path.write_text("a: other\n")
    clock.advance(2)
    assert await members(made, "a@example.net") == ["other@example.net"]
    path.write_text("a: b\nb: c\nc: a\n")
    clock.advance(2)
    assert await members(made, "a@example.net") == ["other@example.net"]
    assert "a@example.net leads back to itself, by b@example.net and c@example.net" in caplog.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\n", "aliases:1: wanted a name, a colon, and its members"),
        ("a: b\n\nA: c\n", "aliases:3: A is there twice"),
        ("a: |/usr/bin/vacation\n", "aliases:1: '|/usr/bin/vacation' is no address: programs"),
        ('a: "|/usr/bin/vacation a"\n', "programs, files and includes are not possible"),
        ("a: /var/mail/a\n", "programs, files and includes"),
        ("a: :include:/list\n", "programs, files and includes"),
        ("a: ,\n", "aliases:1: it has no members"),
        ("a:\t\n", "aliases:1: it has no members"),
        ("b: c\na: ,\t,\n", "aliases:2: it has no members"),
        ("a b: c\n", "aliases:1: 'a b@example.org' is no address"),
        ("a: b\nb: a\n", "leads back to itself"),
        ("".join(f"a{n}: a{n + 1}\n" for n in range(12)), "leads on more than 10 times"),
        ("a: " + ",".join(f"b{n}" for n in range(101)), "has more than 100 members"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path, text, said):
    (tmp_path / "aliases").write_text(text)
    [mistake] = Aliases(AliasesSettings(domains=["example.net"], file="aliases")).check(Setup(tmp_path))
    assert said in mistake.message
    assert mistake.at == ("file",)
    with pytest.raises(ValueError, match="aliases:"):
        plugin(tmp_path, file="aliases")


def test_what_is_wrong_in_the_configuration():
    loop = Aliases(AliasesSettings(domains=["example.net"], aliases={"a": ["b"], "b": ["a"]}))
    [mistake] = loop.check(Setup(Path()))
    assert mistake.at == ("aliases",)
    [mistake] = Aliases(AliasesSettings(file="missing")).check(Setup(Path()))
    assert "missing" in mistake.message
    for aliases in ({"a": ["|x"]}, {"a b": ["c"]}, {"a": []}):
        with pytest.raises(ValidationError):
            AliasesSettings(aliases=aliases)


async def test_over_smtp_one_becomes_two_and_the_copy_keeps_its_options():
    made = Aliases(AliasesSettings(domains=["example.net"], aliases={"team": ["jane", "john"]}))
    delivery = await SessionDriver(made, domains=("example.net",)).deliver(
        MESSAGE, recipients=("team@example.net",)
    )
    assert delivery.reply.ok
    assert [str(one.address) for one in delivery.sent.recipients] == ["jane@example.net", "john@example.net"]
    assert delivery.mail.finding("aliases").props["original"] == "team@example.net"


async def test_behind_a_rewriter_the_new_address_is_looked_up():
    rewriter = AddressRewrite(
        AddressRewriteSettings(
            recipients={"domains": {"old.example.net": "example.net"}, "separator": "+", "tags": "drop"}
        )
    )
    made = Aliases(AliasesSettings(domains=["example.net"], aliases={"team": ["jane", "john"]}))
    for address in ("team@old.example.net", "team+x@example.net"):
        delivery = await SessionDriver(rewriter, made, domains=("example.net", "old.example.net")).deliver(
            MESSAGE, recipients=(address,)
        )
        assert [str(one.address) for one in delivery.sent.recipients] == [
            "jane@example.net",
            "john@example.net",
        ]


TEAM = {"team": ["jane", "john"], "desk": ["ann"]}


def driver(answers=None, before=(), after=(), clock=None, **settings):
    made = Aliases(AliasesSettings(domains=["example.net"], aliases=TEAM, **settings))
    upstream = Standin(
        answers={"john@example.net": Reply(550, "5.1.1", "No such user")} if answers is None else answers
    )
    return SessionDriver(*before, made, *after, domains=("example.net",), upstream=upstream, clock=clock)


async def heard(one, *recipients):
    """Return the codes of RCPT, without a message after them."""
    await one.say("MAIL FROM:<a@example.org>")
    replies = [(await one.say(f"RCPT TO:<{recipient}>"))[-1] for recipient in recipients]
    await one.say("RSET")
    return [f"{reply.code} {reply.status}" for reply in replies]


@pytest.mark.parametrize(
    ("settings", "reply"),
    [
        ({}, "451 4.2.4 A member of team@example.net is refused, try again later"),
        ({"refused_member": "reject"}, "550 5.2.4 A member of team@example.net is refused"),
    ],
)
async def test_a_refused_member_means_that_nobody_gets_it(settings, reply, caplog):
    delivery = await driver(**settings).deliver(MESSAGE, recipients=("team@example.net",))
    assert str(delivery.reply).startswith(reply)
    assert delivery.sent is None
    assert "team@example.net leads to john@example.net, which the next hop refuses" in caplog.text


async def test_a_refused_member_can_be_left_to_the_log():
    delivery = await driver(refused_member="deliver").deliver(MESSAGE, recipients=("team@example.net",))
    assert delivery.reply.ok
    assert [str(one.address) for one in delivery.sent.recipients] == ["jane@example.net"]


async def test_an_alias_whose_first_member_is_refused_is_refused_at_once():
    answers = {"jane@example.net": Reply(550, "5.1.1", "No such user")}
    delivery = await driver(answers).deliver(MESSAGE, recipients=("team@example.net", "ann@example.net"))
    assert delivery.reply.ok
    assert [str(one.address) for one in delivery.sent.recipients] == ["ann@example.net"]


async def test_others_are_kept_apart_from_an_alias_that_failed_lately():
    clock = FakeClock()
    one = driver(clock=clock)
    both = ("team@example.net", "ann@example.net")
    assert (await one.deliver(MESSAGE, recipients=both)).reply.code == 451
    assert await heard(one, *both) == ["250 2.1.5", "452 4.5.3"]
    assert await heard(one, *both[::-1]) == ["250 2.1.5", "452 4.5.3"]
    assert (await one.deliver(MESSAGE, recipients=both[::-1])).reply.ok
    clock.advance(90_000)
    assert await heard(one, *both) == ["250 2.1.5", "250 2.1.5"]


async def test_an_alias_that_is_whole_again_is_as_before():
    one = driver()
    await one.deliver(MESSAGE, recipients=("team@example.net",))
    one.upstream.answers.clear()
    assert (await one.deliver(MESSAGE, recipients=("team@example.net",))).reply.ok
    assert await heard(one, "team@example.net", "ann@example.net") == ["250 2.1.5", "250 2.1.5"]


async def test_a_member_that_another_plugin_has_renamed_is_not_missing():
    renamed = AddressRewrite(
        AddressRewriteSettings(recipients={"addresses": {"john@example.net": "j@example.net"}})
    )
    delivery = await driver({}, after=[renamed]).deliver(MESSAGE, recipients=("team@example.net",))
    assert delivery.reply.ok
    assert [str(one.address) for one in delivery.sent.recipients] == ["jane@example.net", "j@example.net"]


async def test_what_leads_to_several_can_go_into_the_queue():
    mail = make_mail(recipients=["team@example.net"])
    made = plugin(aliases=TEAM, route="queued")
    edits = await call(made, "rewrite_envelope", mail=mail, rcpt=mail.envelope.recipients[0])
    assert edits[-1] == SetRoute("queued")
    mail = make_mail(recipients=["desk@example.net"])
    edits = await call(made, "rewrite_envelope", mail=mail, rcpt=mail.envelope.recipients[0])
    assert not any(isinstance(edit, SetRoute) for edit in edits)
    [mistake] = made.check(Setup(Path()))
    assert mistake.at == ("route",)
    assert list(made.check(Setup(Path(), queue_routes=frozenset({"queued"})))) == []


NAMES = st.sampled_from(["a", "b", "c", "d", "e@example.net", "f@far.example"])


@given(st.dictionaries(NAMES, st.lists(NAMES, min_size=1, max_size=4).map(tuple)))
def test_any_table_ends_or_is_refused(members):
    try:
        table = AliasTable(members, frozenset({"example.net"}), 20)
    except ValueError:
        return
    for name in members:
        for address in table.expanded(read(name)) or ():
            assert str(address) == str(read(str(address)))


def read(name):
    return (
        make_mail(recipients=[name if "@" in name else f"{name}@example.net"]).envelope.recipients[0].address
    )


@example("a:\t")
@given(st.text(alphabet='ab:, \t"@|/', max_size=30))
def test_any_line_is_read_or_refused_with_its_number(text):
    try:
        found = read_lines([(7, text)])
    except ValueError as error:
        found = {str(error): "refused"} if str(error).startswith("7: ") else {}
    assert found
    assert all(found.values())
