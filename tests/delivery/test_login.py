"""An upstream as AUTH back end: right, wrong, or "can't be told now"; never in the clear where TLS is demanded."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.delivery.harness import a_client, settings_for
from tests.servers.tls import Certificates

from relayproxy.core.log import Log
from relayproxy.delivery.login import UpstreamLogin
from relayproxy.delivery.settings import Timeouts
from relayproxy.model.client import Credentials
from relayproxy.testing.upstream import (
    NONSENSE,
    Capabilities,
    Disconnect,
    Fault,
    FaultPlan,
    Say,
    Stall,
    Step,
    UpstreamSink,
    answer,
)

OFFERED = Capabilities(auth={"ana@example.org": "pässword-77"})
RIGHT = Credentials("PLAIN", "ana@example.org", "pässword-77")
WRONG = Credentials("LOGIN", "ana@example.org", "other-77")


class Asked:
    """A back end and what it logs."""

    def __init__(self, *sinks: UpstreamSink, **changes: Any) -> None:
        self.lines: list[str] = []
        settings = settings_for(*sinks, **changes)
        self.backend = UpstreamLogin(settings, Log(self.lines.append, lambda: 0.0))

    async def check(self, credentials: Credentials = RIGHT) -> bool | None:
        answer = await self.backend.check(a_client(), credentials)
        assert credentials.password not in "".join(self.lines)
        return answer

    @property
    def problem(self) -> str:
        return json.loads(self.lines[-1])["problem"]


async def test_right_and_wrong():
    async with UpstreamSink(OFFERED) as sink:
        asked = Asked(sink)
        assert await asked.check() is True
        assert await asked.check(WRONG) is False
        assert await asked.check(Credentials("PLAIN", "nobody", "x-77")) is False
        await sink.until(lambda: sink.open_sessions == 0)
        assert (sink.sessions, asked.lines) == (3, [])
        assert sink.complaints == []


async def test_the_upstreams_own_login_plays_no_part():
    async with UpstreamSink(OFFERED) as sink:
        asked = Asked(sink, login="ana@example.org", password="pässword-77")
        assert await asked.check(WRONG) is False
        assert await asked.check() is True


CANNOT_TELL: dict[str, Callable[[], tuple[Capabilities, tuple[Fault, ...]]]] = {
    "no AUTH": lambda: (Capabilities(), ()),
    "later": lambda: (OFFERED, (Fault(Step.AUTH, answer(454, "4.7.0 later"), times=0),)),
    "encryption first": lambda: (OFFERED, (Fault(Step.AUTH, answer(538, "5.7.11 TLS first"), times=0),)),
    "unknown mechanism": lambda: (OFFERED, (Fault(Step.AUTH, answer(504, "5.5.4 unknown"), times=0),)),
    "disconnect": lambda: (OFFERED, (Fault(Step.AUTH, Disconnect(), times=0),)),
    "nonsense": lambda: (OFFERED, (Fault(Step.AUTH, NONSENSE["binary"], times=0),)),
    "quotes the password": lambda: (OFFERED, (Fault(Step.AUTH, Say(b"454 no pass-77\r\n"), times=0),)),
    "refused at the door": lambda: (OFFERED, (Fault(Step.BANNER, answer(554, "no"), times=0),)),
    "EHLO refused": lambda: (OFFERED, (Fault(Step.EHLO, answer(550, "no"), times=0),)),
}


@pytest.mark.parametrize("case", CANNOT_TELL)
async def test_what_cannot_be_told(case: str):
    """A client whose password is right must not be told that it is wrong."""
    offered, faults = CANNOT_TELL[case]()
    async with UpstreamSink(offered, plan=FaultPlan(*faults)) as sink:
        asked = Asked(sink)
        assert await asked.check() is None
        assert asked.problem.startswith(sink.address)
        await sink.until(lambda: sink.open_sessions == 0)


async def test_an_upstream_that_is_silent_or_gone():
    async with UpstreamSink(OFFERED) as sink:
        asked = Asked(sink, timeouts=Timeouts(connect=0.1, command=0.1))
        sink.plan.add(Fault(Step.AUTH, Stall()))
        assert await asked.check() is None
        sink.release()
        await sink.close()
        assert await asked.check() is None


async def test_the_next_address_when_one_cannot_tell():
    async with UpstreamSink(OFFERED) as one, UpstreamSink(OFFERED) as two:
        await one.close()
        assert await Asked(one, two).check() is True
        assert await Asked(one, two).check(WRONG) is False


@pytest.mark.parametrize("policy", ["required", "verify", "opportunistic"])
async def test_tls(certificates: Certificates, policy: str):
    offered = Capabilities(auth=OFFERED.auth, starttls=certificates.server_context())
    context = certificates.client_context()
    async with UpstreamSink(offered) as sink:
        assert await Asked(sink, tls=policy, tls_context=context).check() is True
        await sink.until(lambda: sink.open_sessions == 0)
        sink.plan.add(Fault(Step.STARTTLS, answer(454, "not now"), times=0))
        asked = sink.reached[Step.AUTH]
        assert await Asked(sink, tls=policy, tls_context=context).check() is None
        assert sink.reached[Step.AUTH] == asked
    async with UpstreamSink(OFFERED) as sink:
        came = await Asked(sink, tls=policy, tls_context=context).check()
        assert came is (True if policy == "opportunistic" else None)
        assert sink.reached[Step.AUTH] == (1 if policy == "opportunistic" else 0)


async def test_implicit_tls_and_a_unix_socket(certificates: Certificates, short_folder):
    context = certificates.client_context()
    async with UpstreamSink(OFFERED, tls=certificates.server_context()) as sink:
        assert await Asked(sink, tls="implicit", tls_context=context).check() is True
    async with UpstreamSink(OFFERED, path=short_folder / "smtp") as sink:
        assert await Asked(sink).check() is True
        assert await Asked(sink).check(WRONG) is False
