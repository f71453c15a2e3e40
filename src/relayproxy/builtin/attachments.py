"""attachments: refuse, hold, take out or note files that nobody should get by mail.

Names count in every way that a reader may read them, contents by their first octets; archives are listed, not
unpacked. What is taken out leaves a note in its place, and all other octets stay as they came. Must not know how a
file is recognised.
"""

import asyncio
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import AfterValidator, Field

from relayproxy.api import (
    AddHeader,
    DropHeader,
    Edit,
    Edits,
    Mail,
    Message,
    Mistake,
    Opinion,
    Plugin,
    ReplaceBody,
    Settings,
    Setup,
    hold,
    hook,
    reject,
)
from relayproxy.builtin._attachment_scan import Problem, Scan, Sort, Wanted
from relayproxy.builtin._content_kinds import KINDS
from relayproxy.builtin._macros import MacroReader, is_installed
from relayproxy.mailauth.dkim_impact import broken_by_body
from relayproxy.model.message import split_fields
from relayproxy.model.mime import Part, read_tree

Action: TypeAlias = Literal["block", "hold", "strip", "note", "allow"]

_LARGE = 1_048_576  # octets of a message above which another thread looks at it
_MOST_UNPACKED = 33_554_432  # octets of compressed files that are unpacked, and forgotten, to list tar files
_MOST_NOTED = 20
_NOTE_TYPE = "text/plain; charset=us-ascii"

EXTENSIONS = tuple(
    "ade adp apk app appcontent-ms application appref-ms appx bat cab chm cmd com cpl dll dmg ex_ exe gadget hlp hta "  # noqa: SIM905  (words are easier to read)
    "img ins inf isp iso jar js jse lib lnk mde msc msi msix msp mst nsh ocx pif ps1 ps1xml ps2 psc1 psm1 reg scf scr "
    "sct search-ms settingcontent-ms shb sys url vb vbe vbs vhd vhdx vxd wsc wsf wsh xll".split()
)
"""What systems run, or open as if it were part of them."""


def _extension(text: str) -> str:
    text = text.strip().lower().removeprefix(".")
    if not text or "." in text:
        raise ValueError(
            "write an extension without dots, such as exe: only what follows the last dot counts"
        )
    return text


def _kind(text: str) -> str:
    if text not in KINDS:
        raise ValueError(f"there is no kind {text!r}; there are {', '.join(sorted(KINDS))}")
    return text


Extension = Annotated[str, AfterValidator(_extension)]
Kind = Annotated[str, AfterValidator(_kind)]


class AttachmentsSettings(Settings):
    """What is done about each sort of problem, what is dangerous, and how far is looked."""

    dangerous: Action = "block"
    """A name or content that is dangerous, in an archive too. Of the actions, `block` refuses the message, `hold` keeps
    it for a human, `strip` takes the part out, `note` only notes a finding, `allow` does nothing."""
    disguised: Action = "block"
    """Content that is not what the name promises, or a name that is shown otherwise than it is."""
    macros: Action = "note"
    """Office files that hold macros."""
    look_at_macros: bool = False
    """Whether macros are read, for the two below: needs `pip install 'relayproxy[macros]'`."""
    macros_autoexec: Action = "note"
    """Macros that start by themselves, as when the file is opened."""
    macros_suspicious: Action = "note"
    """Macros that do what malware does, such as to start programs, and those that can't be read."""
    encrypted: Action = "note"
    """Archives whose files are encrypted."""
    nested: Action = "note"
    """Archives in archives."""
    bomb: Action = "block"
    """Archives that unpack to more than `max_ratio` times their size, and to more than 10 MiB."""
    unreadable: Action = "note"
    """What can't be looked into: broken archives, kinds that aren't listed, and what is beyond a limit."""
    extensions: tuple[Extension, ...] = EXTENSIONS
    """The extensions that are dangerous; a list here takes the place of the built-in one."""
    more_extensions: tuple[Extension, ...] = ()
    """Further ones."""
    kinds: tuple[Kind, ...] = ("executable", "shortcut", "cabinet", "help", "disk-image")
    """The kinds of content that are dangerous, whatever the name says."""
    score: float = 3.0
    """What each problem adds to the score of the message."""
    max_entries: int = Field(1000, ge=1, le=10_000)
    """Files of an archive that are looked at."""
    max_ratio: float = Field(100.0, gt=1)
    """How many times its size an archive may unpack to."""
    max_size: int = Field(33_554_432, ge=65_536, le=1_073_741_824)
    """Octets of a part, as it is encoded, up to which it is looked into."""


