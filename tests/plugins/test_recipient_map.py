import pytest

from relayproxy.api import Direction, Recipient
from relayproxy.testing.mail import call, make_address

PEOPLE = """\
# people
ana@example.com
Luis@Example.com   # on leave
@lists.example.com
eva@Müller.example
"""


@pytest.fixture
async def ask(load, app, tmp_path):
    """Start the plugin over a file and return a function that asks it about an address."""
    (tmp_path / "people").write_text(PEOPLE)
    plugin = load("recipient_map", file="people", separator="+")
    await call(plugin, "startup", app=app)

    async def about(address):
        verdict = await call(plugin, "rcpt", rcpt=Recipient(make_address(address)))
        return str(verdict.reply) if verdict else None

    return about


@pytest.mark.parametrize(
    "address",
    [
        "ana@example.com",
        "ANA@EXAMPLE.COM",
        "luis@example.com",
        "ana+news@example.com",
        "anybody@lists.example.com",
        "eva@müller.example",
        "eva@xn--mller-kva.example",
        "postmaster@example.com",
        "Postmaster@example.com",
        "postmaster",
        "nobody@elsewhere.example",
    ],
)
async def test_taken(ask, address):
    assert await ask(address) is None


@pytest.mark.parametrize(
    ("address", "reply"),
    [
        ("nobody@example.com", "550 5.1.1 There is no nobody at example.com"),
        ("+news@example.com", "550 5.1.1 There is no +news at example.com"),
        ("nobody@MÜLLER.example", "550 5.1.1 There is no nobody at xn--mller-kva.example"),
        ("jörg@example.com", "550 5.1.1 There is no j?rg at example.com"),
    ],
)
async def test_refused(ask, address, reply):
    assert await ask(address) == reply


async def test_a_changed_file_is_read_again(ask, tmp_path):
    assert await ask("new@example.com") is not None
    (tmp_path / "people.new").write_text(PEOPLE + "new@example.com\n")
    (tmp_path / "people.new").replace(tmp_path / "people")
    assert await ask("new@example.com") is None


async def test_a_missing_file_is_a_fault_and_no_refusal(ask, tmp_path):
    (tmp_path / "people").unlink()
    with pytest.raises(FileNotFoundError):
        await ask("nobody@example.com")


async def test_an_empty_file_is_a_fault_and_no_refusal(ask, tmp_path):
    (tmp_path / "people").write_text("# nobody yet\n")
    with pytest.raises(ValueError, match="lists nobody"):
        await ask("nobody@example.com")
    with pytest.raises(ValueError, match="lists nobody"):
        await ask("nobody@example.com")
    (tmp_path / "people").write_text(PEOPLE)
    assert await ask("ana@example.com") is None


async def test_without_its_file_the_worker_does_not_start(load, app):
    with pytest.raises(FileNotFoundError):
        await call(load("recipient_map", file="absent"), "startup", app=app)


def test_it_is_asked_about_mail_to_our_own_domains(load):
    assert load("recipient_map", file="x").directions == {Direction.INBOUND, Direction.INTERNAL}


async def test_without_a_separator_the_whole_local_part_counts(load, app, tmp_path):
    (tmp_path / "people").write_text(PEOPLE)
    plugin = load("recipient_map", file="people")
    await call(plugin, "startup", app=app)
    verdict = await call(plugin, "rcpt", rcpt=Recipient(make_address("ana+news@example.com")))
    assert verdict.reply.status == "5.1.1"
