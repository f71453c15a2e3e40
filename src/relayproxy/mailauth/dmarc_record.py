"""DMARC policy records (RFC 9989 section 4.7): read, forgiving what the RFC forgives and nothing else.

Must not know where a record was found.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache

POLICIES = ("none", "quarantine", "reject")
"""The policies from mildest to strictest."""

_LONGEST = 16_384  # octets; real records have a hundred
_REMEMBERED = 2048  # octets of the records that are remembered; those of all real policies are
_NAME = re.compile(r"[A-Za-z]+\Z")
_BLANKS = " \t"
_VERSION = re.compile(rb"[vV][ \t]*=[ \t]*DMARC1[ \t]*(?:;|\Z)")
_URI = re.compile(r"[ \t]*([A-Za-z][A-Za-z0-9+.-]*:[^\s,!]+)(?:![0-9]+[kmgt]?)?[ \t]*\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class DmarcRecord:
    """One record. `p`, `sp` and `np` are policies; the latter two are "" where the record doesn't have them.

    `usable` is False for a record that must not be acted upon (section 4.10.1): without a valid p, and nowhere
    to send reports. `adkim` and `aspf` are "r" or "s", `psd` is "y", "n" or "u", `t` says that the owner is
    testing. `rua` and `ruf` are URIs as written, without the size limits of older records. `text` is the record
    as published (odd octets as U+FFFD).
    """

    p: str = "none"
    sp: str = ""
    np: str = ""
    adkim: str = "r"
    aspf: str = "r"
    psd: str = "u"
    t: bool = False
    rua: tuple[str, ...] = ()
    ruf: tuple[str, ...] = ()
    fo: str = "0"
    usable: bool = True
    text: str = field(default="", compare=False)

    def policy_for(self, *, subdomain: bool, exists: bool = True) -> str:
        """Return the policy for the domain of the record, or for a (non-existent) domain below it."""
        policy = self.p
        if subdomain:
            policy = (not exists and self.np) or self.sp or self.p
        if self.t:  # section 4.7: handled as if the policy were one level lower
            return POLICIES[max(0, POLICIES.index(policy) - 1)]
        return policy


def parse_record(text: bytes) -> DmarcRecord | None:
    """Return the record that the octets of a TXT record hold, or None if they hold another thing.

    Of tags that are there twice the first counts; unknown tags and broken ones are ignored. The same records come
    again and again, and are remembered.
    """
    return _remembered(text) if len(text) <= _REMEMBERED else _parse(text)


def _parse(text: bytes) -> DmarcRecord | None:
    if len(text) > _LONGEST or not _VERSION.match(text):
        return None
    shown = text.decode("ascii", "replace")
    tags = tags_of(shown)
    policies = {name: tags[name].lower() for name in ("p", "sp", "np") if name in tags}
    rua = _uris(tags.get("rua", ""))
    usable = True
    if "p" not in policies or any(policy not in POLICIES for policy in policies.values()):
        policies = {"p": "none"}
        usable = bool(rua)
    return DmarcRecord(
        **policies,
        adkim=_one_of(tags, "adkim", "rs"),
        aspf=_one_of(tags, "aspf", "rs"),
        psd=_one_of(tags, "psd", "uyn"),
        t=_one_of(tags, "t", "ny") == "y",
        rua=rua,
        ruf=_uris(tags.get("ruf", "")),
        fo=tags.get("fo", "0"),
        usable=usable,
        text=shown,
    )


def tags_of(text: str) -> dict[str, str]:
    """Return the tags behind the version, names in lower case; of tags that are there twice, the first."""
    tags: dict[str, str] = {}
    for part in text.split(";")[1:]:
        name, equals, value = part.partition("=")
        name = name.strip(_BLANKS)
        if equals and _NAME.match(name):
            tags.setdefault(name.lower(), value.strip(_BLANKS))
    return tags


def is_record(text: bytes) -> bool:
    """Whether the octets of a TXT record begin as a DMARC record does."""
    return _VERSION.match(text) is not None


def _one_of(tags: dict[str, str], name: str, letters: str) -> str:
    """Return the value of a tag that is one letter; the first of `letters` is the default."""
    value = tags.get(name, "").lower()
    return value if len(value) == 1 and value in letters else letters[0]


def _uris(value: str) -> tuple[str, ...]:
    found = (_URI.match(part) for part in value.split(","))
    return tuple(uri[1] for uri in found if uri)


_remembered = lru_cache(1000)(_parse)
