"""Write docs/errors.md from the table of codes, so that `relayproxy help` and the page say the same."""
# ruff: noqa: INP001  (a folder of pages is no package)

from relayproxy.config.codes import CODES

_INTRO = """\
# Errors of the configuration

`relayproxy check` shows every mistake in one run, each with its place, a likely fix, and a code. Codes are stable.
An error keeps a configuration from being used: `run` exits with 78, a reload keeps the one that is running. A warning
does not; `check --strict` exits with 1 for it. This page is written by `make docs`.
"""
_FAMILIES = {
    "RP1": "YAML, keys and secrets",
    "RP2": "Values",
    "RP3": "One part against another",
    "RP4": "Plugins",
    "RP5": "Files",
    "RP7": "Safety",
    "RP8": "Rules",
}


def render() -> str:
    """Return the page. Raises KeyError for a code of no family."""
    parts = [_INTRO]
    family = ""
    for code, (title, explanation) in CODES.items():
        if _FAMILIES[code[:3]] != family:
            family = _FAMILIES[code[:3]]
            parts.append(f"## {family}\n")
        parts.append(f"### {code}\n\n**{title}.** {explanation}\n")
    return "\n".join(parts)
