"""From what rules ask for to edits of the mail, which the core applies.

Must not know which rule asked, nor whether the edit will be applied.
"""

from collections.abc import Iterable, Iterator

from relayproxy.api import (
    AddHeader,
    AddRecipient,
    Address,
    DropHeader,
    Edit,
    Mail,
    Recipient,
    ReplaceHeader,
    ReplaceRecipient,
    RequireTls,
    SetRoute,
    to_a_label,
)
from relayproxy.rules import acts
from relayproxy.rules.facts import Facts
from relayproxy.rules.texts import encoded, for_address, for_header


def field_edits(fields: Iterable[acts.Field], facts: Facts) -> Iterator[Edit]:
    """Yield the edits of header fields."""
    for act in fields:
        value = encoded(act.value.render(facts, for_header)) if act.value is not None else ""
        match act.how:
            case "add":
                yield AddHeader(act.name, value)
            case "replace":
                yield ReplaceHeader(act.name, value)
            case "remove":
                yield DropHeader(act.name)
            case _:
                yield from _prefixed(value, facts.mail)


def _prefixed(prefix: str, mail: Mail) -> Iterator[Edit]:
    """Mark the subject once; what stands there keeps its octets, but for the blanks at its ends."""
    subject = mail.message.header("Subject") or ""
    if not subject.startswith(prefix):
        yield ReplaceHeader("Subject", f"{prefix} {subject}".strip())


def address_edits(acts: Iterable[acts.Address], facts: Facts, rcpt: Recipient) -> Iterator[Edit]:
    """Yield the edits of one recipient, and copies. Raises ValueError for what makes no address."""
    new = rcpt.address
    copies = []
    for act in acts:
        text = act.value.render(facts, for_address)
        match act.how:
            case "redirect":
                new = _address(text)
            case "local":
                new = _address(f"{text}@{new.domain}")
            case "domain":
                new = _address(f"{new.local}@{text}")
            case _:
                copies.append(Recipient(_address(text), notify=("NEVER",)))
    if new != rcpt.address:
        yield ReplaceRecipient(rcpt.address, new)
    yield from map(AddRecipient, copies)


def onward_edits(onward: Iterable[acts.Onward]) -> Iterator[Edit]:
    """Yield the edits of how the message goes on; of several routes the last counts."""
    for act in onward:
        yield SetRoute(act.route) if act.route else RequireTls()


def _address(text: str) -> Address:
    local, _, domain = text.rpartition("@")
    if not local or not domain or "@" in local:
        raise ValueError(f"{text!r} is no address")
    return Address(local, domain if domain.isascii() else to_a_label(domain))
