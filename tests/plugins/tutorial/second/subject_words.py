"""Refuse or tag mail with an unwanted word in its subject."""

from typing import Literal

from pydantic import Field

from relayproxy.api import AddHeader, Edits, Mail, Opinion, Plugin, Settings, hook, reject


class SubjectWordsSettings(Settings):
    """What the YAML may say about this plugin."""

    words: tuple[str, ...] = Field(min_length=1)
    """The unwanted words, in any case."""
    action: Literal["reject", "tag"] = "reject"
    """Refuse the mail, or let it pass with a header field that says so."""


class SubjectWords(Plugin[SubjectWordsSettings]):
    """Note what was found; the settings say what follows."""

    name = "subject_words"
    settings = SubjectWordsSettings

    @hook
    def message(self, mail: Mail) -> Opinion:
        """Judge a message that has arrived whole."""
        subject = mail.message.subject.lower()
        found = next((word for word in self.options.words if word.lower() in subject), None)
        if found is None:
            return None
        mail.note("subject_words", "hit", score=2.0, word=found)
        if self.options.action == "tag":
            return None
        return reject("The subject of this message is not accepted here", reason=f"it has {found}")

    @hook
    def before_forward(self, mail: Mail) -> Edits:
        """Tag what had a hit and is on its way all the same."""
        if mail.finding("subject_words"):
            return AddHeader("X-Subject-Words", "yes")
        return None
