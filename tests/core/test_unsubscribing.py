"""Plugins read a token and keep what it says; a plugin that fails has the reader try again."""

import asyncio

import pytest

from relayproxy.api import Plugin, Unsubscription, hook
from relayproxy.core.unsubscribing import UnsubscribeFault, Unsubscribing
from relayproxy.testing.session import SessionDriver

WISH = Unsubscription("news.example.org", "a@example.net", 20_000, "tenant:shop")


class Reads(Plugin):
    name = "reads"

    @hook
    def read_token(self, token):
        return WISH if token == "good" else None


class Keeps(Plugin):
    name = "keeps"
    kept = ()

    @hook
    async def unsubscribed(self, wish):
        await asyncio.sleep(0)
        Keeps.kept = (*Keeps.kept, wish)


class Fails(Plugin):
    name = "fails"

    @hook
    def unsubscribed(self, wish):
        raise OSError("disk full")


class Hangs(Plugin):
    name = "hangs"
    default_timeout = 0.01

    @hook
    async def unsubscribed(self, wish):
        await asyncio.Event().wait()


def made(*plugins):
    driver = SessionDriver(*plugins)
    events = []
    services = driver.services
    return Unsubscribing(services.pipeline, log=services.log, now=lambda: 5.0, record=events.append), events


async def test_the_first_that_knows_a_token_reads_it():
    asked, _ = made(Keeps({}), Reads({}))
    assert await asked.read("good") == WISH
    assert await asked.read("bad") is None


async def test_all_keep_it_and_the_history_hears_of_it():
    Keeps.kept = ()
    asked, events = made(Reads({}), Keeps({}))
    await asked.keep(WISH, "192.0.2.1")
    assert Keeps.kept == (WISH,)
    (event,) = events
    assert (event.kind, event.at) == ("unsubscribe", 5.0)
    assert event.details == {"recipient": "a@example.net", "list": "news.example.org", "scope": "tenant:shop"}


@pytest.mark.parametrize("plugins", [(Fails({}),), (Keeps({}), Fails({})), (Hangs({}),), (Reads({}),)])
async def test_what_one_can_not_keep_was_not_kept(plugins):
    asked, events = made(*plugins)
    with pytest.raises(UnsubscribeFault):
        await asked.keep(WISH, "192.0.2.1")
    assert events == []
