"""arc: what relays before us found, and whether it can be believed; if wanted, a set of our own (RFC 8617).

A chain only says who handled the message. It is worth something where its last sealer is one that the admin trusts,
which `dmarc` reads here. Must not know how a chain is verified or sealed.
"""

import asyncio
from collections.abc import Awaitable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from relayproxy.api import (
    AddHeader,
    App,
    Direction,
    Edits,
    Mail,
    Mistake,
    Opinion,
    Plugin,
    Settings,
    Setup,
    defer,
    fetch_from,
    hook,
    to_a_label,
)
from relayproxy.builtin._dkim_files import KeyFile
from relayproxy.builtin._lookup import ON_THE_LOOP, asked_and_hashed, peek_at
from relayproxy.mailauth.arc_chain import MOST_SETS, Chain, find_chain
from relayproxy.mailauth.arc_seal import seal
from relayproxy.mailauth.arc_verify import ArcResult, body_forms, questions, verify
from relayproxy.mailauth.authres import header_value
from relayproxy.mailauth.canonical import BodyDigest, BodyForm, body_digest, body_digests
from relayproxy.mailauth.dkim_keys import KeyFault
from relayproxy.mailauth.dkim_sign import check_names
from relayproxy.mailauth.lookup import Answer, Question

Domain = Annotated[str, AfterValidator(lambda text: to_a_label(text.strip()).rstrip("."))]


class Sealing(Settings):
    """With what a set of our own is made."""

    domain: Domain
    """The domain that seals (d=)."""
    selector: str
    """The selector (s=): the record is at SELECTOR._domainkey.DOMAIN."""
    key: str
    """The file of the private key: PEM, RSA, because ARC knows nothing else."""

    @model_validator(mode="after")
    def _names(self) -> "Sealing":
        check_names(self.domain, self.selector)
        return self


class ArcSettings(Settings):
    """Whom to believe, and whether to add a set."""

    trusted_sealers: frozenset[Domain] = frozenset()
    """Domains (d= of the last seal) whose word counts: `dmarc` then excuses a fail that they saw as a pass. Only these,
    none above or below them."""
    sets: int = Field(10, ge=1, le=MOST_SETS)
    """How many sets a chain may have. Each may cost two DNS queries; honest chains have one to three."""
    temperror: Literal["accept", "defer"] = "accept"
    """What to do when DNS gave no answer for a key of the chain."""
    seal: Sealing | None = None
    """Add a set to what is passed on: for those who forward to others. Off unless given."""


class Arc(Plugin[ArcSettings]):
    """Verifies the chain; seals as the last thing that is done to a message."""

    name = "arc"
    settings = ArcSettings
    after = ()
    signer = True
    directions = frozenset({Direction.INBOUND})

    def check(self, setup: Setup) -> Iterator[Mistake]:
        """Read the key, as `startup` will."""
        try:
            self._read_key(setup.folder)
        except KeyFault as fault:
            yield Mistake(str(fault), ("seal", "key"))

    def _read_key(self, folder: Path) -> KeyFile | None:
        """Return the key that seals, if there is to be one. Raises KeyFault."""
        one = self.options.seal
        if one is None:
            return None
        file = KeyFile(one.domain, one.selector, folder / Path(one.key).expanduser())
        if file.current().algorithm != "rsa-sha256":
            raise KeyFault(f"{file.path}: ARC knows only RSA")
        return file

    @hook
    def startup(self, app: App) -> None:
        """Keep the resolver and the clock; read the key, if there is one. Raises KeyFault."""
        self._clock = app.clock
        self._fetch = fetch_from(app.resolver)
        self._peek = peek_at(app.resolver)
        self._hostname = app.hostname
        self._key = self._read_key(app.folder)

    @hook
    def message(self, mail: Mail) -> Opinion | Awaitable[Opinion]:
        """Note "arc": none, pass, fail, temperror, or policy for a chain that is longer than we look at.

        In the properties: header.oldest-pass (0 if nothing was changed since the first set), and for rules
        `instance`, `sealers` (the last one's domain last) and `trusted` ("yes" if its word counts).
        """
        message = mail.message
        chain = find_chain(message)
        if len(chain.sets) > self.options.sets:
            mail.note("arc", "policy", reason=f"the chain has {len(chain.sets)} sets")
            return None
        wanted = questions(chain)
        if not wanted:
            return self._settle(mail, chain, {}, {})
        known = {question: self._peek(*question) for question in wanted}
        answers = {question: answer for question, answer in known.items() if answer is not None}
        if len(answers) < len(known) or message.body_size > ON_THE_LOOP:
            return self._gather(mail, chain, answers, [one for one in wanted if one not in answers])
        return self._settle(mail, chain, answers, body_digests(message, body_forms(chain)))

    async def _gather(
        self, mail: Mail, chain: Chain, answers: dict[Question, Answer], missing: Sequence[Question]
    ) -> Opinion:
        """Ask for the answers that are missing; a large body is hashed in a thread meanwhile."""
        more, digests = await asked_and_hashed(self._fetch, missing, mail.message, body_forms(chain))
        return self._settle(mail, chain, answers | dict(zip(missing, more, strict=True)), digests)

    def _settle(
        self,
        mail: Mail,
        chain: Chain,
        answers: dict[Question, Answer],
        digests: dict[BodyForm, BodyDigest],
    ) -> Opinion:
        result = verify(mail.message, chain, answers, digests, now=self._clock.time())
        mail.note("arc", result.result, reason=result.reason, **self._props(mail, chain, result))
        if result.result == "temperror" and self.options.temperror == "defer":
            return defer("The key of an ARC set can't be looked up", status="4.7.29", reason="arc temperror")
        return None

    def _props(self, mail: Mail, chain: Chain, result: ArcResult) -> dict[str, Any]:
        props: dict[str, Any] = {}
        if chain.highest:
            props["instance"] = str(chain.highest)
        if result.result == "pass":
            props["header__oldest-pass"] = str(result.oldest_pass)
            props["sealers"] = " ".join(result.sealers)
            if result.covers_from and result.sealers[-1] in self.options.trusted_sealers:
                props["trusted"] = "yes"
        if self.options.seal and mail.client.ip:
            props["smtp__remote-ip"] = mail.client.ip
        return props

    @hook
    def before_forward(self, mail: Mail) -> Edits | Awaitable[Edits]:
        """Add a set, if that is wanted. Whatever is wrong with the key is raised, so that the message is not sent.

        Without a result of ours for the chain, as when DNS gave no answer, nothing is added: it would be made up.
        """
        finding = mail.finding("arc")
        if self._key is None or finding is None or finding.result not in ("none", "pass", "fail"):
            return None
        if mail.message.body_size > ON_THE_LOOP:
            return self._seal_large(mail, self._key, finding.result)
        return self._set(mail, self._key, finding.result, body_digest(mail.message))

    async def _seal_large(self, mail: Mail, file: KeyFile, cv: str) -> Edits:
        return self._set(mail, file, cv, await asyncio.to_thread(body_digest, mail.message))

    def _set(self, mail: Mail, file: KeyFile, cv: str, body: bytes) -> list[AddHeader]:
        added = seal(
            mail.message,
            find_chain(mail.message),
            file.current(),
            cv=cv,
            results=header_value(self._hostname, mail.findings) or f"{self._hostname}; none",
            domain=file.domain,
            selector=file.selector,
            now=int(self._clock.time()),
            body=body,
        )
        return [AddHeader(name, value) for name, value in added.fields] if added else []
