"""rspamd: asks an Rspamd about every message (HTTP, `checkv2`) and does what it says.

The score, the action and the symbols become a finding; the action a verdict, by a table that the settings can change;
the header fields that it wants are added and removed when the message is forwarded.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

import orjson
from pydantic import Field, field_validator

from relayproxy.api import (
    AddHeader,
    App,
    Direction,
    Edit,
    Edits,
    Finding,
    Mail,
    Opinion,
    Origin,
    Plugin,
    SecretRef,
    ServiceError,
    Settings,
    accept,
    defer,
    discard,
    hold,
    hook,
    printable,
    reject,
)
from relayproxy.builtin._answers import Answers, Remembered
from relayproxy.builtin._changes import Kept, added, dropped, replaced
from relayproxy.builtin._http import Caller, Url
from relayproxy.builtin._remote import Breaker, Service, service_of

Deed = Literal["accept", "mark", "defer", "hold", "discard", "reject"]
DEEDS: Final[Mapping[str, Deed]] = {
    "no action": "accept",
    "greylist": "accept",
    "add header": "mark",
    "rewrite subject": "mark",
    "soft reject": "defer",
    "quarantine": "hold",
    "discard": "discard",
    "reject": "reject",
}
"""What an action of Rspamd's means here, unless the settings say otherwise."""

_MOST_SYMBOLS = 200
_OUR_OWN = ("Password", "Queue-Id")  # what is asked with, and says nothing about the message


class RspamdSettings(Settings):
    """Where Rspamd is, and what its actions mean."""

    url: Url
    """Where it takes messages: `http://127.0.0.1:11333`, the port of its worker `normal` or `rspamd_proxy`."""
    password: SecretRef | None = None
    """Its password, if it wants one from here: `{env: NAME}`, `{file: path}` or `{credential: name}`."""
    actions: dict[str, Deed] = Field(default_factory=dict)
    """What an action of Rspamd's means: `accept`, `mark`, `defer`, `hold`, `discard` or `reject`. Those that are left out
    keep their meaning."""
    headers: bool = True
    """Whether the header fields that Rspamd wants added, removed or changed are."""
    spam_header: str = "X-Spam"
    """The field that says `Yes` on what is marked; those of that name from elsewhere are removed. Empty: none."""
    weight: float = 1.0
    """What Rspamd's score is multiplied with before it is added to the message's."""
    max_size: int = Field(50_000_000, gt=0)
    """How many octets a message may have to be looked at; larger ones are let through, with a finding."""
    remember: Remembered = 0.0
    """For how long an answer is used again for the same message from the same client to the same recipients: `5m`."""
    breaker: Breaker = Breaker()
    """When a service that fails is left alone."""

    @field_validator("spam_header")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if name:
            AddHeader(name, "Yes")
        return name


