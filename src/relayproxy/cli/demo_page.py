"""The page of `relayproxy demo` as HTML: a list of messages, and one message.

Made on the server, without scripts. Whatever came over the wire goes through `text`, which leaves nothing that a
browser could take for anything but text. Must not know HTTP.
"""

import difflib
from collections.abc import Iterable
from html import escape

from relayproxy.cli.demo_plugins import SHOWN
from relayproxy.cli.demo_store import Seen

_MOST_LINES = 1000

STYLE = """\
:root { color-scheme: light dark; --line: #8886; --soft: #8882; --good: #2a7d2a; --bad: #b3261e; --wait: #8a6100; }
@media (prefers-color-scheme: dark) { :root { --good: #7fd07f; --bad: #ff8a80; --wait: #e6c25c; } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 78rem; padding: 1rem 1.5rem 3rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin: 1.8rem 0 .5rem; }
table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: left; vertical-align: top; }
th { font-weight: 600; } td.number { text-align: right; white-space: nowrap; }
td, pre, code { overflow-wrap: anywhere; }
pre { background: var(--soft); border: 1px solid var(--line); overflow-x: auto; padding: .7rem; white-space: pre-wrap; }
ins { text-decoration: none; color: var(--good); } del { text-decoration: none; color: var(--bad); }
.accepted { color: var(--good); } .rejected { color: var(--bad); } .deferred { color: var(--wait); }
a:focus-visible { outline: 2px solid; outline-offset: 2px; }
"""


def text(value: str, *, lines: bool = False) -> str:
    """Return foreign text for HTML: markup escaped, characters that steer or hide shown as codes."""
    if not value.isprintable():
        value = "".join(c if c.isprintable() or (lines and c in "\n\t") else _code(c) for c in value)
    return escape(value, quote=True)


def _code(char: str) -> str:
    return char.encode("unicode_escape", "backslashreplace").decode("ascii")


def _page(title: str, body: str, *, refresh: int = 0) -> bytes:
    again = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>{again}'
        '<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="/style.css"></head>'
        f"<body>{body}</body></html>\n"
    ).encode("utf-8", "backslashreplace")


def list_page(seen: Iterable[Seen], smtp: str, *, refresh: int = 0) -> bytes:
    """Return the list; `smtp` is where to send mail, `refresh` the seconds until the page loads itself again."""
    rows = "".join(map(_row, seen)) or '<tr><td colspan="8">No message yet.</td></tr>'
    toggle = '<a href="/">stop refreshing</a>' if refresh else '<a href="/?refresh">refresh every 3 s</a>'
    return _page(
        "relayproxy demo",
        f"<h1>relayproxy demo</h1><p>Send mail to <code>{text(smtp)}</code>. "
        "Recipients with <code>+4xx</code>, <code>+5xx</code>, <code>+slow</code> or <code>+drop</code> in front of "
        f"the @ make the upstream misbehave. {toggle}</p>"
        "<table><thead><tr><th>time (UTC)</th><th>from</th><th>to</th><th>subject</th><th>size</th><th>verdict</th>"
        f"<th>reply</th><th>ms</th></tr></thead><tbody>{rows}</tbody></table>",
        refresh=refresh,
    )


def _row(seen: Seen) -> str:
    to = ", ".join([*seen.recipients, *(f"{address} (refused)" for address, _ in seen.refused)])
    subject = seen.subject or ("(no content)" if not seen.size else "(no subject)")
    return (
        f"<tr><td>{text(seen.time[11:19])}</td><td>{text(seen.sender or '<>')}</td><td>{text(to)}</td>"
        f'<td><a href="/message/{text(seen.id)}">{text(subject)}</a></td><td class="number">{seen.size or ""}</td>'
        f'<td class="{text(seen.verdict)}">{text(seen.verdict)}</td><td>{text(seen.reply)}</td>'
        f'<td class="number">{_ms(seen.seconds)}</td></tr>'
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f}" if seconds >= 0 else ""


def message_page(seen: Seen) -> bytes:
    """Return the page of one message."""
    facts = [
        ("id", seen.id),
        ("time", seen.time),
        ("client", seen.client),
        ("from", seen.sender or "<>"),
        ("to", ", ".join(seen.recipients)),
        ("size", f"{seen.size} octets" if seen.size else ""),
        ("verdict", seen.verdict),
        ("reply", seen.reply),
        ("time taken", f"{_ms(seen.seconds)} ms" if seen.seconds >= 0 else ""),
    ]
    refused = [(f"refused: {address}", reply) for address, reply in seen.refused]
    rows = "".join(
        f"<tr><th>{text(name)}</th><td>{text(value)}</td></tr>" for name, value in [*facts, *refused] if value
    )
    parts = [
        f'<p><a href="/">all messages</a></p><h1>{text(seen.subject or seen.id)}</h1>',
        f"<table><tbody>{rows}</tbody></table>",
        _hooks(seen),
        _findings(seen),
        _headers(seen),
    ]
    if seen.received:
        cut = " (the beginning)" if len(seen.received) >= SHOWN else ""
        parts.append(f"<h2>As received{cut}</h2><pre>{_raw(seen.received)}</pre>")
    return _page(seen.subject or seen.id, "".join(parts))


def _hooks(seen: Seen) -> str:
    if not seen.hooks:
        return ""
    rows = "".join(
        f"<tr><td>{text(line.hook)}</td><td>{text(line.plugin)}</td><td>{text(line.answer)}</td>"
        f'<td class="number">{_ms(line.seconds)}</td><td>{text(line.error)}</td></tr>'
        for line in seen.hooks
    )
    return (
        "<h2>Hooks</h2><table><thead><tr><th>hook</th><th>plugin</th><th>answer</th><th>ms</th><th>error</th>"
        f"</tr></thead><tbody>{rows}</tbody></table>"
    )


def _findings(seen: Seen) -> str:
    if not seen.findings:
        return ""
    return "<h2>Findings</h2><ul>" + "".join(f"<li>{text(line)}</li>" for line in seen.findings) + "</ul>"


def _headers(seen: Seen) -> str:
    """The header as it came and, in the same view, as it went on: `-` was taken out, `+` put in."""
    before = _head(seen.received)
    if not seen.forwarded:
        return (
            f"<h2>Header as received</h2><pre>{text(chr(10).join(before), lines=True)}</pre>"
            if before
            else ""
        )
    after = _head(seen.forwarded)
    diff = list(difflib.unified_diff(before, after, lineterm="", n=len(before)))[3:] or [
        f" {line}" for line in after
    ]
    marks = {"+": "ins", "-": "del"}
    lines = [
        f"<{mark}>{text(line, lines=True)}</{mark}>"
        if (mark := marks.get(line[0]))
        else text(line, lines=True)
        for line in diff
    ]
    return "<h2>Header, received (-) and forwarded (+)</h2><pre>" + "\n".join(lines) + "</pre>"


def _head(octets: bytes) -> list[str]:
    """The lines of the header, as many as can be looked at."""
    head = octets.partition(b"\r\n\r\n")[0]
    return head.decode("utf-8", "backslashreplace").split("\r\n")[:_MOST_LINES] if head else []


def _raw(octets: bytes) -> str:
    return text(octets.decode("utf-8", "backslashreplace").replace("\r\n", "\n"), lines=True)


def not_found() -> bytes:
    """Return the page for an address that leads nowhere."""
    return _page("not found", '<h1>There is nothing here</h1><p><a href="/">all messages</a></p>')
