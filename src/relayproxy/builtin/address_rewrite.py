"""address_rewrite: other envelope addresses, by lists, files, patterns, domains, tags, and a box for all that is left.

What is rewritten is the envelope, before the next hop is asked, so the client hears the answer about the new address.
The header stays as it came unless the admin says that senders change there, too. Must not know how a file is watched or a pattern matched.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from relayproxy.api import (
    Address,
    App,
    Edits,
    Mail,
    Mistake,
    Plugin,
    Recipient,
    ReplaceHeader,
    ReplaceRecipient,
    SetSender,
    Settings,
    Setup,
    hook,
)
from relayproxy.builtin._address_map import (
    AddressKey,
    AddressText,
    DomainName,
    WatchedFile,
    folded,
    read_address,
)
from relayproxy.builtin._replacing import PatternFault, Replacement
from relayproxy.mailauth.dkim_impact import broken_by_fields


class Pattern(Settings):
    """One pattern and what it makes of an address."""

    match: str
    r"""A regular expression (RE2) for all of an address, ignoring case, as in `(.*)@old\.example`."""
    to: str
    r"""The address that it becomes; `\1` to `\9` are what the groups in brackets matched."""

    @model_validator(mode="after")
    def _usable(self) -> "Pattern":
        try:
            Replacement(self.match, self.to)
        except PatternFault as fault:
            raise ValueError(str(fault)) from None
        return self


class Rewriting(Settings):
    """How addresses are rewritten. The first that applies counts: address, file, pattern, domain."""

    addresses: dict[AddressKey, AddressText] = Field(default_factory=dict)
    """Addresses and what they become."""
    file: str = ""
    """A file of them, read again when it changes: on each line an address and what it becomes, with blanks between."""
    patterns: tuple[Pattern, ...] = ()
    """Patterns, in their order."""
    domains: dict[DomainName, DomainName] = Field(default_factory=dict)
    """Domains and what they become; the local part stays."""
    separator: str = Field("", max_length=1)
    """What begins a tag in a local part, mostly `+`: an address with a tag that nothing else applies to is looked up
    without it. Empty: there are no tags."""
    tags: Literal["keep", "drop"] = "keep"
    """Whether a tag goes on to what the address without it becomes, or is dropped, also where nothing else applies."""


class AddressRewriteSettings(Settings):
    """What is rewritten."""

    recipients: Rewriting = Rewriting()
    """How recipients are rewritten."""
    senders: Rewriting = Rewriting()
    """How envelope senders are rewritten; the null sender always stays."""
    header: bool = False
    """Whether addresses in From, Sender and Reply-To become what `senders` makes of them, too."""
    signed: Literal["skip", "break"] = "skip"
    """What is done with a header whose change would break a signature: left as it is, or changed."""
    catch_all: dict[DomainName, AddressText] = Field(default_factory=dict)
    """Where recipients of a domain go that nothing else applies to and that are none of `known`."""
    known: frozenset[AddressKey] = frozenset()
    """Recipients that are there, and never go to `catch_all`."""
    known_file: str = ""
    """A file of them, one on each line, read again when it changes."""


_SENDERS = ("from", "sender", "reply-to")
# An address begins where a word does, so that a long text without one is gone through once.
_ADDRESS = re.compile(
    r"(?<![A-Za-z0-9!#$%&'*+/=?^_`{|}~.-])[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@[A-Za-z0-9.-]{0,252}[A-Za-z0-9]"
)


class _Rewriter:
    """A Rewriting at work. Raises OSError and ValueError for a file that can't be used."""

    def __init__(self, how: Rewriting, folder: Path) -> None:
        self._how = how
        self._patterns = [Replacement(one.match, one.to) for one in how.patterns]
        self.file = WatchedFile(folder / how.file, _parse_map) if how.file else None
        if self.file is not None:
            self.file.read()

    def rewritten(self, address: Address) -> Address | None:
        """Return what an address becomes, or None if nothing applies. Raises ValueError for what is no address."""
        found = self._looked_up(address)
        plain = self.plain(address)
        if found is not None or plain == address:
            return found
        found = self._looked_up(plain)
        if found is None or self._how.tags == "drop":
            return found
        tag = address.local[len(plain.local) :]
        return read_address(f"{found.local}{tag}@{found.domain}")

    def plain(self, address: Address) -> Address:
        """Return an address without its tag."""
        separator = self._how.separator
        base, found, _ = address.local.partition(separator) if separator else ("", "", "")
        return Address(base, address.domain) if found and base and base[0] != '"' else address

    def without_tag(self, address: Address) -> Address | None:
        """Return the address without its tag if tags are dropped and it has one."""
        plain = self.plain(address)
        return plain if self._how.tags == "drop" and plain != address else None

    def _looked_up(self, address: Address) -> Address | None:
        key = folded(address)
        new = self._how.addresses.get(key) or (self.file.content.get(key) if self.file else None)
        if new is None:
            texts = (one.applied(str(address)) for one in self._patterns)
            new = next((text for text in texts if text is not None), None)
        if new is not None:
            return read_address(new)
        domain = self._how.domains.get(address.ascii_domain)
        return Address(address.local, domain) if domain else None


