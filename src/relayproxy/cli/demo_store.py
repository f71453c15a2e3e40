"""What the page of `relayproxy demo` knows: the proxy's log, the recorder's files and the upstream's messages, by id.

Bounded: the oldest entries go. Must not know HTML.
"""

import json
import re
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relayproxy.cli.demo_plugins import SHOWN
from relayproxy.model.message import Message

_KEPT = 200
_ID = re.compile(rb"\(relayproxy\) with [A-Z0-9]+ id ([a-z0-9]+\.[0-9]+);")
_GOOD_ID = re.compile(r"[a-z0-9]{1,20}\.[0-9]{1,9}\Z")
_WORDS = {"relayed": "accepted", "queued": "accepted", "resent": "accepted"}


@dataclass(frozen=True, slots=True)
class HookLine:
    """What one hook did; `seconds` is negative where that isn't known."""

    hook: str
    plugin: str
    seconds: float
    answer: str = ""
    error: str = ""


@dataclass(slots=True)
class Seen:
    """One message, as far as anything is known of it."""

    id: str
    time: str = ""
    sender: str = ""
    recipients: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    size: int = 0
    verdict: str = ""
    reply: str = ""
    seconds: float = -1.0
    client: str = ""
    subject: str = ""
    hooks: tuple[HookLine, ...] = ()
    findings: tuple[str, ...] = ()
    received: bytes = b""
    forwarded: bytes = b""


class Store:
    """The messages by id. `folder` is where the recorder writes."""

    def __init__(self, folder: Path, kept: int = _KEPT) -> None:
        self._folder = folder
        self._kept = kept
        self._seen: OrderedDict[str, Seen] = OrderedDict()

    def __iter__(self) -> Iterator[Seen]:
        """The newest first, without what takes long to read."""
        return map(self._with_subject, reversed(self._seen.values()))

    def __len__(self) -> int:
        return len(self._seen)

    def take_event(self, event: dict[str, Any]) -> Seen | None:
        """Learn from one event of the log; return the message that it is about, if it is about one."""
        id_ = str(event.get("id", ""))
        if event.get("event") not in ("message", "refused") or not _GOOD_ID.match(id_):
            return None
        seen = self._entry(id_)
        seen.time = str(event.get("time", ""))
        seen.sender = str(event.get("from", ""))
        seen.client = str(event.get("ip", ""))
        reply = str(event.get("reply", ""))
        if event["event"] == "refused":
            seen.refused.append((str(event.get("to", "")), reply))
            seen.verdict = seen.verdict or ("deferred" if reply.startswith("4") else "rejected")
            seen.reply = seen.reply or reply
            return seen
        seen.recipients = [str(to) for to in event.get("to", ())]
        seen.size = int(event.get("size", 0))
        outcome = str(event.get("outcome", ""))
        seen.verdict, seen.reply = _WORDS.get(outcome, outcome), reply
        seen.seconds = float(event.get("seconds", -1.0))
        hooks = event.get("hooks") or {}
        seen.hooks = tuple(
            HookLine(name.rpartition(".")[2], name.rpartition(".")[0], seconds)
            for name, seconds in hooks.items()
        )
        seen.findings = tuple(map(str, event.get("findings", ())))
        return seen

    def take_forwarded(self, content: bytes) -> None:
        """Learn what the upstream got; its id is in our own Received field."""
        found = _ID.search(content, 0, SHOWN)
        if found is not None:
            self._entry(found[1].decode()).forwarded = content[:SHOWN]

    def _entry(self, id_: str) -> Seen:
        if id_ not in self._seen:
            self._seen[id_] = Seen(id_)
            while len(self._seen) > self._kept:
                old, _ = self._seen.popitem(last=False)
                for suffix in (".eml", ".json"):
                    (self._folder / f"{old}{suffix}").unlink(missing_ok=True)
        return self._seen[id_]

    def find(self, id_: str) -> Seen | None:
        """Return all that is known about one message."""
        seen = self._seen.get(id_)
        if seen is None:
            return None
        seen.received = self._read(id_, ".eml")
        self._with_subject(seen)
        record = self._read(id_, ".json")
        if record:
            _complete(seen, record)
        return seen

    def _with_subject(self, seen: Seen) -> Seen:
        if not seen.subject and (octets := self._read(seen.id, ".eml")):
            seen.subject = Message.from_bytes(octets).subject
        return seen

    def _read(self, id_: str, suffix: str) -> bytes:
        try:
            return (self._folder / f"{id_}{suffix}").read_bytes()
        except OSError:
            return b""


def _complete(seen: Seen, record: bytes) -> None:
    """Put the recorder's words, which say more, in place of the log's."""
    try:
        facts = json.loads(record)
    except ValueError:
        return  # half written: the next look will see all of it
    seen.hooks = tuple(HookLine(*step) for step in facts["trace"])
    if facts["findings"]:
        seen.findings = tuple(map(_finding, facts["findings"]))


def _finding(finding: list[Any]) -> str:
    method, result, score, props, reason, by = finding
    words = [f"{method}={result}", *(f"{key}={value}" for key, value in props.items())]
    if score:
        words.append(f"score {score:+g}")
    if reason:
        words.append(f"({reason})")
    return " ".join([*words, f"by {by}"])
