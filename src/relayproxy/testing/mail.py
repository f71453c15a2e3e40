"""Mails made up for tests, and hooks called the way the pipeline calls them.

Knows the plugin API and nothing beside it: no server, no configuration, no file but the plugin's own.
"""

import asyncio
import inspect
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from relayproxy.api import (
    Address,
    Client,
    Direction,
    Edit,
    Envelope,
    Finding,
    Mail,
    Message,
    Plugin,
    Recipient,
    TlsInfo,
    Unsubscription,
    Verdict,
)
from relayproxy.catalogue import HOOKS, Catalogue, hooks_of
from relayproxy.hookspecs import DECIDE, IDENTIFY, REWRITE, Hooks


def make_client(
    *,
    ip: str = "192.0.2.1",
    listener: str = "inbound",
    helo: str = "client.example.org",
    ptr: str = "",
    tls: TlsInfo | None = None,
    identity: str = "",
    trusted: bool = False,
) -> Client:
    """Return a client as it looks after EHLO; `trusted` is what the core decided about relaying."""
    return Client(
        "test",
        listener,
        ip,
        port=49152,
        peer=ip,
        helo=helo,
        proto="ESMTP",
        ptr=ptr,
        tls=tls,
        identity=identity,
        trusted=trusted,
    )


def make_address(text: str) -> Address:
    """Cut `local@domain` at the last "@"; "" is the null sender."""
    local, at, domain = text.rpartition("@")
    return Address(local, domain) if at else Address(text, "")


def make_mail(
    raw: bytes = b"",
    *,
    sender: str = "a@example.org",
    recipients: Iterable[str | Recipient] = ("b@example.net",),
    ip: str = "192.0.2.1",
    tls: TlsInfo | None = None,
    identity: str = "",
    direction: Direction = Direction.INBOUND,
    findings: Iterable[Finding] = (),
    listener: str = "inbound",
) -> Mail:
    """Return a mail with the octets `raw`, which is b"" where a hook before DATA is tested.

    A mail that is not inbound comes from a trusted client. Raises ValueError for a bare CR or LF in `raw`,
    because no plugin ever gets to see one.
    """
    if not raw.count(b"\r\n") == raw.count(b"\n") == raw.count(b"\r"):
        raise ValueError("lines of a message end in CRLF: write \\r\\n")
    trusted = bool(identity) or direction is not Direction.INBOUND
    client = make_client(ip=ip, tls=tls, identity=identity, listener=listener, trusted=trusted)
    rcpts = tuple(r if isinstance(r, Recipient) else Recipient(make_address(r)) for r in recipients)
    return Mail(
        "test.1",
        client,
        Envelope(make_address(sender), rcpts, size=len(raw)),
        Message.from_bytes(raw),
        direction=direction,
        findings=tuple(findings),
    )


def load_plugin(path: Path, **settings: Any) -> Plugin[Any]:
    """Load a single-file plugin as the pipeline does, and make it with `settings`.

    Raises relayproxy.catalogue.PluginError for a file that is no plugin and pydantic.ValidationError for
    settings that it refuses.
    """
    cls = Catalogue([path.parent])[path.stem]
    return cls(cls.settings.model_validate(settings))


async def call(plugin: Plugin[Any], hook_name: str, **arguments: Any) -> Any:
    """Call a hook as the pipeline does: with the arguments it names, awaited where needed; return its answer.

    The answer of a rewrite hook is given as a list of edits. Findings that the hook noted in `mail` can be
    read with `mail.finding(method)` afterwards. Where a hook takes `note`, pass `make_mail().note`. Raises
    LookupError when the plugin has no such hook, TypeError for an argument that is missing or unknown and for
    an answer that the pipeline would not take.
    """
    if hook_name not in HOOKS:
        raise LookupError(f"there is no hook called {hook_name}")
    name = plugin.name or type(plugin).__name__
    function = hooks_of(name, plugin).get(hook_name)
    if function is None:
        raise LookupError(f"{name} has no function {hook_name} marked with @hook")
    known = list(inspect.signature(getattr(Hooks, hook_name)).parameters)[1:]
    if unknown := set(arguments) - set(known):
        raise TypeError(f"{hook_name} has no argument {', '.join(unknown)}; it has {', '.join(known)}")
    wanted = list(inspect.signature(function).parameters)
    if missing := [argument for argument in wanted if argument not in arguments]:
        raise TypeError(f"{hook_name} of {name} wants {', '.join(missing)}")
    mail = arguments.get("mail")
    noted_before = len(mail.noted) if mail else 0
    answer = function(**{argument: arguments[argument] for argument in wanted})
    if inspect.isawaitable(answer):
        answer = await answer
    answer = _checked(hook_name, answer)
    if mail:
        fresh = (replace(finding, by=name) for finding in mail.noted[noted_before:])
        mail.findings = (*mail.findings, *fresh)
    return answer


def run_hook(plugin: Plugin[Any], hook_name: str, **arguments: Any) -> Any:
    """Do what `call` does, in an event loop of its own: for tests that are plain functions."""
    return asyncio.run(call(plugin, hook_name, **arguments))


def _checked(hook_name: str, answer: Any) -> Any:
    """Return the answer in the form that tests compare, or raise TypeError as the pipeline would complain."""
    if hook_name in REWRITE:
        if answer is None:
            return []
        edits = [answer] if isinstance(answer, Edit) else list(answer)
        if any(not isinstance(edit, Edit) for edit in edits):
            raise TypeError(f"{hook_name} returned {edits!r}, which are not all edits")
        return edits
    allowed: type = str if hook_name in IDENTIFY else Verdict if hook_name in DECIDE else type(None)
    if hook_name == "read_token":
        allowed = Unsubscription
    if answer is not None and not isinstance(answer, allowed):
        raise TypeError(f"{hook_name} returned {answer!r} in place of {allowed.__name__}")
    return answer
