"""dkim_sign: sign what our own users send with every key of the author's domain (RFC 6376, RFC 8301, RFC 8463).

A domain that has a key never leaves unsigned: a key that can't be read, a signature that fails, or a From that names
the domain among others stops the message. Must not know how a signature is made.
"""

import asyncio
import re
from collections.abc import Awaitable, Iterable, Iterator
from functools import lru_cache, partial
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from relayproxy.api import (
    AddHeader,
    App,
    Direction,
    Edits,
    Mail,
    Message,
    Mistake,
    Opinion,
    Plugin,
    Settings,
    Setup,
    hook,
    printable,
    reject,
    to_a_label,
)
from relayproxy.builtin._dkim_files import KeyFile, find_keys
from relayproxy.builtin._dkim_ring import Held, KeyRing
from relayproxy.builtin._lookup import ON_THE_LOOP
from relayproxy.builtin._quantities import Duration
from relayproxy.mailauth.canonical import body_digest
from relayproxy.mailauth.dkim_keys import KeyFault
from relayproxy.mailauth.dkim_sign import HEADERS, IF_PRESENT, check_names, sign
from relayproxy.mailauth.from_header import Author, read_author

_FIELD_NAME = re.compile(r"[!-9;-~]+\Z")
_NAMED = re.compile(r"@\s*([^\s<>()\[\],;:@\"\\?=]+)")
_LONGEST_FROM = 8192
_NEVER_SIGNED = frozenset({"dkim-signature", "received", "return-path"})  # RFC 6376 section 5.4.1


def _domain(value: str) -> str:
    return to_a_label(value.strip().rstrip("."))


def _signable(name: str) -> str:
    if not _FIELD_NAME.match(name):
        raise ValueError(f"{name!r} is not the name of a header field")
    if name.lower() in _NEVER_SIGNED:
        raise ValueError(f"{name} changes on the way and can't be signed")
    return name


def _sender(value: str) -> str:
    local, at, domain = value.strip().rpartition("@")
    return local.lower() + at + _domain(domain)


Domain = Annotated[str, AfterValidator(_domain)]
Sender = Annotated[str, AfterValidator(_sender)]
HeaderName = Annotated[str, AfterValidator(_signable)]


class NamedKey(Settings):
    """One key that is named, rather than found in the folder."""

    domain: Domain
    """The domain that signs (d=)."""
    selector: str
    """The selector (s=): the record is at SELECTOR._domainkey.DOMAIN."""
    key: str
    """The file of the private key: PEM, or the base64 of an Ed25519 seed."""
    senders: tuple[Sender, ...] = ()
    """Whose mail it signs, by From, in place of all of its domain: `news@example.org` is one author, `example.org` a
    domain, `.example.org` all domains below it. What is closest to the author counts."""


class Bound(Settings):
    """Who may have a domain's mail signed; nobody, if both are empty."""

    logins: frozenset[str] = frozenset()
    """Logins."""
    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    """Networks of the client."""


class DkimSignSettings(Settings):
    """Where the keys are, and what a signature is to cover."""

    keys: str | None = None
    """A folder of keys: DOMAIN/SELECTOR.key or DOMAIN.SELECTOR.key; the ending may also be .pem."""
    sign: tuple[NamedKey, ...] = ()
    """Keys named one by one."""
    parent_domains: bool = True
    """Whether a domain without a key of its own is signed with that of the domain above it."""
    require: bool = False
    """Whether mail of a domain without a key is refused (550 5.7.1) rather than left unsigned."""
    expire: Duration | None = None
    """How long a signature holds (x=), such as 7d: longer than mail may wait in queues."""
    headers: tuple[HeaderName, ...] = HEADERS
    """Header fields that are signed once more than they occur, so that none can be added."""
    headers_if_present: tuple[HeaderName, ...] = IF_PRESENT
    """Header fields for which this is done only where they occur."""
    bind: dict[Domain, Bound] = Field(default_factory=dict)
    """Who may have a domain (and those below it) signed. Without an entry: whoever may relay."""

    @model_validator(mode="after")
    def _some_key(self) -> "DkimSignSettings":
        if not self.keys and not self.sign:
            raise ValueError("name the keys: `keys` is a folder, `sign` a list")
        return self


def _key_file(one: NamedKey, folder: Path) -> KeyFile:
    try:
        check_names(one.domain, one.selector)
    except ValueError as error:
        raise KeyFault(f"{one.key}: {error}") from error
    return KeyFile(one.domain, one.selector, folder / Path(one.key).expanduser(), one.senders)


def key_files(options: DkimSignSettings, folder: Path) -> Iterator[KeyFile]:
    """Yield the keys that the settings name, without reading them; paths start at `folder`. Raises KeyFault."""
    for one in options.sign:
        yield _key_file(one, folder)
    if options.keys:
        yield from find_keys(folder / Path(options.keys).expanduser())


class AmbiguousAuthor(Exception):  # noqa: N818  (it is what From holds)
    """From doesn't name one author, but does name a domain that has a key."""


