"""Text of strangers made fit for a terminal or a page: nothing in it can act on either, and it ends.

Must not know where it comes from, nor who reads it.
"""

_LONGEST = 120


def legible(text: str, limit: int = _LONGEST) -> str:
    """Return at most `limit` characters of a text, without control, bidirectional or invisible ones."""
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[: limit + 1])
    return clean if len(clean) <= limit else f"{clean[: limit - 1]}…"
