"""dnsbl: whether DNS lists know the client, its HELO name, the sender's domain, or what the message links to.

All lists are asked at once, from the connection on. Each listing is a finding of its own; what follows from it is
the business of `score` and rules, unless a list is trusted to refuse. Must not know how an answer is judged
(_listings) or where links are (_body_hosts).
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from relayproxy.api import (
    App,
    Client,
    Clock,
    Direction,
    Mail,
    Opinion,
    Plugin,
    Verdict,
    defer,
    hook,
    printable,
    reject,
    to_a_label,
)
from relayproxy.builtin._body_hosts import hosts_of
from relayproxy.builtin._dnsbl_settings import DnsblSettings, ListSettings
from relayproxy.builtin._listings import (
    SENTINELS,
    Code,
    Kind,
    Worth,
    domain_label,
    ip_label,
    is_address,
    parse_code,
    weigh,
)
from relayproxy.builtin._lookup import peek_at
from relayproxy.builtin._network import is_public
from relayproxy.mailauth.lookup import Answer

_FAILURES = 5  # in a row, after which a list is left alone
_REST = 60.0
_REST_WHEN_WRONG = 600.0
_SILENT = "it gives no answers"


@dataclass(slots=True, eq=False)
class _List:
    """A list with its judgement of answers and how it has been doing."""

    settings: ListSettings
    codes: dict[Code, float]
    failures: int = 0
    rests_until: float = 0.0
    said: set[str] = field(default_factory=set)


class _Question(NamedTuple):
    list: _List
    kind: Kind
    item: str  # as a person reads it
    label: str  # as the list knows it

    @property
    def name(self) -> str:
        return f"{self.label}.{self.list.settings.zone}"


class _Result(NamedTuple):
    question: _Question
    worth: Worth
    failed: bool = False


_NOTHING = Worth()


def _worth(question: _Question, answer: Answer | None) -> Worth | None:
    """Return what the records of an answer are worth; None where there is no answer."""
    if answer is None or answer.failed:
        return None
    if not answer.records:
        return _NOTHING
    return weigh(answer.records, question.list.settings.weight, question.list.codes)


def _sentinel(question: _Question) -> str:
    kind = "ip" if is_address(question.label) else question.kind
    return f"{SENTINELS[kind]}.{question.list.settings.zone}"


class Dnsbl(Plugin[DnsblSettings]):
    """Ask about the client at connect, about HELO and sender at MAIL, about links when the message is there."""

    name = "dnsbl"
    settings = DnsblSettings
    after = ()
    directions = frozenset({Direction.INBOUND})

    def __init__(self, options: DnsblSettings) -> None:
        super().__init__(options)
        self._lists = [
            _List(one, {parse_code(text): score for text, score in one.codes.items()})
            for one in options.lists
        ]
        self._refusing = any(one.action != "score" for one in options.lists)
        self._early: set[asyncio.Task[Any]] = set()

    @hook
    def startup(self, app: App) -> None:
        """Keep the resolver and the clock."""
        self._resolver = app.resolver
        self._peek = peek_at(app.resolver)
        self._clock: Clock = app.clock
        if any("uri" in one.of and not one.whole_names for one in self.options.lists):
            # Loading the list of public suffixes takes a moment: here rather than with the first link.
            from relayproxy.mailauth.psl import organizational_domain  # noqa: PLC0415

            self._registered = organizational_domain

    @hook
    async def shutdown(self) -> None:
        """Give up what still runs."""
        early = list(self._early)
        for task in early:
            task.cancel()
        await asyncio.gather(*early, return_exceptions=True)

    @hook
    def connect(self, client: Client) -> None:
        """Put the questions about the client, so that the resolver knows when MAIL asks; wait for nothing."""
        if client.trusted or not is_public(client.ip):
            return
        questions = [*self._asked(("ip",), client.ip, ip_label(client.ip))]
        if questions:
            task = asyncio.create_task(self._ask_all(questions))
            self._early.add(task)
            task.add_done_callback(self._early.discard)

    @hook(background=True)
    async def mail(self, mail: Mail) -> Opinion:
        """Note "dnsbl" for each list that has the client, the HELO name or the sender's domain.

        A hit has the properties zone, kind, item, codes and dns.zone; temperror says that a list gave no answer.
        """
        results = await self._ask_all(self._of_envelope(mail))
        self._note(mail, results)
        return self._refusal(results)

    @hook
    def rcpt(self, mail: Mail) -> Any:
        """Give the refusal of a list that may refuse as soon as there is a recipient to log."""
        return self._early_refusal(mail) if self._refusing else None

    async def _early_refusal(self, mail: Mail) -> Opinion:
        return self._refusal(
            await self._ask_all(q for q in self._of_envelope(mail) if q.list.settings.action != "score")
        )

    @hook
    async def message(self, mail: Mail) -> Opinion:
        """Note "dnsbl" for each list that has a host of a link."""
        if not any("uri" in one.settings.of for one in self._lists):
            return None
        hosts = hosts_of(mail.message, self.options.uris)
        results = await self._ask_all(q for host in hosts for q in self._of_link(host))
        best: dict[str, _Result] = {}
        for result in results:
            # Ten links to one place are no worse than one: each list counts once.
            zone = result.question.list.settings.zone
            if zone not in best or abs(result.worth.score) > abs(best[zone].worth.score):
                best[zone] = result
        self._note(mail, best.values())
        return self._refusal(best.values())

    # -- what is asked -----------------------------------------------------------------------------------------

    def _asked(self, kinds: Sequence[Kind], item: str, label: str) -> Iterator[_Question]:
        if label:
            for one in self._lists:
                for kind in kinds:
                    if kind in one.settings.of:
                        yield _Question(one, kind, item, label)

    def _of_envelope(self, mail: Mail) -> Iterator[_Question]:
        client = mail.client
        if client.ip and is_public(client.ip):
            yield from self._asked(("ip",), client.ip, ip_label(client.ip))
        yield from self._asked(("helo",), client.helo, domain_label(to_a_label(client.helo)))
        domain = mail.envelope.sender.ascii_domain
        yield from self._asked(("domain",), domain, domain_label(domain))

    def _of_link(self, host: str) -> Iterator[_Question]:
        label = domain_label(host)
        for question in self._asked(("uri",), host, label):
            if question.list.settings.whole_names or is_address(label):
                yield question
            else:
                yield question._replace(label=self._registered(label))

    # -- asking ------------------------------------------------------------------------------------------------

    async def _ask_all(self, questions: Iterable[_Question]) -> list[_Result]:
        """Ask all lists at once, and then those that listed something whether they would list anything."""
        now = self._clock.monotonic()
        distinct = {(q.name, q.kind): q for q in questions if q.list.rests_until <= now}.values()
        answers = await self._answers({question.name for question in distinct})
        worths = {question: _worth(question, answers[question.name]) for question in distinct}
        sentinels = await self._answers(
            {_sentinel(q) for q, worth in worths.items() if worth and worth.codes}
        )
        return [self._judged(q, worth, sentinels.get(_sentinel(q))) for q, worth in worths.items()]

    async def _answers(self, names: Iterable[str]) -> dict[str, Answer | None]:
        """Look names up; what the resolver knows costs no task and no waiting."""
        found = {name: self._peek(name, "A") for name in names}
        missing = [name for name, answer in found.items() if answer is None]
        if missing:
            found.update(zip(missing, await asyncio.gather(*map(self._query, missing)), strict=True))
        return found

    async def _query(self, name: str) -> Answer | None:
        try:
            async with asyncio.timeout(self.options.wait):
                return await self._resolver.query(name, "A")
        except TimeoutError:
            return None

    def _judged(self, question: _Question, worth: Worth | None, sentinel: Answer | None) -> _Result:
        """Return what an answer comes to; a list that would list anything has listed nothing."""
        one = question.list
        if worth is None:
            self._failing(one)
            return _Result(question, _NOTHING, failed=True)
        one.failures = 0
        why = ""
        if worth.invalid:
            why = f"it answers {', '.join(worth.invalid)}, which is an error and no listing"
        elif sentinel is not None and sentinel.records:
            why = "it lists everything: it was closed, or a resolver invents answers"
        if why:
            self._rest(one, _REST_WHEN_WRONG, why)
            return _Result(question, _NOTHING, failed=True)
        if worth.codes:
            one.said.clear()
        else:
            one.said.discard(_SILENT)
        return _Result(question, worth)

    def _failing(self, one: _List) -> None:
        one.failures += 1
        if one.failures >= _FAILURES:
            one.failures = 0
            self._rest(one, _REST, _SILENT)

    def _rest(self, one: _List, seconds: float, why: str) -> None:
        one.rests_until = self._clock.monotonic() + seconds
        if why not in one.said:
            one.said.add(why)
            self.log.warning("the list %s is left alone for a while: %s", one.settings.zone, why)

    # -- what follows ------------------------------------------------------------------------------------------

    def _note(self, mail: Mail, results: Iterable[_Result]) -> None:
        for question, worth, failed in results:
            zone = question.list.settings.zone
            if failed:
                mail.note(
                    "dnsbl", "temperror", zone=zone, kind=question.kind, item=printable(question.item, 100)
                )
            elif worth.codes:
                mail.note(
                    "dnsbl",
                    "hit",
                    score=worth.score,
                    reason=f"{printable(question.item, 100)} is on {zone}",
                    zone=zone,
                    kind=question.kind,
                    item=printable(question.item, 100),
                    codes=" ".join(worth.codes),
                    dns__zone=zone,
                )

    def _refusal(self, results: Iterable[_Result]) -> Verdict | None:
        deferring: Verdict | None = None
        for question, worth, _ in results:
            action = question.list.settings.action
            if action == "score" or not worth.codes or worth.score <= 0:
                continue
            zone = question.list.settings.zone
            what = {"ip": "Client", "helo": "HELO name", "domain": "Sender domain", "uri": "A link to"}
            item = printable(question.item, 100)
            text = f"{what[question.kind]} {item} is listed by {zone}"
            reason = f"{item} is on {zone} ({' '.join(worth.codes)})"
            if action == "reject":
                return reject(text, code=554, status="5.7.1", reason=reason)
            deferring = deferring or defer(text, code=450, status="4.7.1", reason=reason)
        return deferring