class DkimSign(Plugin[DkimSignSettings]):
    """Adds a DKIM-Signature for each key of the author's domain, as the last thing that is done to a message."""

    name = "dkim_sign"
    settings = DkimSignSettings
    signer = True
    directions = frozenset({Direction.OUTBOUND, Direction.INTERNAL})

    def check(self, setup: Setup) -> Iterator[Mistake]:
        """Read every key, as `startup` will."""
        folder = setup.folder
        for number, one in enumerate(self.options.sign):
            try:
                _key_file(one, folder).current()
            except KeyFault as fault:
                yield Mistake(str(fault), ("sign", number, "key"))
        try:
            found = find_keys(folder / Path(self.options.keys).expanduser()) if self.options.keys else ()
        except KeyFault as fault:
            yield Mistake(str(fault), ("keys",))
            return
        for file in found:
            try:
                file.current()
            except KeyFault as fault:
                yield Mistake(str(fault), ("keys",))

    @hook
    async def startup(self, app: App) -> None:
        """Find the keys and read each once; from now on their files are watched. Raises KeyFault."""
        self._clock = app.clock
        fields = ("From", *self.options.headers, *self.options.headers_if_present)
        self._covers = " ".join(dict.fromkeys(map(str.lower, fields)))
        self.ring = KeyRing(
            lambda: list(key_files(self.options, app.folder)),
            log=self.log,
            alarm=partial(app.alarm, self.name),
            clock=app.clock,
        )
        self.ring.load()
        self._watch = asyncio.create_task(self.ring.watch())

    @hook
    def shutdown(self) -> None:
        """Watch no longer."""
        self._watch.cancel()

    def _keys_for(self, domain: str, local: str = "") -> list[Held]:
        """Return the keys that sign for an author; those that are closest to it."""
        signers = self.ring.signers
        found = signers(f"{local.lower()}@{domain}") or signers(domain)
        for above in _above(domain):
            if found:
                break
            found = signers(f".{above}") or (signers(above) if self.options.parent_domains else [])
        return found

    def _signers(self, message: Message) -> tuple[str, list[Held]]:
        """Return the author's domain and its keys. Raises AmbiguousAuthor."""
        author, named = _author(message)
        if not author.anomalies:
            return author.domain, self._keys_for(author.domain, author.local)
        if named is None or any(domain in self.ring.authors or self._keys_for(domain) for domain in named):
            raise AmbiguousAuthor(author.reason)
        return "", []

    @hook
    def message(self, mail: Mail) -> Opinion:
        """Refuse what can't be signed in good faith: no single author, or a domain that isn't the client's to use.

        Otherwise note "dkim_sign" with what is going to be signed: `domains`, and the fields that it `covers`.
        """
        try:
            domain, keys = self._signers(mail.message)
        except AmbiguousAuthor as fault:
            return reject(f"This can't be signed: {fault}", reason=f"dkim_sign: {fault}")
        if not keys:
            if not self.options.require:
                return None
            return reject(f"There is no key to sign mail of {printable(domain or 'this author', 253)}")
        if not all(self._may(mail, one) for one in {domain, *(one.file.domain for one in keys)}):
            return reject(f"This client may not send mail of {printable(domain, 253)}")
        domains = " ".join(dict.fromkeys(one.file.domain for one in keys))
        mail.note("dkim_sign", "pass", domains=domains, covers=self._covers)
        return None

    def _may(self, mail: Mail, domain: str) -> bool:
        """Whether the client may have a domain signed: the entry of the domain counts, or of the next above it."""
        for name in (domain, *_above(domain)) if self.options.bind else ():
            bound = self.options.bind.get(name)
            if bound is not None:
                client = mail.client
                return (bool(client.identity) and client.identity in bound.logins) or (
                    bool(client.ip) and any(ip_address(client.ip) in network for network in bound.networks)
                )
        return True

    @hook
    def before_forward(self, mail: Mail) -> Edits | Awaitable[Edits]:
        """Add a signature for each key. Whatever is wrong is raised, so that the message is not sent."""
        keys = self._signers(mail.message)[1]
        if not keys:
            return None
        if mail.message.body_size > ON_THE_LOOP:
            return self._sign_large(mail.message, keys)
        return self._signatures(mail.message, keys, body_digest(mail.message))

    async def _sign_large(self, message: Message, keys: Iterable[Held]) -> Edits:
        return self._signatures(message, keys, await asyncio.to_thread(body_digest, message))

    def _signatures(self, message: Message, keys: Iterable[Held], body: bytes) -> list[AddHeader]:
        now = int(self._clock.time())
        expire = self.options.expire
        values = [
            sign(
                message,
                held.current(),
                domain=held.file.domain,
                selector=held.file.selector,
                now=now,
                expire=None if expire is None else now + int(expire),
                headers=self.options.headers,
                if_present=self.options.headers_if_present,
                body=body,
            )
            for held in keys
        ]
        return [AddHeader("DKIM-Signature", value) for value in values]


def _above(domain: str) -> Iterator[str]:
    while domain := domain.partition(".")[2]:
        yield domain


def _author(message: Message) -> tuple[Author, frozenset[str] | None]:
    """Return what From says, and, if it doesn't name one author, the domains that it names (None: can't be told).

    Only From and what may be taken for it are looked at, so the answer is remembered by their octets: both hooks
    ask, and few senders send one message only.
    """
    block = b"".join(field.raw for field in message.fields if field.name.lower() in ("", "from"))
    return _remembered(block) if len(block) <= 1000 else _read(block)


def _read(block: bytes) -> tuple[Author, frozenset[str] | None]:
    message = Message(block)
    author = read_author(message)
    if not author.anomalies:
        return author, frozenset()
    if len(block) > _LONGEST_FROM:
        return author, None
    text = "\n".join(text for field in message.fields for text in (field.value, field.text))
    return author, frozenset(_domain(name) for name in _NAMED.findall(text) if len(name) <= 253)


_remembered = lru_cache(1000)(_read)