class AddressRewrite(Plugin[AddressRewriteSettings]):
    """Rewrites at MAIL and at RCPT."""

    name = "address_rewrite"
    settings = AddressRewriteSettings
    after = ()

    def check(self, setup: Setup) -> Iterator[Mistake]:
        """The files have to be there and readable line by line."""
        for at, file in _files(self.options, setup.folder):
            try:
                file.read()
            except (OSError, ValueError) as error:
                yield Mistake(str(error), at)

    @hook
    def startup(self, app: App) -> None:
        """Read the files. Raises OSError and ValueError."""
        self._clock = app.clock
        self._recipients = _Rewriter(self.options.recipients, app.folder)
        self._senders = _Rewriter(self.options.senders, app.folder)
        known = self.options.known_file
        self._known = WatchedFile(app.folder / known, _parse_list) if known else None
        if self._known is not None:
            self._known.read()

    @hook
    def rewrite_envelope(self, mail: Mail, rcpt: Recipient | None) -> Edits:
        """Rewrite the sender or a recipient; note what it was as "address_rewrite"."""
        self._refresh()
        if rcpt is None:
            sender = mail.envelope.sender
            new = self._tried(mail, self._senders, sender) if sender.domain else None
            return SetSender(new) if new and new != sender else None
        new = self._tried(mail, self._recipients, rcpt.address)
        return ReplaceRecipient(rcpt.address, new) if new and new != rcpt.address else None

    @hook
    def before_forward(self, mail: Mail) -> Edits:
        """Rewrite the senders in the header, if that is wanted and breaks no signature."""
        if not self.options.header:
            return None
        self._refresh()
        edits = list(self._header_edits(mail))
        if not edits:
            return None
        broken = broken_by_fields(mail.message, {edit.name for edit in edits})
        if broken:
            skip = self.options.signed == "skip"
            told = "stays, as its signature would break" if skip else "changes, which breaks its signature"
            self.log.warning("%s: the header %s: %s", mail.id, told, ", ".join(broken))
            mail.note("address_rewrite", "none" if skip else "pass", reason=f"the header {told}")
            return None if skip else edits
        return edits

    def _header_edits(self, mail: Mail) -> Iterator[ReplaceHeader]:
        counts: Counter[str] = Counter()
        for field in mail.message.fields:
            name = field.name.lower()
            if name not in _SENDERS:
                continue
            value = (
                field.raw.partition(b":")[2].replace(b"\r\n", b"").decode("utf-8", "surrogateescape").strip()
            )
            new = _ADDRESS.sub(lambda found: self._in_header(mail, found[0]), value)
            if new != value:
                try:
                    yield ReplaceHeader(field.name, new, counts[name])
                except ValueError as error:
                    self.log.warning("%s: %s in the header stays: %s", mail.id, field.name, error)
            counts[name] += 1

    def _in_header(self, mail: Mail, text: str) -> str:
        try:
            return str(self._tried(mail, self._senders, read_address(text)) or text)
        except ValueError:
            return text  # it looks like an address and is none

    def _tried(self, mail: Mail, rewriter: _Rewriter, address: Address) -> Address | None:
        try:
            new = rewriter.rewritten(address)
        except ValueError as error:
            mail.note("address_rewrite", "none", reason=f"the address stays: {error}")
            self.log.warning("%s: %s stays: %s", mail.id, address, error)
            return None
        if new is None and rewriter is self._recipients:
            new = self._caught(rewriter.plain(address))
        new = new or rewriter.without_tag(address)
        if new is not None and new != address:
            mail.note("address_rewrite", "pass", reason="rewritten", original=str(address))
        return new

    def _caught(self, address: Address) -> Address | None:
        box = self.options.catch_all.get(address.ascii_domain)
        key = folded(address)
        if box is None or key in self.options.known or (self._known and key in self._known.content):
            return None
        return read_address(box)

    def _refresh(self) -> None:
        for file in (self._recipients.file, self._senders.file, self._known):
            if file is not None and (said := file.refresh(self._clock.monotonic())):
                self.log.error("%s; what was read before still holds", said)


def _files(
    options: AddressRewriteSettings, folder: Path
) -> Iterator[tuple[tuple[str, ...], WatchedFile[object]]]:
    for key, rewriting in (("recipients", options.recipients), ("senders", options.senders)):
        if rewriting.file:
            yield (key, "file"), WatchedFile[object](folder / rewriting.file, _parse_map)
    if options.known_file:
        yield ("known_file",), WatchedFile[object](folder / options.known_file, _parse_list)


def _parse_map(lines: Iterable[tuple[int, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, line in lines:
        words = line.split()
        if len(words) != 2:
            raise ValueError(f"{number}: wanted an address and what it becomes")
        try:
            key = folded(read_address(words[0]))
            new = str(read_address(words[1]))
        except ValueError as error:
            raise ValueError(f"{number}: {error}") from None
        if key in found:
            raise ValueError(f"{number}: {words[0]} is there twice")
        found[key] = new
    return found


def _parse_list(lines: Iterable[tuple[int, str]]) -> frozenset[str]:
    found = set()
    for number, line in lines:
        try:
            found.add(folded(read_address(line)))
        except ValueError as error:
            raise ValueError(f"{number}: {error}") from None
    return frozenset(found)
