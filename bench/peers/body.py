"""Not relays: what a large body costs to verify, beside what it can't cost less than, timed in the same rounds."""

import asyncio
import time
from hashlib import sha256
from pathlib import Path

import uvloop

from bench import messages
from bench.certificate import write_key
from bench.lab import Place, Running, Sample
from bench.names import DOMAIN, SELECTOR
from bench.peers.base import Relay
from relayproxy.api import Answer, App, DnsStatus
from relayproxy.builtin.dkim_verify import DkimVerify, DkimVerifySettings
from relayproxy.mailauth.canonical import canonical_body
from relayproxy.mailauth.dkim_keys import read_key
from relayproxy.testing.mail import make_mail

_PIECE = 262_144
_TICK = 0.001


class _Body(Relay):
    """A message whose body is worked on for a third of a round. Times are the CPU's: other programs don't count."""

    def start(self, place: Place) -> Running:
        key = place.lab.folder / "body.pem"
        if not key.exists():
            write_key(key)
        self._record = read_key(key.read_bytes()).record().encode()
        raw = messages.write_signed(place.lab.folder, place.cell.size, key).read_bytes()
        self._mail = make_mail(raw)
        self._body = bytes(self._mail.message.body)
        return Running(0, None)

    def measure(self, place: Place, _running: Running) -> Sample:
        sample, begun = Sample(), time.perf_counter()
        while time.perf_counter() - begun < place.lab.seconds / 3:
            before, cpu = time.perf_counter(), time.process_time()
            self.work(sample)
            sample.cpu += time.process_time() - cpu
            sample.seconds += time.perf_counter() - before
            sample.messages += 1
        return sample

    def work(self, sample: Sample) -> None:
        """Do it once."""
        raise NotImplementedError


class Sha256(_Body):
    name = "body-sha256"
    about = "SHA-256 of a body, by hashlib"

    def work(self, _sample: Sample) -> None:
        sha256(self._body).digest()


class Canonical(_Body):
    name = "body-canonical"
    about = "one pass of relaxed canonicalisation over a body"

    def work(self, _sample: Sample) -> None:
        pieces = (self._body[start : start + _PIECE] for start in range(0, len(self._body), _PIECE))
        for _ in canonical_body(pieces, relaxed=True):
            pass


class BodyVerify(_Body):
    name = "body-verify"
    about = "the plugin dkim_verify on an event loop, on which something else ticks meanwhile"

    def start(self, place: Place) -> Running:
        running = super().start(place)
        self._plugin = DkimVerify(DkimVerifySettings())
        self._plugin.startup(App("bench.example", _Key(self._record), time, Path()))
        self._runner = place.stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        self.work(Sample())  # the thread is there then
        return running

    def work(self, sample: Sample) -> None:
        sample.hold = max(sample.hold, self._runner.run(self._verify()) * 1000)

    async def _verify(self) -> float:
        mail = self._mail.view()
        ticker = asyncio.create_task(_ticks())
        await asyncio.sleep(0)
        answer = self._plugin.message(mail)
        assert answer is not None  # a body of this size is not hashed on the spot
        await answer
        assert [finding.result for finding in mail.noted] == ["pass"]
        ticker.cancel()
        return await ticker


class _Key:
    """A resolver that knows one key."""

    def __init__(self, record: bytes) -> None:
        self._answer = Answer(DnsStatus.OK, (record,), 300)

    async def query(self, name: str, _rdtype: str) -> Answer:
        assert name == f"{SELECTOR}._domainkey.{DOMAIN}"
        return self._answer


async def _ticks() -> float:
    """Until it is cancelled, look how late each tick is; return the longest delay in seconds of this process's CPU."""
    longest = 0.0
    try:
        while True:
            begun = time.process_time()
            await asyncio.sleep(_TICK)
            longest = max(longest, time.process_time() - begun - _TICK)
    except asyncio.CancelledError:
        return longest
