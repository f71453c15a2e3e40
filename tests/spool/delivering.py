"""A process that delivers one message to many, and says what the next hop was told and answered; to be killed.

    delivering.py FOLDER RUN

Run 0 stores the message. Each run is later than the leases of the one before. "begin NAMES" says that a transaction
begins, "took NAMES" that the next hop has answered it, "event KIND NAME" is for the history, "told KIND NAMES" is a
notification that was sent, "end" that nothing is left.
"""

import asyncio
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.spool.test_scheduler import NEVER, Bench, Hop, Transaction

from relayproxy.model.envelope import Envelope, Recipient
from relayproxy.model.mail import Mail
from relayproxy.model.message import Message
from relayproxy.model.queued import Part
from relayproxy.model.reply import Reply
from relayproxy.spool.lanes import Schedule
from relayproxy.testing.mail import make_address

COUNT = 700
AFTER_LEASES = 120.0

NAMES = [f"u{number}@example.net" for number in range(COUNT)]
REFUSED = set(NAMES[3::7])
ASKED = set(NAMES[::10]) - REFUSED
"""Who is to be confirmed, as the sender asks and the next hop does not."""


def say(*words: str) -> None:
    os.write(1, f"{' '.join(words)}\n".encode())


class Speaking(Transaction):
    """One that says what it does."""

    async def recipients(self, wanted: Sequence[Recipient]) -> list[Reply]:
        self._sender = str(self._envelope.sender)
        if self._sender:
            say("begin", *(str(one.address) for one in wanted))
        return await super().recipients(wanted)

    async def send(self, lead: bytes, message: Message) -> list[Reply]:
        replies = await super().send(lead, message)
        if self._sender:
            say("took", *(str(one.address) for one in self._taken))
        else:
            text = (lead + bytes(message)).decode()
            (kind,) = set(re.findall(r"^Action: (\w+)", text, re.MULTILINE))
            say("told", kind, *re.findall(r"^Final-Recipient: rfc822; ?(\S+)", text, re.MULTILINE))
        return replies


class SpeakingHop(Hop):
    def begin(self, mail: Mail, _size: int) -> Speaking:
        return Speaking(self, mail.envelope)


class Speaker:
    """A history that is said."""

    def record(self, event: Any) -> None:
        say("event", event.kind, str(event.recipient))


async def main(folder: Path, run: int) -> None:
    hop = SpeakingHop()
    hop.answers = dict.fromkeys(REFUSED, NEVER)
    bench = Bench(folder, Schedule(retry=(0.05,), expire=86_400.0, warn=0.0), hop)
    bench.clock.ahead = run * AFTER_LEASES
    bench.history = Speaker()
    if not run:
        to = tuple(
            Recipient(make_address(name), ("SUCCESS", "FAILURE") if name in ASKED else ()) for name in NAMES
        )
        await bench.put(envelope=Envelope(make_address("s@example.org"), to), parts=(Part("up", to),))
    bench.worker().start()
    await bench.until_left(0)
    await bench.close()
    say("end")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
