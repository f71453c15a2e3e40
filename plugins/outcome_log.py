"""Write what became of each message to a file, as one line of JSON for each recipient.

    - outcome_log: {file: /var/log/relayproxy/outcomes.jsonl}

A thread writes, so a slow disk slows no mail down; what can't be written is named in the log and dropped. The file
is opened anew each time and may be renamed (logrotate) at any time. It holds addresses: decide who may read it.
"""

import asyncio
import json
import queue
import threading
from collections.abc import Iterator
from pathlib import Path

from relayproxy.api import App, Mail, Mistake, Outcome, Plugin, Settings, Setup, hook


class OutcomeLogSettings(Settings):
    """Where to write."""

    file: Path
    """The file, from the folder of the configuration."""


class OutcomeLog(Plugin[OutcomeLogSettings]):
    """Hand texts to a writer; None among them tells it to end."""

    name = "outcome_log"
    settings = OutcomeLogSettings

    def check(self, setup: Setup) -> Iterator[Mistake]:
        """The file comes by itself; its folder doesn't."""
        folder = (setup.folder / self.options.file).parent
        if not folder.is_dir():
            yield Mistake(f"there is no folder {folder}", ("file",))

    @hook
    def startup(self, app: App) -> None:
        """Start the writer."""
        self._clock = app.clock
        self._file = app.folder / self.options.file
        self._texts: queue.Queue[str | None] = queue.Queue(10_000)
        self._writer = threading.Thread(target=self._write, name="outcome_log", daemon=True)
        self._writer.start()

    @hook
    def after_forward(self, mail: Mail, outcomes: tuple[Outcome, ...]) -> None:
        """Take the facts down and return at once; +queue as the route means that it is stored, and attempts follow."""
        self._take(mail, outcomes)

    @hook
    def after_attempt(self, mail: Mail, outcomes: tuple[Outcome, ...]) -> None:
        """Take down what an attempt of the queue came to."""
        self._take(mail, outcomes)

    def _take(self, mail: Mail, outcomes: tuple[Outcome, ...]) -> None:
        facts = {
            "time": round(self._clock.time(), 3),
            "id": mail.id,
            "ip": mail.client.ip,
            "from": str(mail.envelope.sender),
            "size": mail.message.size,
        }
        lines = [json.dumps({**facts, **_about(outcome)}) + "\n" for outcome in outcomes]
        try:
            self._texts.put_nowait("".join(lines))
        except queue.Full:
            self.log.warning("%s is too slow: %s is not in it", self._file, mail.id)

    @hook
    async def shutdown(self) -> None:
        """Let the writer finish."""
        await asyncio.to_thread(self._texts.put, None)
        await asyncio.to_thread(self._writer.join)

    def _write(self) -> None:
        while (text := self._texts.get()) is not None:
            try:
                with self._file.open("a", encoding="utf-8") as file:
                    file.write(text)
            except OSError as error:
                self.log.warning("%s, so it lacks %s", error, text)


def _about(outcome: Outcome) -> dict[str, str]:
    to = str(outcome.recipient.address)
    return {"to": to, "route": outcome.route, "state": outcome.state.value, "reply": str(outcome.reply)}
