"""dkim_sign: sign what our own users send, with every key of the domain in From (RFC 6376, RFC 8301, RFC 8463).

- dkim_sign: {keys: /etc/relayproxy/dkim}

A domain that has a key never leaves unsigned: a key that can't be read, or a signature that fails, defers the mail.
"""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from relayproxy.api import (
    AddHeader,
    App,
    Client,
    Clock,
    Direction,
    Edits,
    Mail,
    Opinion,
    Plugin,
    Settings,
    hook,
    reject,
    to_a_label,
)
from relayproxy.mailauth.canonical import body_hash
from relayproxy.mailauth.dkim_keys import KeyFault, SigningKey, read_key
from relayproxy.mailauth.dkim_sign import IF_PRESENT, OVERSIGNED, sign
from relayproxy.mailauth.from_header import Author, read_author

_SUFFIXES = (".key", ".pem")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_REMEMBERED = 1000
_NOBODY = Author()
_AMBIGUOUS = frozenset({"several-fields", "several-mailboxes"})


def _seconds(value: object) -> object:
    """Read `7d`, `12h`, `30m` or `90s`."""
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("write a number and a unit: 7d, 12h")
    return int(found[1]) * _UNITS[found[2]]


def _domain(value: str) -> str:
    return to_a_label(value.strip().rstrip("."))


Domain = Annotated[str, AfterValidator(_domain)]


class KeySettings(Settings):
    """One key that is named, rather than found in the folder."""

    domain: Domain
    """The domain that signs (d=)."""
    selector: str
    """The selector (s=): the record is at SELECTOR._domainkey.DOMAIN."""
    key: str
    """The file of the private key: PEM, or the base64 of an Ed25519 seed."""
    senders: tuple[Domain, ...] = ()
    """Domains in From that this key signs besides its own."""


class Bound(Settings):
    """Who may have a domain's mail signed; anyone trusted, when a domain isn't listed."""

    logins: tuple[str, ...] = ()
    """Logins."""
    networks: tuple[str, ...] = ()
    """Networks of the client."""


class DkimSignSettings(Settings):
    """Where the keys are, and what a signature is to cover."""

    keys: str | None = None
    """A folder with keys: DOMAIN/SELECTOR.key or DOMAIN.SELECTOR.key (also .pem)."""
    sign: tuple[KeySettings, ...] = ()
    """Keys named one by one."""
    parent_domains: bool = True
    """Whether a subdomain without a key of its own is signed with its parent's."""
    require: bool = False
    """Whether mail from a domain without a key is refused (550 5.7.1) instead of left unsigned."""
    expire: Annotated[int, BeforeValidator(_seconds)] | None = None
    """How long a signature is valid (x=), such as 7d; longer than mail may wait in queues."""
    oversigned: tuple[str, ...] = OVERSIGNED
    """Header fields that are signed once more than they occur, so that none can be added."""
    if_present: tuple[str, ...] = IF_PRESENT
    """Header fields that are signed where they occur."""
    bind: dict[Domain, Bound] = Field(default_factory=dict)
    """For a domain, who may have it signed."""


@dataclass(slots=True)
class KeyFile:
    """A key file as it was when last read."""

    domain: str
    selector: str
    path: Path
    senders: tuple[str, ...] = ()
    stamp: tuple[int, int] = (0, 0)
    key: SigningKey | None = None

    def current(self) -> SigningKey:
        """Return the key, read again if its file has changed. Raises OSError and KeyFault."""
        facts = self.path.stat()
        stamp = (facts.st_mtime_ns, facts.st_size)
        if self.key is None or stamp != self.stamp:
            self.key = None
            self.key, self.stamp = read_key(self.path.read_bytes()), stamp
        return self.key


