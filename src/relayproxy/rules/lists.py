"""Lists that rules refer to by name: inline items, files read again when they change, DNS lists.

A list of text, domains, addresses, networks, globs or patterns holds a value or does not; a DNS list is asked. Must
not know which rule asks.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_address
from pathlib import Path
from typing import Any

from relayproxy.api import Resolver, to_a_label
from relayproxy.model.refused import quoted
from relayproxy.rules.facts import Ip
from relayproxy.rules.networks import Networks, parse_network
from relayproxy.rules.patterns import PatternError, Patterns, check, from_glob
from relayproxy.rules.problems import Flaw, FlawError, fail, guess
from relayproxy.rules.problems import Path as Place

TYPES = ("text", "domain", "address", "cidr", "glob", "regex", "dns")
KEYS = ("type", "items", "file", "zone", "answers")
_LARGEST_FILE = 64 << 20
_EVERY = 2.0
_LOOPBACK = IPv4Network("127.0.0.0/8")
_ERRORS = IPv4Network("127.255.255.0/24")


class LookupFailed(Exception):  # noqa: N818  (it says what happened, and ends as `on_error`)
    """A question that a rule depends on had no answer."""


class Holder:
    """Tells whether a folded value is among items of one type. Raises ValueError for an item that is none."""

    def __init__(self, kind: str, items: Iterable[str]) -> None:
        self._kind = kind
        self._words: frozenset[str] = frozenset()
        self._networks: Networks[bool] | None = None
        self._patterns: Patterns | None = None
        texts = list(items)
        match kind:
            case "cidr":
                self._networks = Networks((parse_network(text), True) for text in texts)
            case "glob" | "regex":
                patterns = [from_glob(text) if kind == "glob" else text for text in texts]
                self._patterns = Patterns(patterns)
            case "domain":
                self._words = frozenset(to_a_label(text.rstrip(".")) for text in texts)
            case _:
                self._words = frozenset(text.lower() for text in texts)

    def holds(self, value: Any) -> bool:
        """Whether `value` (folded text, or an address for networks) is in the list."""
        if self._networks is not None:
            return bool(self._networks.found(value))
        if self._patterns is not None:
            return bool(self._patterns.found(value))
        if value in self._words:
            return True
        if self._kind == "domain":
            cut = value.find(".")
            while cut >= 0:
                if value[cut:] in self._words:
                    return True
                cut = value.find(".", cut + 1)
        elif self._kind == "address":
            return value.rpartition("@")[2] in self._words
        return False


@dataclass(frozen=True, slots=True)
class ListSpec:
    """One list as written: `type` of TYPES, and its `items`, or its `file`, or for dns its `zone`."""

    name: str
    type: str
    items: tuple[str, ...] = ()
    file: str = ""
    zone: str = ""
    answers: tuple[str, ...] = ()


class Listing:
    """A list at work. `folder` is where relative paths start."""

    def __init__(self, spec: ListSpec, folder: Path) -> None:
        self.spec = spec
        self._path = folder / spec.file if spec.file else None
        self._stamp: tuple[int, int, int] | None = None
        self._looked = float("-inf")
        self._holder = Holder(spec.type, spec.items)
        self.fault = ""
        if self._path is not None:
            self._read(self._path)

    def _read(self, path: Path) -> None:
        """Read the file; raises OSError and ValueError (with the line) and then keeps what was."""
        status = path.stat()
        if status.st_size > _LARGEST_FILE:
            raise ValueError(f"{path} is larger than 64 MiB")
        items = []
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            text = line.partition("#")[0].strip()
            if not text:
                continue
            try:
                check_item(self.spec.type, text)
            except ValueError as error:
                raise ValueError(f"{path}:{number}: {error}") from error
            items.append(text)
        self._holder = Holder(self.spec.type, items)
        self._stamp = _stamp(status)

    def refresh(self, now: float) -> str:
        """Read the file again if it has changed, looking every two seconds at most; return what went wrong, once.

        `now` only ever grows. A file that is gone or wrong leaves the list as it was.
        """
        if self._path is None or now - self._looked < _EVERY:
            return ""
        self._looked = now
        try:
            if _stamp(self._path.stat()) == self._stamp:
                return ""
            self._read(self._path)
        except (OSError, ValueError) as error:
            said = str(error)
            fresh = said != self.fault
            self.fault = said
            return said if fresh else ""
        self.fault = ""
        return ""

    def holds(self, value: Any) -> bool:
        """Whether the value is in the list as it was last read."""
        return self._holder.holds(value)

    async def ask(self, resolver: Resolver, value: Any) -> bool:
        """Ask a DNS list (RFC 5782 section 2). Raises LookupFailed when nothing is known."""
        name = dns_name(value, self.spec.zone)
        if not name:
            return False
        answer = await resolver.query(name, "A")
        if answer.failed:
            raise LookupFailed(f"{self.spec.zone} did not answer about {value}")
        for record in answer.records:
            ip = IPv4Address(record)
            if ip in _ERRORS:
                raise LookupFailed(f"{self.spec.zone} answered with the error code {record}")
            if ip in _LOOPBACK and (not self.spec.answers or record in self.spec.answers):
                return True
        return False


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mtime_ns, status.st_size, status.st_ino


def dns_name(value: Ip | str | None, zone: str) -> str:
    """Return the name to ask a list about (RFC 5782 sections 2.1 and 2.4); "" for what can't be asked."""
    if value is None or value == "":
        return ""
    if isinstance(value, str):
        try:
            value = ip_address(value)
        except ValueError:
            return f"{to_a_label(str(value))}.{zone}"
    pointer = value.reverse_pointer
    return f"{pointer.removesuffix('.in-addr.arpa').removesuffix('.ip6.arpa')}.{zone}"


