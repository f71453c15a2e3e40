"""Refuse mail with an unwanted word in its subject."""

from relayproxy.api import Mail, Opinion, hook, reject

WORDS = ("lottery", "jackpot")


@hook
def message(mail: Mail) -> Opinion:
    """Judge a message that has arrived whole."""
    subject = mail.message.subject.lower()
    for word in WORDS:
        if word in subject:
            return reject("The subject of this message is not accepted here", reason=f"it has {word}")
    return None
