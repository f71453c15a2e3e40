"""How `relayproxy test` shows what it found: as text for people, as JSON for programs.

Everything that came from a message is escaped before it reaches a terminal. Must not know how it came about.
"""

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from relayproxy.model.finding import Finding
from relayproxy.model.mail import Step
from relayproxy.model.message import Message

if TYPE_CHECKING:
    from relayproxy.cli.test_drive import Rehearsal

_MOST_LINES = 20_000  # of a body: beyond it, a comparison line by line takes too long
_WIDTH = 200


def as_data(result: "Rehearsal") -> dict[str, Any]:
    """Return the JSON form; the keys are part of the outer contract (docs/cli.md)."""
    return {
        "verdict": result.verdict,
        "reply": str(result.reply),
        "recipients": [{"address": address, "reply": str(reply)} for address, reply in result.recipients],
        "direction": result.direction,
        "score": round(sum(finding.score for finding in result.findings), 3),
        "seconds": round(result.seconds, 6),
        "findings": [
            {
                "method": finding.method,
                "result": finding.result,
                "score": finding.score,
                "by": finding.by,
                "props": dict(finding.props),
                "reason": finding.reason,
            }
            for finding in result.findings
        ],
        "edits": edits(result),
        "headers": headers(result),
        "hooks": [
            {
                "hook": step.hook,
                "plugin": step.plugin,
                "seconds": round(step.seconds, 6),
                "answer": step.answer,
                "error": step.error,
            }
            for step in result.steps
        ],
    }


def headers(result: "Rehearsal") -> list[list[str]]:
    """The header fields that went on, as [name, value]; none where nothing did."""
    if result.sent is None:
        return []
    return [[field.name, field.value] for field in Message.from_bytes(result.sent).fields]


def edits(result: "Rehearsal") -> list[str]:
    """The lines of a unified diff of what went on against what came; none where nothing went on."""
    if result.sent is None:
        return []
    came, went = Message.from_bytes(result.question.raw), Message.from_bytes(result.sent)
    before, after = _lines(came.head), _lines(went.head)
    note: list[str] = []
    if came.body != went.body:
        bodies = _lines(bytes(came.body)), _lines(bytes(went.body))
        if max(map(len, bodies)) > _MOST_LINES:
            note = [f"@@ body @@ {came.body_size} octets replaced by {went.body_size}"]
        else:
            before += bodies[0]
            after += bodies[1]
    return [*difflib.unified_diff(before, after, "received", "forwarded", lineterm="", n=1), *note]


def _lines(data: bytes) -> list[str]:
    return data.decode("utf-8", "backslashreplace").replace("\r\n", "\n").split("\n")


def as_text(result: "Rehearsal", notes: list[str]) -> Iterator[str]:
    """Yield the lines of the text form."""
    question = result.question
    to = ", ".join(question.recipients)
    tls = "  TLS" if question.tls else ""
    login = f"  login {question.login}" if question.login else ""
    yield plain(
        f"from <{question.sender}> to {to}  {len(question.raw)} octets  "
        f"by {question.ip} ({question.helo}){tls}{login}  listener {result.listener}"
        + (f"  {result.direction}" if result.direction else "")
    )
    for note in notes:
        yield f"({note})"
    for step in result.steps:
        yield plain(_step(step))
    for finding in result.findings:
        yield plain(_finding(finding))
    for address, reply in result.recipients:
        if not reply.ok:
            yield plain(f"recipient {address} is refused: {reply}")
    diff = edits(result)
    if diff:
        yield ""
        yield from map(plain, diff)
    yield ""
    yield plain(f"=> {result.reply}")
    yield f"{_meaning(result)}  {result.seconds * 1000:.1f} ms"


def _step(step: Step) -> str:
    strong = step.answer.removeprefix("would ") in ("reject", "defer", "hold", "discard")
    answer = step.answer.upper() if strong and step.answer.isalpha() else step.answer
    error = f"  {step.error}" if step.error else ""
    return f"{step.hook:<17} {answer:<13} {step.plugin:<22} {step.seconds * 1000:8.1f} ms{error}"


def _finding(finding: Finding) -> str:
    if finding.method == "rule" and "at" in finding.props:
        told = finding.props
        about = f"  {finding.reason}" if finding.reason else ""
        return f'  rule {told.get("did", ""):<30} "{told.get("id", "")}"  {told["at"]}{about}'
    props = "".join(f"  {key}={value}" for key, value in finding.props.items())
    score = f"  score {finding.score:+g}" if finding.score else ""
    reason = f"  ({finding.reason})" if finding.reason else ""
    return f"  {finding.method}={finding.result}{props}{score}{reason}  by {finding.by or 'core'}"


def _meaning(result: "Rehearsal") -> str:
    match result.verdict:
        case "accept" if result.forwarded:
            return "accept: the upstream took it"
        case "accept":
            return "accept: it would go to the upstream"
        case "discard":
            return "discard: the client hears 250, nobody gets it"
        case "hold":
            return "hold: kept for a human"
        case "defer":
            return "defer: the client keeps it and tries again"
        case _:
            return "reject: nobody gets it"


def plain(text: str) -> str:
    """Return text fit for a terminal: on one line, printable, not endless."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else ("  " if c == "\t" else _escaped(c)) for c in text)
    return text if len(text) <= _WIDTH * 5 else text[: _WIDTH * 5] + " ..."


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "backslashreplace").decode("ascii")