class DkimSign(Plugin[DkimSignSettings]):
    """Adds a DKIM-Signature for each key of the author's domain, as the last thing that is done to a message."""

    name = "dkim_sign"
    settings = DkimSignSettings
    signer = True
    directions = frozenset({Direction.OUTBOUND, Direction.INTERNAL})

    def __init__(self, options: DkimSignSettings) -> None:
        super().__init__(options)
        if not options.keys and not options.sign:
            raise ValueError("dkim_sign needs 'keys' (a folder) or 'sign' (a list)")
        self._keys: dict[str, list[KeyFile]] = {}
        self._authors: dict[str, tuple[bytes, Author]] = {}
        self._networks = {
            domain: [ipaddress.ip_network(network) for network in bound.networks]
            for domain, bound in options.bind.items()
        }
        self._clock: Clock

    @hook
    def startup(self, app: App) -> None:
        """Find the keys and read each once: a bad one is an error now, not with the first mail."""
        self._clock = app.clock
        files = [
            KeyFile(one.domain, one.selector, app.folder / Path(one.key).expanduser(), one.senders)
            for one in self.options.sign
        ]
        if self.options.keys:
            files += _found(app.folder / Path(self.options.keys).expanduser())
        for file in files:
            try:
                key = file.current()
            except OSError as error:
                raise KeyFault(f"{file.path}: {error.strerror}") from error
            except KeyFault as fault:
                raise KeyFault(f"{file.path}: {fault}") from fault
            if key.algorithm.startswith("rsa") and key.bits < 2048:
                self.log.warning("%s: RSA with %d bits; 2048 are wanted today", file.path, key.bits)
            for domain in (file.domain, *file.senders):
                self._keys.setdefault(domain, []).append(file)

    def _keys_for(self, domain: str) -> list[KeyFile]:
        while domain:
            if domain in self._keys:
                return self._keys[domain]
            if not self.options.parent_domains:
                break
            domain = domain.partition(".")[2]
        return []

    @hook
    def message(self, mail: Mail) -> Opinion:
        """Refuse what can't be signed truthfully: an ambiguous author, or a domain that is not the sender's to use."""
        author = read_author(mail.message)
        if len(self._authors) >= _REMEMBERED:
            self._authors.clear()
        self._authors[mail.id] = (mail.message.head, author)
        if _AMBIGUOUS.intersection(author.anomalies):
            return reject("From must name one author to be signed here")
        keys = self._keys_for(author.domain)
        if not keys:
            return (
                reject(f"No key to sign for {author.domain or 'this author'}")
                if self.options.require
                else None
            )
        if not self._may(mail.client, keys[0].domain, author.domain):
            return reject(f"This client may not send as {author.domain}")
        return None

    def _may(self, client: Client, *domains: str) -> bool:
        for domain in domains:
            bound = self.options.bind.get(domain)
            if bound is None:
                continue
            if client.identity and client.identity in bound.logins:
                continue
            if client.ip and any(
                ipaddress.ip_address(client.ip) in network for network in self._networks[domain]
            ):
                continue
            return False
        return True

    @hook
    def before_forward(self, mail: Mail) -> Edits:
        """Sign with every key of the domain; raising defers the mail, so that it never leaves unsigned."""
        head, author = self._authors.pop(mail.id, (b"", _NOBODY))
        if head is not mail.message.head:
            # Another plugin has edited the header since.
            author = read_author(mail.message)
        keys = self._keys_for(author.domain)
        if not keys:
            return None
        now = int(self._clock.time())
        hashed = body_hash(mail.message.body)[0]
        return [
            AddHeader(
                "DKIM-Signature",
                sign(
                    mail.message,
                    file.current(),
                    domain=file.domain,
                    selector=file.selector,
                    now=now,
                    expire=now + self.options.expire if self.options.expire else 0,
                    oversigned=self.options.oversigned,
                    if_present=self.options.if_present,
                    hashed=hashed,
                ),
            )
            for file in keys
        ]


def _found(folder: Path) -> list[KeyFile]:
    """List the keys of a folder by their names. Raises KeyFault."""
    if not folder.is_dir():
        raise KeyFault(f"the key folder {folder} is not there")
    files: list[KeyFile] = []
    for path in sorted(folder.rglob("*")):
        if path.suffix not in _SUFFIXES or not path.is_file():
            continue
        parts = path.relative_to(folder).with_suffix("").parts
        domain, selector = (
            parts if len(parts) == 2 else (parts[0].rpartition(".")[0], parts[0].rpartition(".")[2])
        )
        if len(parts) > 2 or not domain or not selector:
            raise KeyFault(f"{path}: wanted DOMAIN/SELECTOR{path.suffix} or DOMAIN.SELECTOR{path.suffix}")
        files.append(KeyFile(_domain(domain), selector, path))
    if not files:
        raise KeyFault(f"no key in {folder}: wanted DOMAIN/SELECTOR.key")
    return files