def check_item(kind: str, text: str) -> None:
    """Raise ValueError for an item that is no member of such a list."""
    if kind == "cidr":
        try:
            parse_network(text)
        except ValueError as error:
            raise ValueError(str(error)) from error
    elif kind in ("regex", "glob"):
        try:
            check(from_glob(text) if kind == "glob" else text)
        except PatternError as error:
            raise ValueError(f"{quoted(text)} is no pattern: {error}") from error
    elif kind == "domain" and (not text.strip(".") or "@" in text or " " in text or "*" in text):
        raise ValueError(f"{quoted(text)} is no domain")


def read_lists(value: Any, flaws: list[Flaw]) -> dict[str, ListSpec]:
    """Return the lists as written under `lists:`; what is wrong goes to `flaws`."""
    found: dict[str, ListSpec] = {}
    if value is None:
        return found
    if not isinstance(value, Mapping):
        flaws.append(
            Flaw(
                "RP110",
                ("lists",),
                "a mapping of names is wanted",
                "lists: {partners: {type: cidr, items: []}}",
            )
        )
        return found
    for name, given in value.items():
        try:
            found[name] = _read_list(name, given, ("lists", name))
        except FlawError as error:
            flaws.append(error.flaw)
    return found


def _read_list(name: str, given: Any, at: Place) -> ListSpec:
    if not isinstance(given, Mapping):
        raise fail(
            "RP110", at, "a list has a type and items, a file or a zone", "write {type: domain, items: [...]}"
        )
    for key in given:
        if key not in KEYS:
            raise fail(
                "RP101", (*at, key), f"unknown key {quoted(key)}", guess(key, KEYS, "keys here"), on_key=True
            )
    kind = given.get("type")
    if kind is None:
        raise fail("RP102", at, "key 'type' is missing", f"one of {', '.join(TYPES)}", on_key=True)
    if kind not in TYPES:
        raise fail(
            "RP202",
            (*at, "type"),
            f"{quoted(kind)} is no type of list",
            guess(str(kind), TYPES) or f"one of {', '.join(TYPES)}",
        )
    source = "zone" if kind == "dns" else "items or file"
    given_sources = [key for key in ("items", "file", "zone") if key in given]
    if len(given_sources) != 1 or (given_sources[0] == "zone") != (kind == "dns"):
        raise fail(
            "RP809",
            at,
            f"a list of type {kind} takes its members from {source}, and from one place only",
            on_key=True,
        )
    items = _texts(given.get("items", ()), (*at, "items"))
    for number, text in enumerate(items):
        try:
            check_item(kind, text)
        except ValueError as error:
            raise fail("RP820", (*at, "items", number), str(error)) from error
    for key in ("file", "zone"):
        if key in given and (not isinstance(given[key], str) or not given[key]):
            raise fail("RP110", (*at, key), "text is wanted")
    if "answers" in given and kind != "dns":
        raise fail("RP809", (*at, "answers"), "only a list of type dns has answers", on_key=True)
    answers = _texts(given.get("answers", ()), (*at, "answers"))
    for number, text in enumerate(answers):
        if not text.startswith("127."):
            raise fail(
                "RP820", (*at, "answers", number), "answers of DNS lists are in 127.0.0.0/8 (RFC 5782)"
            )
    return ListSpec(name, kind, items, given.get("file", ""), str(given.get("zone", "")).strip("."), answers)


def _texts(value: Any, at: Place) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        raise fail("RP110", at, "a list is wanted", "write it in brackets: [...]")
    for number, text in enumerate(value):
        if not isinstance(text, str) or not text:
            raise fail("RP110", (*at, number), "text is wanted", "quote it to make it text")
    return tuple(value)
