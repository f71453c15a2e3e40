"""Plugins made in one line, and a gate that lets hooks end in the order that a test chooses."""

import asyncio

from relayproxy.api import Plugin, Settings, hook

RAW = b"From: <a@example.org>\r\nMessage-ID: <1@example.org>\r\nSubject: x\r\n\r\nhello\r\n"


def plugin(name, **members):
    """Return an instance of a plugin class with these members; functions become hooks of the names they get."""
    hooks = {}
    for key, value in members.items():
        if callable(value):
            value.__name__ = key
            hooks[key] = value if hasattr(value, "relayproxy_impl") else hook(value)
        else:
            hooks[key] = value
    return type(name.title(), (Plugin,), {"name": name, "__module__": __name__, **hooks})(Settings())


def answering(answer, note=None):
    """Return a message hook that answers at once, and notes a finding called `note`."""

    def message(_self, mail):
        if note:
            mail.note(note, "hit")
        return answer

    return message


class Gate:
    """Holds hooks until the test opens them; `started` lists them in the order in which they were called."""

    def __init__(self):
        self.started = []
        self.ended = []
        self.cancelled = []
        self.seen = {}
        self._doors = {}
        self._news = asyncio.Event()

    def member(self, name, answer=None):
        """Return a hook that waits at its door, notes its name and answers."""
        self._doors[name] = asyncio.Event()

        async def held(_self, mail):
            self.seen[name] = [finding.method for finding in mail.findings]
            self._tell(self.started, name)
            try:
                await self._doors[name].wait()
            except asyncio.CancelledError:
                self._tell(self.cancelled, name)
                raise
            self._tell(self.ended, name)
            mail.note(name, "hit")
            return answer

        return held

    def _tell(self, where, name):
        where.append(name)
        self._news.set()

    def open(self, *names):
        """Let these go on; without names all of them."""
        for name in names or self._doors:
            self._doors[name].set()

    async def until(self, what):
        """Wait until `what()` is true, looking whenever a hook begins or ends."""
        async with asyncio.timeout(5):
            while not what():
                self._news.clear()
                await self._news.wait()

    async def until_started(self, *names):
        """Wait until exactly these hooks have been called."""
        await self.until(lambda: set(names) <= set(self.started))
        assert set(self.started) == set(names)
