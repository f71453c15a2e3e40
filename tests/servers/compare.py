"""What may differ between a message that was sent and one that arrived: trace fields on top, nothing else."""

import re

_TRACE = re.compile(
    rb"(?:(?:received|return-path|delivered-to|x-original-to|authentication-results):"
    rb"[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*)*",
    re.IGNORECASE,
)


def trace_above(received: bytes, sent: bytes) -> bytes:
    """Return the trace fields that were put on top of `sent`; fail when anything else was changed."""
    assert received.endswith(sent), _first_difference(received, sent)
    above = received[: len(received) - len(sent)]
    assert _TRACE.fullmatch(above), f"not only trace fields on top: {above[:2000]!r}"
    return above


def relays_named(trace: bytes) -> int:
    """How many of the Received fields are relayproxy's."""
    unfolded = trace.replace(b"\r\n\t", b" ").replace(b"\r\n ", b" ").split(b"\r\n")
    return sum(line.lower().startswith(b"received:") and b"(relayproxy)" in line for line in unfolded)


def _first_difference(received: bytes, sent: bytes) -> str:
    """The place where the two differ, counted from the end, in words."""
    shared = min(len(received), len(sent))
    same = next((n for n in range(shared) if received[-1 - n] != sent[-1 - n]), shared)
    got, wanted = received[: len(received) - same][-40:], sent[: len(sent) - same][-40:]
    return f"{len(sent)} octets sent, {len(received)} received; {same} octets from the end: {got!r} for {wanted!r}"
