"""The JSON that a script is given about a mail and the JSON that it answers with, for `exec` and `http` alike.

The page docs/plugins/scripts.md is its description. Must not know how a script is reached.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from relayproxy.api import (
    Action,
    AddHeader,
    AddRecipient,
    Address,
    DropHeader,
    DropRecipient,
    Edit,
    Finding,
    Mail,
    Opinion,
    Recipient,
    ReplaceBody,
    ReplaceHeader,
    Reply,
    ServiceError,
    SetSender,
    Verdict,
    printable,
)

VERSION = 1
_MOST = 1000


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _AddHeader(_Part):
    edit: Literal["add_header"]
    name: str
    value: str
    bottom: bool = False

    def made(self) -> Edit:
        return AddHeader(self.name, self.value, self.bottom)


class _DropHeader(_Part):
    edit: Literal["drop_header"]
    name: str
    index: int | None = Field(None, ge=0)

    def made(self) -> Edit:
        return DropHeader(self.name, self.index)


class _ReplaceHeader(_Part):
    edit: Literal["replace_header"]
    name: str
    value: str
    index: int = Field(0, ge=0)

    def made(self) -> Edit:
        return ReplaceHeader(self.name, self.value, self.index)


class _ReplaceBody(_Part):
    edit: Literal["replace_body"]
    base64: str

    def made(self) -> Edit:
        return ReplaceBody(base64.b64decode(self.base64, validate=True))


class _SetSender(_Part):
    edit: Literal["set_sender"]
    address: str

    def made(self) -> Edit:
        return SetSender(_address(self.address))


class _AddRecipient(_Part):
    edit: Literal["add_recipient"]
    address: str

    def made(self) -> Edit:
        return AddRecipient(Recipient(_address(self.address)))


class _DropRecipient(_Part):
    edit: Literal["drop_recipient"]
    address: str

    def made(self) -> Edit:
        return DropRecipient(_address(self.address))


_AnyEdit = Annotated[
    _AddHeader | _DropHeader | _ReplaceHeader | _ReplaceBody | _SetSender | _AddRecipient | _DropRecipient,
    Field(discriminator="edit"),
]


class _Finding(_Part):
    method: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")
    result: str
    score: float = Field(0.0, allow_inf_nan=False)
    reason: str = ""
    props: dict[str, str] = Field(default_factory=dict, max_length=200)


class _Reply(_Part):
    code: int | None = Field(None, ge=400, le=599)
    status: str | None = None
    text: str = ""


class _Answer(_Part):
    verdict: Literal["accept", "discard", "hold", "defer", "reject"] | None = None
    reply: _Reply = _Reply()
    reason: str = ""
    findings: tuple[_Finding, ...] = Field((), max_length=_MOST)
    edits: tuple[_AnyEdit, ...] = Field((), max_length=_MOST)


class Decision:
    """What a script said: `opinion`, `findings` and `edits`, ready to be used."""

    def __init__(self, opinion: Opinion, findings: Sequence[Finding], edits: Sequence[Edit]) -> None:
        self.opinion = opinion
        self.findings = findings
        self.edits = edits


def read(answer: bytes, *, may_edit: bool) -> Decision:
    """Return what a script decided. Raises ServiceError, which names what is wrong, for all that is not allowed."""
    try:
        said = _Answer.model_validate_json(answer)
        opinion = _opinion(said)
        findings = [
            Finding(one.method, one.result, one.score, one.props, printable(one.reason))
            for one in said.findings
        ]
        edits = [one.made() for one in said.edits]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ServiceError(f"answered wrongly in {place or 'the whole'}: {first['msg']}") from error
    except (ValueError, binascii.Error) as error:
        raise ServiceError(f"answered wrongly: {printable(str(error))}") from error
    if edits and not may_edit:
        raise ServiceError("wants edits, which are for the stage `message` only")
    return Decision(opinion, findings, edits)


def _opinion(said: _Answer) -> Opinion:
    if said.verdict is None:
        return None
    action = Action[said.verdict.upper()]
    reason = printable(said.reason)
    if action not in (Action.DEFER, Action.REJECT):
        return Verdict(action, None, reason)
    code = said.reply.code or (550 if action is Action.REJECT else 451)
    status = said.reply.status or f"{code // 100}.7.1"
    usual = "Refused by policy" if action is Action.REJECT else "Try again later"
    return Verdict(action, Reply(code, status, printable(said.reply.text) or usual), reason)


def _address(text: str) -> Address:
    local, at, domain = text.rpartition("@")
    if not text.isprintable() or any(c in text for c in "<> "):
        raise ValueError(f"{text!r} is no address")
    return Address(local, domain) if at else Address(text, "")


def facts(mail: Mail, hook: str, recipient: Recipient | None = None) -> dict[str, Any]:
    """Return what a script is told about a mail, ready for JSON."""
    client, envelope, tls = mail.client, mail.envelope, mail.client.tls
    return {
        "version": VERSION,
        "hook": hook,
        "id": mail.id,
        "direction": mail.direction.value,
        "client": {
            "ip": client.ip,
            "port": client.port,
            "ptr": client.ptr,
            "helo": client.helo,
            "proto": client.proto,
            "listener": client.listener,
            "identity": client.identity,
            "tls": {"version": tls.version, "cipher": tls.cipher, "bits": tls.bits, "verified": tls.verified}
            if tls
            else None,
        },
        "envelope": {
            "sender": str(envelope.sender),
            "recipients": [str(one.address) for one in envelope.recipients],
            "body": envelope.body,
            "smtputf8": envelope.smtputf8,
            "requiretls": envelope.requiretls,
        },
        "recipient": None if recipient is None else str(recipient.address),
        "score": mail.score,
        "findings": [
            {
                "method": one.method,
                "result": one.result,
                "score": one.score,
                "reason": one.reason,
                "props": dict(one.props),
                "by": one.by,
            }
            for one in mail.findings
        ],
        "headers": [[field.name, field.value] for field in mail.message.fields],
        "size": mail.message.size,
    }


def written(values: Mapping[str, Any]) -> bytes:
    """Return JSON on one line; what is no Unicode (a lone surrogate) is shown as U+FFFD."""
    try:
        return orjson.dumps(values)
    except TypeError:
        return orjson.dumps(_clean(values))


def _clean(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case Mapping():
            return {_clean(key): _clean(one) for key, one in value.items()}
        case list() | tuple():
            return [_clean(one) for one in value]
        case _:
            return value
