"""Organizational domains by the public suffix list that publicsuffixlist ships: DMARC's way before RFC 9989.

The one module that imports it. Loading the list takes a fraction of a second and some megabytes, so import this
only where it is asked for.
"""

from functools import lru_cache

from publicsuffixlist import PublicSuffixList

_LIST = PublicSuffixList()


@lru_cache(4096)
def organizational_domain(domain: str) -> str:
    """Return the public suffix of `domain` (A-labels) and one label more; a public suffix as it is."""
    return str(_LIST.privatesuffix(domain) or domain)
