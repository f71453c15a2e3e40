"""The MTA-STS policies of domains: fetched, kept for as long as they hold, and shared through the state (RFC 8461 section 5).

What can't be had never weakens a policy that is kept. Must not know connections, nor what a policy means for one.
"""

import asyncio
import importlib
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from relayproxy.api import Clock, Resolver, SharedState, Unavailable, fetch_from, shared_key
from relayproxy.core.log import Log
from relayproxy.mailauth.mta_sts import Held, Policy, PolicyFile, current_policy

_AGAIN = 300.0  # seconds until a policy that could not be had is asked for again, where an earlier one holds
_SOON = 30.0  # the same where none does, and mail waits
_KEPT = 2000  # domains, in memory: a policy may have 64 kB
_NO_FAILURE = (0.0, "", "")

GetPolicy = Callable[[str, Sequence[str]], Awaitable[PolicyFile]]
"""Fetches the policy file of a domain from the addresses of its mta-sts host."""


class StsCache:
    """Finds the policy of a domain. `get` fetches policy files; left out, over HTTPS. `state` outlives the process."""

    def __init__(
        self,
        resolver: Resolver,
        *,
        clock: Clock,
        log: Log,
        get: GetPolicy | None = None,
        state: SharedState | None = None,
    ) -> None:
        self._fetch = fetch_from(resolver)
        self._clock = clock
        self._log = log
        self._fetch_file = get or _over_https
        self._state = state
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._failed: OrderedDict[str, tuple[float, str, str]] = OrderedDict()
        self._lookups: dict[str, asyncio.Task[Held | None]] = {}

    async def find(self, domain: str) -> Held | None:
        """Return the policy that holds; those who want the same one at once share the look-up, and its time-outs don't end it."""
        task = self._lookups.get(domain)
        if task is None:
            task = asyncio.create_task(self._look_up(domain))
            self._lookups[domain] = task
            task.add_done_callback(lambda _: self._lookups.pop(domain, None))
        return await asyncio.shield(task)

    def problem(self, domain: str) -> tuple[str, str]:
        """Return what went wrong when the policy was last looked for: the result in the words of RFC 8460, and a text.

        Both are "" for nothing.
        """
        return self._failed.get(domain, _NO_FAILURE)[1:]

    async def _look_up(self, domain: str) -> Held | None:
        now = self._clock.time()
        held = self._held.get(domain) or await self._recall(domain)
        if held is not None and not held.holds(now):
            held = None
        again, *_ = self._failed.get(domain, _NO_FAILURE)
        if again > now:
            return held
        found = await current_policy(domain, held, self._fetch, self._get, now)
        self._failed.pop(domain, None)
        if found.problem:
            kept = found.held is not None
            self._failed[domain] = now + (_AGAIN if kept else _SOON), found.result, found.problem
            self._log.warning("mta_sts_problem", domain=domain, problem=found.problem, kept=kept)
            if len(self._failed) > _KEPT:
                self._failed.popitem(last=False)
        if found.held is None:
            self._held.pop(domain, None)
        else:
            await self._keep(domain, found.held, new=found.held is not held)
        return found.held

    async def _keep(self, domain: str, held: Held, *, new: bool) -> None:
        self._held[domain] = held
        self._held.move_to_end(domain)
        if len(self._held) > _KEPT:
            self._held.popitem(last=False)
        ttl = held.fetched + held.policy.max_age - self._clock.time()
        if new and self._state is not None and ttl > 0:
            policy = held.policy
            text = json.dumps([held.id, held.fetched, policy.mode, policy.max_age, policy.mx])
            with suppress(Unavailable):  # which is logged; this process has it
                await self._state.put(_key(domain), text, ttl=ttl)

    async def _recall(self, domain: str) -> Held | None:
        """Return what another worker, or one before a restart, has fetched."""
        if self._state is None:
            return None
        try:
            text = await self._state.get(_key(domain))
            if text is None:
                return None
            identity, fetched, mode, max_age, mx = json.loads(text)
            return Held(Policy(str(mode), int(max_age), tuple(map(str, mx))), str(identity), float(fetched))
        except (Unavailable, ValueError, TypeError):
            return None

    async def _get(self, domain: str) -> PolicyFile:
        host = f"mta-sts.{domain}"
        v4, v6 = await self._fetch([(host, "A"), (host, "AAAA")])
        if v4.failed and v6.failed:
            return PolicyFile(fault=f"DNS gave no answer for the address of {host}")
        return await self._fetch_file(domain, [str(one) for one in (*v4.records, *v6.records)])


def _key(domain: str) -> str:
    return shared_key("mta-sts", domain)


async def _over_https(domain: str, addresses: Sequence[str]) -> PolicyFile:
    module = await asyncio.to_thread(importlib.import_module, "relayproxy.delivery.sts_fetch")
    file: PolicyFile = await module.fetch_policy(domain, addresses)
    return file
