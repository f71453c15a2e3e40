"""Of all that is asked of TLS to a mail server the strictest counts: whatever is added, nothing becomes less."""

import asyncio
import time
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from relayproxy.api import DnsStatus
from relayproxy.core.log import Log
from relayproxy.delivery.demand import Demand, Wish
from relayproxy.delivery.tls_policy import PolicyError, TlsPolicies
from relayproxy.mailauth.mta_sts import Held, Policy
from relayproxy.testing.clock import FakeClock
from relayproxy.testing.resolver import FakeResolver

HOST = "mx.example.net"
RECORDS = {
    "none": [],
    "usable": [(3, 1, 1, b"x" * 32)],
    "unusable": [(1, 1, 1, b"x" * 32)],
    "unknown": DnsStatus.SERVFAIL,
}

wishes = st.builds(
    Wish,
    tls=st.sampled_from(["opportunistic", "required", "verify", "dane", "mta-sts"]),
    consult=st.sets(st.sampled_from(["dane", "mta-sts"])).map(frozenset),
    requiretls=st.booleans(),
    encrypted=st.booleans(),
    optional=st.booleans(),
)
records = st.sampled_from(sorted(RECORDS))
modes = st.sampled_from(["", "none", "testing", "enforce"])
names = st.booleans()


def demanded(wish: Wish, found: str, mode: str, *, named: bool, trusted: bool = True) -> Demand | None:
    """What is asked of TLS to the host; None if it gets nothing."""
    resolver = FakeResolver(
        {(HOST, "A"): "192.0.2.1", (f"_25._tcp.{HOST}", "TLSA"): RECORDS[found]}, secure=True
    )
    policies = TlsPolicies(resolver, clock=FakeClock(), log=Log(lambda _: None, time.time))
    policy = Policy(mode, 86_400, (HOST if named else "other.example.net",))
    held = Held(policy, "1", 0.0) if mode in ("testing", "enforce") and "mta-sts" in wish.consults else None
    try:
        return asyncio.run(
            policies.for_host(wish, HOST, 25, domain="example.net", trusted=trusted, held=held)
        )
    except PolicyError:
        return None


def strength(demand: Demand | None) -> tuple[int, int, int]:
    """Nothing is sent, by records, by a CA, with TLS: each may only grow."""
    if demand is None:
        return (9, 9, 9)
    authenticated = demand.dane is not None or (demand.verified and not demand.lenient)
    return (0, int(authenticated), int(demand.tls))


def at_least(more: Demand | None, less: Demand | None) -> bool:
    return all(a >= b for a, b in zip(strength(more), strength(less), strict=True))


@given(wishes, records, modes, names)
def test_what_is_added_never_weakens(wish, found, mode, named):
    # The one exception is a rule of its own: see below.
    assume(not (found == "usable" and mode == "enforce" and not named))
    before = demanded(wish, found, mode, named=named)
    for change in ({"requiretls": True}, {"encrypted": True}, {"consult": frozenset({"dane", "mta-sts"})}):
        assert at_least(demanded(replace(wish, **change), found, mode, named=named), before)
    assert at_least(demanded(replace(wish, optional=False), found, mode, named=named), before)
    if wish.tls == "opportunistic":
        for tls in ("required", "verify", "dane"):
            assert at_least(demanded(replace(wish, tls=tls), found, mode, named=named), before)
    assert at_least(
        demanded(wish, found, "enforce", named=named), demanded(wish, found, "testing", named=named)
    )


def test_records_that_can_be_used_take_the_place_of_the_policy():
    both = frozenset({"dane", "mta-sts"})
    assert demanded(Wish(consult=frozenset({"mta-sts"})), "usable", "enforce", named=False) is None
    demand = demanded(Wish(consult=both), "usable", "enforce", named=False)
    assert demand is not None
    assert demand.dane is not None
    assert demanded(Wish(consult=both), "unusable", "enforce", named=False) is None


@given(wishes, records, modes, names)
def test_each_has_what_it_asks_for(wish, found, mode, named):
    demand = demanded(wish, found, mode, named=named)
    if demand is None:
        return
    if wish.tls != "opportunistic" or wish.encrypted or wish.requiretls:
        assert demand.tls
    if wish.requiretls or wish.tls == "verify":
        assert strength(demand)[1] == 1
    if wish.tls == "verify":
        assert demand.verified
        assert not demand.lenient
    if "dane" in wish.consults:
        assert found != "unknown"
        assert (demand.dane is not None) == (found == "usable")
        assert demand.tls or found == "none"
    if mode == "enforce" and "mta-sts" in wish.consults and demand.dane is None:
        assert named
        assert demand.tls
        assert demand.verified
        assert not demand.lenient


@pytest.mark.parametrize("found", ["usable", "unusable", "unknown"])
def test_records_below_a_name_that_nobody_vouches_for_do_not_count(found):
    wish = Wish(consult=frozenset({"dane"}))
    assert demanded(wish, found, "", named=True, trusted=False) == Demand(tls=False)


def test_the_sender_sets_aside_what_the_domain_asks_for_and_nothing_else():
    both = frozenset({"dane", "mta-sts"})
    assert Wish("opportunistic", both, optional=True).consults == frozenset()
    assert Wish("opportunistic", both, optional=True, requiretls=True).consults == both
    assert Wish("dane", both, optional=True).consults == frozenset({"dane"})
    assert Wish("off", both).consults == frozenset()
    assert demanded(Wish("opportunistic", both, optional=True), "usable", "enforce", named=True) == Demand(
        tls=False
    )
