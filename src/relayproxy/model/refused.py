"""What is said about something that an admin wrote and that can't be meant, for all that read such things.

Must not know where it was written.
"""

_LONGEST = 60


class Refused(ValueError):  # noqa: N818  (what the admin wrote is no error of the program)
    """A value that can't be meant: `message` says what is wrong, `hint` what to write instead, or "".

    With `beyond` it is of the right form, and too large, too small or too long.
    """

    def __init__(self, message: str, hint: str = "", *, beyond: bool = False) -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.message, self.hint, self.beyond = message, hint, beyond


def quoted(value: object) -> str:
    """Return a foreign value as a message shows it: on one line, printable, in quotes, not too long."""
    text = value if isinstance(value, str) else str(value)
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 3] + "..."
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)
    return f"'{shown}'"
