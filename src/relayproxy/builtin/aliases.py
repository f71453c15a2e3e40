"""aliases: one recipient becomes others, from a file as old mail servers have it, or from the configuration.

Must not know how aliases are written or where a name leads.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from relayproxy.api import (
    AddRecipient,
    App,
    Edit,
    Edits,
    Mail,
    Mistake,
    Opinion,
    Plugin,
    Recipient,
    ReplaceRecipient,
    SetRoute,
    Settings,
    Setup,
    defer,
    hook,
    reject,
)
from relayproxy.builtin._address_map import DomainName, WatchedFile
from relayproxy.builtin._alias_members import Members
from relayproxy.builtin._alias_table import AliasTable, read_lines, read_member, read_name

Name = Annotated[str, AfterValidator(read_name)]
Member = Annotated[str, AfterValidator(read_member)]


class AliasesSettings(Settings):
    """The aliases, and where names without a domain count."""

    domains: frozenset[DomainName] = frozenset()
    """The domains whose recipients names without a domain are for. A member without a domain is in that of the
    recipient."""
    aliases: dict[Name, Annotated[tuple[Member, ...], Field(min_length=1)]] = Field(default_factory=dict)
    """Names, or addresses, and what they lead to. These come before the same names of the file."""
    file: str = ""
    """A file of them in the form of aliases(5), read again when it changes."""
    max_members: int = Field(100, ge=1, le=1000)
    """Recipients that one may lead to."""
    route: str = ""
    """The route for what leads to several: one with `delivery: queue`, which tries each member and reports failures."""
    refused_member: Literal["defer", "reject", "deliver"] = "defer"
    """What the client hears when the next hop refuses a further member: `defer` and `reject` send the message to nobody,
    `deliver` sends it to the others, and only the log knows."""


class Aliases(Plugin[AliasesSettings]):
    """Replaces a recipient by the first that it leads to, and adds the others."""

    name = "aliases"
    settings = AliasesSettings
    after = ()

    def __init__(self, options: AliasesSettings) -> None:
        super().__init__(options)
        self._members = Members()

    def check(self, setup: Setup) -> Iterator[Mistake]:
        """The file has to be there, and no name may lead back to itself."""
        try:
            self._read(setup.folder)
        except (OSError, ValueError) as error:
            yield Mistake(str(error), ("file",) if self.options.file else ("aliases",))
        route = self.options.route
        if route and route not in setup.queue_routes:
            hint = f"one of {', '.join(sorted(setup.queue_routes))}" if setup.queue_routes else ""
            yield Mistake(f"there is no route {route!r} with delivery: queue", ("route",), hint)

    @hook
    def startup(self, app: App) -> None:
        """Read the file. Raises OSError and ValueError."""
        self._clock = app.clock
        self._table, self._file = self._read(app.folder)
        self._alarm = app.alarm

    @hook
    def rcpt(self, mail: Mail, rcpt: Recipient) -> Opinion:
        """Keep an alias that can't be delivered to from holding up other recipients (RFC 5321 section 4.5.3.1.10)."""
        others, now = mail.envelope.recipients, self._clock.monotonic()
        if others and any(self._members.is_bad(one.address, now) for one in (rcpt, *others)):
            return defer("Send this recipient in another transaction", code=452, status="4.5.3")
        return None

    @hook
    def rewrite_envelope(self, mail: Mail, rcpt: Recipient | None) -> Edits:
        """Note an alias as "aliases", and lead on to its members."""
        if rcpt is None:
            return None
        targets = self._current().expanded(rcpt.address)
        self._members.expect(mail, rcpt.address, targets or (rcpt.address,))
        if targets is None:
            return None
        mail.note("aliases", "pass", reason=f"{len(targets)} members", original=str(rcpt.address))
        first, *others = targets
        copies = (AddRecipient(Recipient(address, rcpt.notify, rcpt.orcpt)) for address in others)
        edits: list[Edit] = [ReplaceRecipient(rcpt.address, first), *copies]
        return [*edits, SetRoute(self.options.route)] if others and self.options.route else edits

    @hook
    def message(self, mail: Mail) -> Opinion:
        """Send it to all members or to nobody: a client that hears 250 is not told later (RFC 3463: X.2.4)."""
        missing = self._members.missing(mail, self._clock.monotonic())
        self._alarm(self.name, self._members.bad_count)
        if not missing or self.options.refused_member == "deliver":
            return None
        for alias, member in missing.items():
            self.log.error("%s: %s leads to %s, which the next hop refuses", mail.id, alias, member)
        text = f"A member of {next(iter(missing))} is refused"
        reason = "aliases: a member is refused"
        if self.options.refused_member == "reject":
            return reject(text, status="5.2.4", reason=reason)
        return defer(f"{text}, try again later", status="4.2.4", reason=reason)

    def _current(self) -> AliasTable:
        if self._file is None:
            return self._table
        if said := self._file.refresh(self._clock.monotonic()):
            self.log.error("%s; what was read before still holds", said)
        return self._file.content

    def _read(self, folder: Path) -> tuple[AliasTable, WatchedFile[AliasTable] | None]:
        table = self._table_of({})
        if not self.options.file:
            return table, None
        file = WatchedFile(folder / self.options.file, self._parse, folds=True)
        file.read()
        return table, file

    def _parse(self, lines: list[tuple[int, str]]) -> AliasTable:
        found = read_lines(lines)
        try:
            return self._table_of(found)
        except ValueError as error:
            raise ValueError(f" {error}") from None

    def _table_of(self, found: dict[str, tuple[str, ...]]) -> AliasTable:
        options = self.options
        return AliasTable({**found, **options.aliases}, options.domains, options.max_members)
