"""Which signatures of a message a change would break: said before the change is made (RFC 6376 section 3.7, RFC 8617).

A signature counts while what it says of the body is true: one that is broken already can't be broken again. Must not
know keys, DNS, or why anything is to be changed.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from relayproxy.mailauth.canonical import BodyForm, body_digests
from relayproxy.mailauth.dkim_tags import (
    Flaw,
    body_length,
    canonical_forms,
    host_name,
    items,
    octets_of,
    parse_tags,
)
from relayproxy.model.message import Message

MOST = 20
"""Signatures of a message that are looked at, from the top."""
_FIELDS = ("dkim-signature", "arc-message-signature")


@dataclass(frozen=True, slots=True)
class _Signed:
    domain: str
    form: BodyForm
    digest: bytes
    names: frozenset[str]


def broken_by_body(message: Message, body: bytes) -> tuple[str, ...]:
    """Return the domains (d=) whose signatures are good for the message's body and not for `body`."""
    signed = list(_whole(message))
    if not signed:
        return ()
    after = body_digests(Message(message.head, body), {one.form for one in signed})
    return _domains(one for one in signed if after[one.form].digest != one.digest)


def broken_by_fields(message: Message, names: Collection[str]) -> tuple[str, ...]:
    """Return the domains whose signatures cover one of the header fields `names`, or the lack of it."""
    lowered = {name.lower() for name in names}
    return _domains(one for one in _whole(message) if not one.names.isdisjoint(lowered))


def _whole(message: Message) -> Iterator[_Signed]:
    """Yield the signatures whose body hash is that of the message."""
    signed = list(_signatures(message))
    if signed:
        found = body_digests(message, {one.form for one in signed})
        yield from (one for one in signed if found[one.form].digest == one.digest)


def _signatures(message: Message) -> Iterator[_Signed]:
    fields = [field for field in message.fields if field.name.lower() in _FIELDS]
    for field in fields[:MOST]:
        try:
            tags = parse_tags(field.raw.partition(b":")[2])
            names = {name.decode("ascii", "replace").lower() for name in items(tags.get(b"h", b""))}
            yield _Signed(
                host_name(tags.get(b"d", b"")) or "a domain that can't be read",
                BodyForm(canonical_forms(tags.get(b"c", b"simple/simple"))[1], body_length(tags)),
                octets_of(tags, b"bh") if b"bh" in tags else b"",
                frozenset(names),
            )
        except Flaw:
            continue


def _domains(signed: Iterator[_Signed]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one.domain for one in signed))
