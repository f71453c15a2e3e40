"""Refuse, hold or tag mail with a listed word in its subject.

- subject_words:
    words: [lottery, wire transfer]
    action: hold
"""

import re
from typing import Annotated, Literal

from pydantic import Field

from relayproxy.api import AddHeader, Direction, Edits, Mail, Opinion, Plugin, Settings, hold, hook, reject


class SubjectWordsSettings(Settings):
    """Which words, and what then."""

    words: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)
    """Words or phrases; capitals don't matter, and "art" is not found in "party"."""
    action: Literal["reject", "hold", "tag"] = "reject"
    """`reject` refuses the mail, `hold` keeps it for a human, `tag` adds `X-Subject-Words: yes` to it."""
    score: float = 0.0
    """What a hit adds to the score of the mail."""


class SubjectWords(Plugin[SubjectWordsSettings]):
    """Look at the subject as people see it, encoded-words decoded."""

    name = "subject_words"
    settings = SubjectWordsSettings
    after = ()
    directions = frozenset({Direction.INBOUND})

    def __init__(self, options: SubjectWordsSettings) -> None:
        super().__init__(options)
        words = "|".join(r"\s+".join(map(re.escape, word.split())) for word in options.words)
        self._pattern = re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE)

    @hook
    def message(self, mail: Mail) -> Opinion:
        """Note what was found, and decide."""
        found = self._pattern.search(mail.message.subject)
        if found is None:
            return None
        mail.note("subject_words", "hit", score=self.options.score, word=found[0])
        if self.options.action == "reject":
            return reject(
                "The subject of this message is not accepted here", reason=f"subject has {found[0]!r}"
            )
        return hold(f"subject has {found[0]!r}") if self.options.action == "hold" else None

    @hook
    def before_forward(self, mail: Mail) -> Edits:
        """Tag what is still on its way and had a hit."""
        return AddHeader("X-Subject-Words", "yes") if mail.finding("subject_words") else None
