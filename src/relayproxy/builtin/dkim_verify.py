"""dkim_verify: which domains have signed the message, and whether it is still what they signed (RFC 6376).

Notes facts: what follows from them is for dmarc and for rules, because a signature that fails is to be treated like
none (RFC 6376 section 6.1). Must not know how a signature is verified.
"""

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from relayproxy.api import App, Direction, Mail, Opinion, Plugin, Settings, defer, fetch_from, hook
from relayproxy.builtin._lookup import ON_THE_LOOP, asked_and_hashed, peek_at
from relayproxy.mailauth.canonical import BodyDigest, BodyForm, body_digests
from relayproxy.mailauth.dkim_verify import (
    MOST_SIGNATURES,
    DkimResult,
    Found,
    body_forms,
    find_signatures,
    questions,
    verify,
)
from relayproxy.mailauth.lookup import Answer, Question


class DkimVerifySettings(Settings):
    """How much is looked at, and what to do where DNS doesn't answer."""

    signatures: int = Field(MOST_SIGNATURES, ge=1, le=20)
    """How many signatures of a message are verified, from the top. Each may cost a DNS query."""
    temperror: Literal["accept", "defer"] = "accept"
    """What to do when DNS gave no answer for a key and no other signature is a pass."""


class DkimVerify(Plugin[DkimVerifySettings]):
    """Ask for all keys side by side and hash a large body meanwhile, in a thread."""

    name = "dkim_verify"
    settings = DkimVerifySettings
    after = ()
    directions = frozenset({Direction.INBOUND})

    @hook
    def startup(self, app: App) -> None:
        """Keep the resolver and the clock."""
        self._clock = app.clock
        self._fetch = fetch_from(app.resolver)
        self._peek = peek_at(app.resolver)

    @hook
    def message(self, mail: Mail) -> Opinion | Awaitable[Opinion]:
        """Note "dkim" for each signature (header.d, .s, .a, .b and .i), "none" without any.

        Also in the properties: the size of the key in `bits`, the displayed fields that a signature leaves
        `uncovered`, and `testing`.
        """
        message = mail.message
        found = find_signatures(message, self.options.signatures)
        if not found:
            mail.note("dkim", "none", reason="the message is not signed")
            return None
        known = {question: self._peek(*question) for question in questions(found)}
        answers = {question: answer for question, answer in known.items() if answer is not None}
        if len(answers) < len(known) or message.body_size > ON_THE_LOOP:
            return self._gather(mail, found, answers, [one for one in known if one not in answers])
        return self._settle(mail, found, answers, body_digests(message, body_forms(found)))

    async def _gather(
        self, mail: Mail, found: Sequence[Found], answers: dict[Question, Answer], missing: Sequence[Question]
    ) -> Opinion:
        """Ask for the answers that are missing, and hash the body meanwhile."""
        more, digests = await asked_and_hashed(self._fetch, missing, mail.message, body_forms(found))
        return self._settle(mail, found, answers | dict(zip(missing, more, strict=True)), digests)

    def _settle(
        self,
        mail: Mail,
        found: Sequence[Found],
        answers: Mapping[Question, Answer],
        digests: Mapping[BodyForm, BodyDigest],
    ) -> Opinion:
        """Note the results."""
        results = verify(mail.message, found, answers, digests, now=self._clock.time())
        for result in results:
            mail.note("dkim", result.result, reason=result.reason, **_props(result))
        outcomes = {result.result for result in results}
        if self.options.temperror == "defer" and "temperror" in outcomes and "pass" not in outcomes:
            return defer(
                "The key of a DKIM signature can't be looked up", status="4.7.20", reason="dkim temperror"
            )
        return None


def _props(result: DkimResult) -> dict[str, Any]:
    claim = result.claim
    props = {
        "header__d": claim.domain,
        "header__i": result.identity,
        "header__s": claim.selector,
        "header__a": claim.algorithm,
        "header__b": claim.b,
        "bits": str(result.bits or ""),
        "uncovered": " ".join(result.uncovered),
        "testing": "y" if result.testing else "",
    }
    return {name: value for name, value in props.items() if value}
