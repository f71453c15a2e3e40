"""Hold mail from outside that bears the name of one of our people over a foreign address.

    - display_name

A plain module with hooks in it: put your own people into PEOPLE. The name is found in any order and with other words
around it ("Ruiz, Ana (CEO)"), so choose full names. `mode: observe` in the pipeline shows first what it would hold.
"""

import re
from email.utils import parseaddr

from relayproxy.api import Direction, Mail, Opinion, hold, hook

after = ()
directions = frozenset({Direction.INBOUND})  # our own people may write from anywhere
PEOPLE = {
    "Ana Ruiz": {"ana@example.com", "ana.ruiz@example.net"},
    "Luis Prado": {"luis@example.com"},
}


@hook
def message(mail: Mail) -> Opinion:
    """Compare each From with the people."""
    for field in mail.message.all("From"):
        shown = words(field.text.rpartition("<")[0])
        address = parseaddr(field.value)[1].lower()
        for person, addresses in PEOPLE.items():
            if words(person) <= shown and address not in addresses:
                mail.note("display_name", "hit", person=person, header__from=address)
                return hold(f"{address} writes under the name of {person}")
    return None


def words(text: str) -> set[str]:
    """Return the words of a name, without regard to capitals and punctuation."""
    return set(re.findall(r"\w+", text.casefold()))