class Attachments(Plugin[AttachmentsSettings]):
    """Looks once the message is there, and once more before it goes out if something is to be taken out."""

    name = "attachments"
    settings = AttachmentsSettings
    after = ()
    default_timeout = 20.0

    def __init__(self, options: AttachmentsSettings) -> None:
        super().__init__(options)
        self._wanted = Wanted(
            frozenset((*options.extensions, *options.more_extensions)),
            frozenset(options.kinds),
            options.max_entries,
            options.max_ratio,
            options.max_size,
            2 * options.max_size,
            10 * options.max_entries,
            _MOST_UNPACKED,
        )
        self._reader = MacroReader() if options.look_at_macros else None

    def check(self, setup: Setup) -> Iterable[Mistake]:  # noqa: ARG002  (what is installed is everybody's)
        """Say what has to be installed."""
        if self.options.look_at_macros and not is_installed():
            yield Mistake(
                "oletools, which reads macros, is not installed",
                ("look_at_macros",),
                "pip install 'relayproxy[macros]'",
            )

    @hook
    async def message(self, mail: Mail) -> Opinion:
        """Note every problem; refuse or hold for the first that asks for it."""
        verdicts: list[Opinion] = []
        problems = await self._scanned(mail.message)
        for problem in problems:
            action = self._action(problem)
            if len(verdicts) < _MOST_NOTED:
                mail.note(
                    "attachments",
                    "hit",
                    score=self.options.score,
                    reason=problem.detail,
                    problem=problem.sort,
                    action=action,
                    name=problem.name,
                )
            verdicts.append(_verdict(problem, action))
        if not problems:
            mail.note("attachments", "pass")
        wanted = [verdict for verdict in verdicts if verdict is not None]
        return max(wanted, key=lambda verdict: verdict.action) if wanted else None

    @hook
    async def before_forward(self, mail: Mail) -> Edits:
        """Take out what `strip` stands for, and leave a note in its place."""
        if not any(getattr(self.options, name) == "strip" for name in _SORTS):
            return None
        edits, count, broken = await self._taken_out(mail.message)
        if edits:
            named = f", which breaks the signature of {', '.join(broken)}" if broken else ""
            self.log.warning("%s: attachments taken out: %d%s", mail.id, count, named)
            props = {"broken": " ".join(broken)} if broken else {}
            mail.note("attachments", "policy", score=0.0, reason=f"taken out: {count}", **props)
        return edits

    async def _taken_out(self, message: Message) -> tuple[list[Edit], int, tuple[str, ...]]:
        """Return the edits, how many parts they take out, and whose signatures they break."""
        stripped: dict[int, tuple[Part, Problem]] = {}
        for problem in await self._scanned(message):
            if problem.part is not None and self._action(problem) == "strip":
                stripped.setdefault(problem.part.body, (problem.part, problem))
        if not stripped:
            return [], 0, ()
        edits, broken = await asyncio.to_thread(_replaced, message, tuple(stripped.values()))
        return edits, len(stripped), broken

    async def _scanned(self, message: Message) -> list[Problem]:
        """Return the problems that something is to be done about."""
        if message.size > _LARGE:
            scan = await asyncio.to_thread(self._scan, message)
            found = await asyncio.to_thread(list, scan.problems())
        else:
            scan = self._scan(message)
            # An archive of few octets can take as long as a large message.
            found = await asyncio.to_thread(list, scan.problems()) if scan.is_deep else list(scan.problems())
        if self._reader is not None:
            found += await self._reader.problems(message, scan.documents())
        return [problem for problem in found if self._action(problem) != "allow"]

    def _scan(self, message: Message) -> Scan:
        return Scan(message, read_tree(message), self._wanted)

    def _action(self, problem: Problem) -> Action:
        action: Action = getattr(self.options, problem.sort)
        # There is no part that could be taken out of what can't be read at all.
        return "block" if action == "strip" and problem.part is None else action


_SORTS = get_args(Sort)


def _verdict(problem: Problem, action: Action) -> Opinion:
    reason = f"attachments: {problem.sort}: {problem.detail}"
    if action == "hold":
        return hold(reason)
    if action != "block":
        return None
    if problem.part is None:
        return reject(f"The message is not accepted: {problem.detail}", reason=reason)
    text = f'The attachment "{problem.name}" is not accepted: {problem.detail}'
    if problem.sort == "bomb":
        return reject(text, code=552, status="5.7.0", reason=reason)
    return reject(text, reason=reason)


def _replaced(
    message: Message, stripped: Iterable[tuple[Part, Problem]]
) -> tuple[list[Edit], tuple[str, ...]]:
    """Return the edits that put notes in the place of parts, and whose signatures they break."""
    edits = list(_without(message, stripped))
    body = next(edit.body for edit in edits if isinstance(edit, ReplaceBody))
    return edits, broken_by_body(message, body)


def _without(message: Message, stripped: Iterable[tuple[Part, Problem]]) -> Iterator[Edit]:
    """Yield the edits that put notes in the place of parts."""
    pieces: list[bytes] = []
    place = 0
    for part, problem in sorted(stripped, key=lambda one: one[0].body):
        if part.start < place:
            continue  # it is within one that has gone
        note = f'The attachment "{problem.name}" was removed: {problem.detail}.'.encode("ascii", "replace")
        if part.depth == 0:
            for name in ("Content-Type", "Content-Transfer-Encoding", "Content-Disposition"):
                yield DropHeader(name)
            yield AddHeader("Content-Type", _NOTE_TYPE, bottom=True)
            yield ReplaceBody(note + b"\r\n")
            return
        pieces += (message.body_part(place, part.start), _header(message, part), note)
        place = part.stop
    pieces.append(message.body_part(place, message.body_size))
    yield ReplaceBody(b"".join(pieces))


def _header(message: Message, part: Part) -> bytes:
    """Return the header of the note: that of the part, without what it says about the content."""
    fields = split_fields(message.body_part(part.start, part.body))
    kept = [field.raw for field in fields if not field.name.lower().startswith("content-")]
    return b"".join((*kept, b"Content-Type: ", _NOTE_TYPE.encode(), b"\r\n\r\n"))
