"""Routes that can never be taken: the quick answer is that of comparing each route with each before it."""

from ipaddress import ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayproxy.config import reach
from relayproxy.config.models import Route

_SETS = ("senders", "recipient_domains", "logins", "listeners")


def covers(earlier, later):
    for name in _SETS:
        wanted, there = set(getattr(earlier, name)), set(getattr(later, name))
        if wanted and not (there and there <= wanted):
            return False
    if not earlier.networks:
        return True
    return bool(later.networks) and all(
        any(one.version == net.version and one.subnet_of(net) for net in earlier.networks)
        for one in later.networks
    )


def slowly(routes):
    for number, route in enumerate(routes):
        for before, earlier in enumerate(routes[:number]):
            if covers(earlier, route):
                yield number, before
                break


_NETWORKS = ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32", "192.0.2.0/24"]
_NETWORKS += ["::/0", "fd00::/8", "fd00::/64", "fd00::1/128"]
_WORDS = st.lists(st.sampled_from(["a", "b", "c"]), max_size=2).map(tuple)
_ROUTES = st.lists(
    st.builds(
        Route,
        upstream=st.just("u"),
        senders=_WORDS,
        recipient_domains=_WORDS,
        logins=_WORDS,
        listeners=_WORDS,
        networks=st.lists(st.sampled_from(_NETWORKS), max_size=3).map(tuple),
    ),
    max_size=12,
)


@settings(max_examples=400)
@given(_ROUTES)
def test_the_index_finds_what_comparing_all_finds(routes):
    assert list(reach.unreachable(routes)) == list(slowly(routes))


@pytest.mark.parametrize(
    "conditions",
    [
        lambda n: {"senders": (f"u{n}@example.org",)},
        lambda n: {"senders": ("a@example.org",), "networks": (ip_network(n << 8),)},
        lambda n: {"listeners": ("main",), "logins": (f"u{n}",)},
    ],
    ids=["senders", "one_sender_many_networks", "one_listener_many_logins"],
)
def test_the_work_for_many_routes_is_in_proportion(conditions, monkeypatch):
    asked = []
    cover = reach._Conditions.cover
    monkeypatch.setattr(reach._Conditions, "cover", lambda one, other: asked.append(1) or cover(one, other))
    routes = [Route(upstream="u", **conditions(number)) for number in range(1000)]
    assert list(reach.unreachable(routes)) == []
    assert len(asked) <= 2 * len(routes)