class Rspamd(Plugin[RspamdSettings]):
    """Ask Rspamd, and do what it says."""

    name = "rspamd"
    settings = RspamdSettings
    after = ()
    directions = frozenset({Direction.INBOUND})
    default_timeout = 20.0
    _service: Service
    _answers: Answers
    _caller: Caller
    _kept: Kept[Mapping[str, Any]]
    _password: bytes = b""

    @hook
    def startup(self, app: App) -> None:
        """Meet the service. Raises SecretError."""
        if self.options.password is not None:
            self._password = self.options.password.reveal().encode()
        self._service = service_of(self, self.options.breaker, app)
        self._answers = Answers("rspamd", self.options.remember, app)
        self._caller = Caller()
        self._kept = Kept(app.clock.monotonic)

    @hook
    async def shutdown(self) -> None:
        """Close the connections."""
        await self._caller.close()

    @hook
    async def message(self, mail: Mail) -> Opinion:
        """Ask Rspamd, note what it says and return what its action means."""
        if mail.message.size > self.options.max_size:
            mail.note("rspamd", "policy", reason="too large to be looked at")
            self._kept.put(mail, {})
            return None
        answer = await self._answer(mail)
        action = answer["action"]
        deed = self._deed(action)
        if deed is None:
            raise ServiceError(f"rspamd: the action {action!r} has no meaning; give it one in `actions`")
        mail.noted.append(_finding(answer, deed, self.options.weight))
        wanted = {key: answer[key] for key in ("milter", "dkim-signature", "subject") if key in answer}
        self._kept.put(mail, {**wanted, "deed": deed}, len(orjson.dumps(wanted)))
        said = answer.get("messages")
        text = said.get("smtp_message") if isinstance(said, dict) else None
        return _verdict(deed, action, printable(text) if isinstance(text, str) else "")

    @hook
    async def before_forward(self, mail: Mail) -> Edits:
        """Return the edits that Rspamd asked for, and the mark; about what a human has released it is asked again."""
        if mail.origin is Origin.RELEASE:
            await self.message(mail)
        answer = self._kept.get(mail, "rspamd")
        return None if answer is None else [*self._mark(mail, answer), *self._changes(mail, answer)]

    @hook
    def after_forward(self, mail: Mail) -> None:
        """Forget the message."""
        self._kept.drop(mail)

    def _deed(self, action: str) -> Deed | None:
        return self.options.actions.get(action, DEEDS.get(action))

    async def _answer(self, mail: Mail) -> Mapping[str, Any]:
        """Return what Rspamd says, or said lately. Raises ServiceError."""
        if not self._answers.are_kept:
            return await self._service.ask(lambda: self._check(mail))
        facts = [f"{name}:{value!r}" for name, value in self._request_headers(mail) if name not in _OUR_OWN]
        key = await self._answers.key(mail.message, facts)
        if (known := await self._answers.find(key)) is not None:
            return dict(orjson.loads(known))
        answer = await self._service.ask(lambda: self._check(mail))
        # What is put off now (greylisting, rate limits) shall pass when it comes again.
        if self._deed(answer["action"]) not in (None, "defer"):
            await self._answers.keep(key, orjson.dumps(answer).decode())
        return answer

    async def _check(self, mail: Mail) -> Mapping[str, Any]:
        answer = await self._caller.post(
            f"{self.options.url}/checkv2", mail.message, self._request_headers(mail)
        )
        try:
            found = orjson.loads(answer)
        except orjson.JSONDecodeError as error:
            raise ServiceError("answered something that is no JSON") from error
        if (
            not isinstance(found, dict)
            or not isinstance(found.get("action"), str)
            or not isinstance(found.get("score"), (int, float))
        ):
            raise ServiceError("answered without an action or a score")
        return found

    def _request_headers(self, mail: Mail) -> Iterator[tuple[str, bytes]]:
        client = mail.client
        facts = [
            ("Password", self._password.decode()),
            ("Queue-Id", mail.id),
            ("IP", client.ip),
            ("Helo", client.helo),
            ("Hostname", client.ptr),
            ("User", client.identity),
            ("From", str(mail.envelope.sender)),
            *(("Rcpt", str(recipient.address)) for recipient in mail.envelope.recipients),
            ("TLS-Version", client.tls.version if client.tls else ""),
            ("TLS-Cipher", client.tls.cipher if client.tls else ""),
        ]
        for name, value in facts:
            if value:
                yield name, "".join(c if c.isprintable() else "?" for c in value).encode()

    def _mark(self, mail: Mail, answer: Mapping[str, Any]) -> Iterator[Edit]:
        name = self.options.spam_header
        if not name:
            return
        yield from dropped(mail.message, name, 0)
        if answer.get("deed") == "mark":
            yield added(name, "Yes")

    def _changes(self, mail: Mail, answer: Mapping[str, Any]) -> Iterator[Edit]:
        if not self.options.headers:
            return
        wanted = answer.get("milter")
        if isinstance(wanted, dict):
            for name, number in _items(wanted.get("remove_headers")):
                if isinstance(number, int):
                    yield from dropped(mail.message, name, number)
            for name, values in _items(wanted.get("add_headers")):
                for value in values if isinstance(values, list) else [values]:
                    yield _field(name, value)
        signatures = answer.get("dkim-signature", ())
        for signature in [signatures] if isinstance(signatures, str) else signatures:
            yield added("DKIM-Signature", str(signature))
        if isinstance(subject := answer.get("subject"), str):
            yield replaced("Subject", subject)


def _items(value: object) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


def _field(name: str, value: Any) -> Edit:
    """Return the edit that adds a field as a milter of Rspamd's would: at the bottom, unless it names a place."""
    if isinstance(value, dict):
        order = value.get("order", -1)
        return added(name, str(value.get("value", "")), bottom=not (isinstance(order, int) and order >= 0))
    return added(name, str(value), bottom=True)


def _finding(answer: Mapping[str, Any], deed: Deed, weight: float) -> Finding:
    """Return what Rspamd found: each symbol is a property `symbol.NAME` with its score."""
    props = {"action": printable(answer["action"], 40), "score": f"{answer['score']:.2f}"}
    if isinstance(required := answer.get("required_score"), (int, float)):
        props["required"] = f"{required:.2f}"
    for name, symbol in _items(answer.get("symbols"))[:_MOST_SYMBOLS]:
        score = symbol.get("score") if isinstance(symbol, dict) else None
        props[f"symbol.{printable(name, 100)}"] = f"{score:.2f}" if isinstance(score, (int, float)) else ""
    return Finding("rspamd", "miss" if deed == "accept" else "hit", answer["score"] * weight, props)


def _verdict(deed: Deed, action: str, text: str) -> Opinion:
    reason = f"rspamd: {action}"
    match deed:
        case "reject":
            return reject(text or "Message refused as spam", reason=reason)
        case "defer":
            return defer(text or "Try again later", reason=reason)
        case "hold":
            return hold(reason)
        case "discard":
            return discard(reason)
        case _:
            return accept(reason)
