"""A plugin that misbehaves on request, hook by hook: for the promise that a fault is a 451."""

import asyncio

from relayproxy.api import hook


async def act(text):
    """Misbehave as the text says: raise, hang, or return nonsense."""
    if "raises" in text:
        raise RuntimeError("secret-of-the-plugin")
    if "hangs" in text:
        await asyncio.sleep(3600)
    return 42 if "nonsense" in text else None


@hook
async def helo(client, name):
    return await act(name if name.startswith("helo") else "")


@hook
async def mail(mail):
    return await act(mail.envelope.sender.local if mail.envelope.sender.domain == "mail.example" else "")


@hook
async def rcpt(mail, rcpt):
    return await act(rcpt.address.local if mail.envelope.sender.domain == "rcpt.example" else "")


@hook
async def rewrite_envelope(mail, rcpt):
    return await act(mail.envelope.sender.local if mail.envelope.sender.domain == "rewrite.example" else "")


@hook
async def message(mail):
    return await act(mail.envelope.sender.local if mail.envelope.sender.domain == "message.example" else "")


@hook
async def before_forward(mail, route):
    return await act(mail.envelope.sender.local if mail.envelope.sender.domain == "forward.example" else "")
