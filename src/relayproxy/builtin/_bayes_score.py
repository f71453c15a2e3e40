"""How likely a message is spam, by how often its words were seen (Robinson's method with Fisher's inverse chi-square).

Pure. Must not know where the numbers are from.
"""

import math
from collections.abc import Iterable

MOST = 150
"""Words that count, those that say most."""
_STRENGTH = 0.45  # how many sightings the assumption about an unknown word is worth
_UNKNOWN = 0.5
_TELLING = 0.1  # how far from even a word has to be


def spam_probability(counts: Iterable[tuple[int, int]], spam: int, ham: int) -> float:
    """Return the probability, 0 to 1, of messages with words seen in (spam, ham) messages, out of `spam` and `ham` learned.

    0.5 if there is nothing to go by.
    """
    if not spam or not ham:
        return _UNKNOWN
    chances = (_chance(in_spam / spam, in_ham / ham, in_spam + in_ham) for in_spam, in_ham in counts)
    telling = sorted(
        (one for one in chances if abs(one - _UNKNOWN) > _TELLING),
        key=lambda chance: -abs(chance - _UNKNOWN),
    )[:MOST]
    if not telling:
        return _UNKNOWN
    spamminess = 1 - _chi_square(-2 * sum(math.log(1 - one) for one in telling), len(telling))
    hamminess = 1 - _chi_square(-2 * sum(math.log(one) for one in telling), len(telling))
    return (1 + spamminess - hamminess) / 2


def _chance(in_spam: float, in_ham: float, seen: int) -> float:
    """Return the chance that a message with a word is spam, nearer to even the less often it was seen."""
    if not in_spam + in_ham:
        return _UNKNOWN
    chance = in_spam / (in_spam + in_ham)
    return (_STRENGTH * _UNKNOWN + seen * chance) / (_STRENGTH + seen)


def _chi_square(value: float, halves: int) -> float:
    """Return the chance that a chi-square of `2 * halves` degrees of freedom is at least `value`."""
    half = value / 2
    term = total = math.exp(-half)
    for number in range(1, halves):
        term *= half / number
        total += term
    return min(total, 1.0)
