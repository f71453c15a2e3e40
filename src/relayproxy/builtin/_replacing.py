"""A pattern and what an address that it matches becomes: RE2, so the time is linear in the address whatever the pattern.

The one plugin module that imports re2. Must not know addresses.
"""

import re

import re2

_LONGEST = 1000  # characters of a pattern
_MEMORY = 1 << 20  # octets of one automaton
_GROUP = re.compile(r"\\(.?)", re.DOTALL)


class PatternFault(ValueError):  # noqa: N818  (it is what is wrong with the pattern)
    """The pattern or the text that stands for a match can't be used; the message says why."""


class Replacement:
    r"""Matches all of a text, ignoring case, and writes another: `\1` to `\9` in `template` are the groups of the match.

    Raises PatternFault.
    """

    def __init__(self, pattern: str, template: str) -> None:
        if len(pattern) > _LONGEST:
            raise PatternFault(f"the pattern is longer than {_LONGEST} characters")
        options = re2.Options()
        options.case_sensitive = False
        options.log_errors = False
        options.max_mem = _MEMORY
        try:
            self._pattern = re2.compile(pattern, options)
        except re2.error as error:
            said = error.args[0]
            said = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
            raise PatternFault(f"{pattern!r} is no pattern: {said}") from error
        for group in _GROUP.findall(template):
            if group not in tuple("123456789") or int(group) > self._pattern.groups:
                raise PatternFault(f"\\{group} in {template!r} is no group of {pattern!r}")
        self._template = template

    def applied(self, text: str) -> str | None:
        """Return what `text` becomes, or None if the pattern doesn't match all of it."""
        match = self._pattern.fullmatch(text)
        if match is None:
            return None
        return _GROUP.sub(lambda group: match.group(int(group[1])) or "", self._template)
