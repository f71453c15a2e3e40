"""MTA-STS (RFC 8461): what a domain says of the hosts that take its mail, and what of that holds now.

The policy file is fetched elsewhere. Must not know HTTP beyond a status and a media type, nor the clock.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from relayproxy.mailauth.lookup import Answer, Fetch
from relayproxy.model.reply import printable

MOST_OCTETS = 65_536
"""RFC 8461 section 3.3: a larger policy is refused by some."""

_NOT_HAD = "sts-policy-fetch-error"
_INVALID = "sts-policy-invalid"
_UNTRUSTED = "sts-webpki-invalid"
_YEAR = 31_557_600  # section 3.2: the most that max_age may say
_ID = re.compile(rb"v=STSv1\s*;.*?\bid\s*=\s*([A-Za-z0-9]{1,32})\s*(?:;|\Z)", re.DOTALL)
_STS = re.compile(rb"v=STSv1\s*(?:;|\Z)")
_PATTERN = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9._-]*[a-z0-9])?\Z")


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """What came for https://mta-sts.DOMAIN/.well-known/mta-sts.txt; with a `fault` nothing did."""

    status: int = 0
    text: bytes = b""
    media_type: str = ""
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy: `mode` is "enforce", "testing" or "none", `max_age` in seconds; `faults` are its mistakes."""

    mode: str = ""
    max_age: int = 0
    mx: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()

    def covers(self, host: str) -> bool:
        """Whether a pattern matches the name of an MX host (section 4.1): a wildcard stands for one label."""
        host = host.lower().rstrip(".")
        return host in self.mx or f"*.{host.partition('.')[2]}" in self.mx


def parse_policy(text: bytes) -> Policy:
    """Read a policy file (section 3.2), with all its mistakes."""
    keys: dict[str, list[str]] = {}
    faults = []
    for line in text.decode("utf-8", "replace").splitlines():
        key, colon, value = line.partition(":")
        if colon:
            keys.setdefault(key.strip(), []).append(value.strip())
        elif line.strip():
            faults.append(f"the line {printable(line, 60)!r} has no colon")
    if keys.get("version") != ["STSv1"]:
        faults.append("version: STSv1 is missing")
    mode = keys.get("mode", [""])[0]
    if mode not in ("enforce", "testing", "none"):
        faults.append("mode is not enforce, testing or none")
    age = keys.get("max_age", [""])[0]
    if not (age.isascii() and age.isdigit() and len(age) <= 8 and int(age) <= _YEAR):
        faults.append("max_age is not a number of seconds up to 31557600")
        age = "0"
    mx = tuple(pattern.lower().rstrip(".") for pattern in keys.get("mx", ()))
    faults += [f"mx: {printable(pattern, 100)} is no name" for pattern in mx if not _PATTERN.match(pattern)]
    if not mx and mode in ("enforce", "testing"):
        faults.append("there is no mx: line")
    return Policy(mode, int(age), mx, tuple(faults))


def sts_name(domain: str) -> str:
    """Return where the record is that a domain has a policy."""
    return f"_mta-sts.{domain}"


def sts_records(answer: Answer) -> list[bytes]:
    """Return the records of an answer that are about MTA-STS; more or less than one is as good as none (section 3.1)."""
    return [text for text in answer.records if _STS.match(text)]


def record_id(record: bytes) -> str:
    """Return the id of a record, "" for one without a good one."""
    found = _ID.match(record)
    return found[1].decode("ascii") if found else ""


# -- what holds now -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Held:
    """A policy that was fetched: under which id of the record, and when (seconds since the epoch)."""

    policy: Policy
    id: str
    fetched: float

    def holds(self, now: float) -> bool:
        """Whether it is still good: `max_age` seconds, however often fetching it fails meanwhile."""
        return now < self.fetched + self.policy.max_age

    def ages(self, now: float) -> bool:
        """Whether half its time is over: it is fetched anew then, so that it doesn't end while that can't be done."""
        return now >= self.fetched + self.policy.max_age / 2


@dataclass(frozen=True, slots=True)
class Found:
    """What holds for a domain, None if nothing, and what went wrong while it was looked for ("" for nothing).

    `result` is what went wrong in the words of RFC 8460 section 4.3.2.2, where there is one for it.
    """

    held: Held | None
    problem: str = ""
    result: str = ""


Get: TypeAlias = Callable[[str], Awaitable[PolicyFile]]
"""Fetches the policy file of a domain; never raises for what the other end does."""


async def current_policy(domain: str, held: Held | None, fetch: Fetch, get: Get, now: float) -> Found:
    """Return the policy of `domain` (section 5.1): the one that is `held`, or a newer one.

    What can't be had, by DNS or HTTPS, or can't be read, never ends a policy that still holds: an attacker could take
    it away otherwise. Only a newer policy does, and be it of mode none.
    """
    if held is not None and not held.holds(now):
        held = None
    (answer,) = await fetch([(sts_name(domain), "TXT")])
    if answer.failed:
        return Found(held, f"DNS gave no answer for {sts_name(domain)} ({answer.status.value})", _NOT_HAD)
    records = sts_records(answer)
    identity = record_id(records[0]) if len(records) == 1 else ""
    if not identity:
        return Found(held, f"the record {sts_name(domain)} is broken", _INVALID) if records else Found(held)
    if held is not None and held.id == identity and not held.ages(now):
        return Found(held)
    problem, result, policy = _read(await get(domain))
    if problem:
        return Found(held, f"the policy of {domain}: {problem}", result)
    return Found(Held(policy, identity, now))


def _read(file: PolicyFile) -> tuple[str, str, Policy]:
    """Return the problem and its result, and the policy."""
    if file.fault or file.status != 200:
        untrusted = "CERTIFICATE_VERIFY_FAILED" in file.fault
        return file.fault or f"status {file.status}", _UNTRUSTED if untrusted else _NOT_HAD, Policy()
    if len(file.text) > MOST_OCTETS:
        return f"it has more than {MOST_OCTETS} octets", _INVALID, Policy()
    policy = parse_policy(file.text)
    return "; ".join(policy.faults), _INVALID, policy
