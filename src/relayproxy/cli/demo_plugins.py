"""The plugins of `relayproxy demo`: one that refuses and defers by the subject, one that records for the page.

They run in the proxy's workers. The recorder leaves files in the demo's folder; the page reads them in another process.
"""

import json
from pathlib import Path

from relayproxy.api import Client, Mail, Opinion, Plugin, Settings, defer, hook, reject
from relayproxy.model.finding import Finding
from relayproxy.model.mail import Step

SHOWN = 262_144
"""Octets of a message that are kept for the page."""


class DemoWordsSettings(Settings):
    """Words in the subject and what they lead to."""

    refuse: tuple[str, ...] = ("lottery",)
    """Mail with one of these is refused."""
    postpone: tuple[str, ...] = ("later",)
    """Mail with one of these is deferred."""


class DemoWords(Plugin[DemoWordsSettings]):
    """Refuse or defer mail by the words of its subject."""

    name = "demo_words"
    settings = DemoWordsSettings
    after = ()

    @hook
    def message(self, mail: Mail) -> Opinion:
        """Judge a message that has arrived whole."""
        words = mail.message.subject.lower().split()
        for word in self.options.refuse:
            if word in words:
                mail.note("demo_words", "hit", score=5.0, word=word)
                return reject("The subject of this message is not accepted here", reason=f"it has {word}")
        for word in self.options.postpone:
            if word in words:
                mail.note("demo_words", "hit", score=1.0, word=word)
                return defer("Not now, try again later", reason=f"it has {word}")
        mail.note("demo_words", "miss")
        return None


class DemoRecorderSettings(Settings):
    """Where the records go."""

    folder: Path
    """A folder that the page reads."""


class DemoRecorder(Plugin[DemoRecorderSettings]):
    """Keep what arrived, and what each hook said to it, for the page."""

    name = "demo_recorder"
    settings = DemoRecorderSettings
    after = ()

    def __init__(self, options: DemoRecorderSettings) -> None:
        super().__init__(options)
        # A trace is complete once the client has its answer. A refused message has no report hook, so the trace of a
        # connection's last message is looked at when the connection goes on or ends.
        self._last: dict[str, tuple[str, list[Step]]] = {}

    @hook
    def message(self, mail: Mail) -> Opinion:
        """Keep the octets as they came."""
        self._finish(mail.client.id)
        self._last[mail.client.id] = mail.id, mail.trace
        head = mail.message.head[:SHOWN]
        body = bytes(mail.message.body[: SHOWN - len(head)])
        (self.options.folder / f"{mail.id}.eml").write_bytes(head + body)
        return None

    @hook
    def after_forward(self, mail: Mail) -> None:
        """The message was handed on, and its findings are complete."""
        self._last.pop(mail.client.id, None)
        self._write(mail.id, mail.trace, mail.findings)

    @hook
    def session_closed(self, client: Client) -> None:
        """Nothing more comes of this connection."""
        self._finish(client.id)

    def _finish(self, connection: str) -> None:
        known = self._last.pop(connection, None)
        if known is not None:
            self._write(*known, ())

    def _write(self, id_: str, trace: list[Step], findings: tuple[Finding, ...]) -> None:
        record = {
            "trace": [
                [step.hook, step.plugin, round(step.seconds, 6), step.answer, step.error] for step in trace
            ],
            "findings": [[f.method, f.result, f.score, dict(f.props), f.reason, f.by] for f in findings],
        }
        (self.options.folder / f"{id_}.json").write_text(json.dumps(record), "utf-8")
