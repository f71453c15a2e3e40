"""Whose turn it is: tenants get even shares, priorities come first, nothing stands still."""

from collections import Counter

import pytest
from tests.spool.making import NOW, deposit, recipients

from relayproxy.model.queued import HIGH, LOW, NORMAL, Part
from relayproxy.spool.sqlite import Floors, SqliteSpool


@pytest.fixture
async def store(tmp_path):
    store = SqliteSpool(tmp_path / "spool.db", now=lambda: NOW, floors=Floors(0, 0))
    store.start()
    yield store
    await store.close()


async def put(store, count, tenant, priority=NORMAL, due=NOW - 10):
    to = recipients("b@example.net")
    for _ in range(count):
        await store.store(deposit(due=due, parts=(Part("up", to, "", tenant, priority),)))


async def claimed(store, limit):
    leases = await store.claim("up", "w1", NOW + 60, limit)
    assert len({(lease.message, lease.part) for lease in leases}) == len(leases)
    return leases


async def test_a_flood_of_one_leaves_the_others_their_share(store):
    await put(store, 300, "flood", due=NOW - 100)
    await put(store, 3, "small")
    await put(store, 2, "other")
    await put(store, 1, "later", due=NOW + 100)
    found = Counter(lease.tenant for lease in await claimed(store, 40))
    assert found == {"flood": 35, "small": 3, "other": 2}
    assert len(await claimed(store, 40)) == 40


async def test_single_claims_go_round(store):
    for tenant in ("a", "b", "c"):
        await put(store, 20, tenant)
    order = [(await claimed(store, 1))[0].tenant for _ in range(9)]
    assert Counter(order) == {"a": 3, "b": 3, "c": 3}


async def test_high_comes_before_low_and_low_never_stands_still(store):
    await put(store, 50, "bulk", LOW)
    await put(store, 50, "alerts", HIGH)
    order = [(await claimed(store, 1))[0].priority for _ in range(16)]
    assert Counter(order) == {HIGH: 14, LOW: 2}


async def test_of_one_tenant_the_longest_due_come_first(store):
    for late in (2, 1, 3):
        await put(store, 1, "a", due=NOW - late)
    first, second = await claimed(store, 2)
    assert first.message > second.message  # the last that was stored has been due longest


async def test_more_tenants_than_one_claim_looks_at(store):
    for number in range(150):
        await put(store, 1, f"t{number:03}", due=NOW + 100)
    await put(store, 60, "z")
    seen = len(await claimed(store, 25)) + len(await claimed(store, 25)) + len(await claimed(store, 25))
    assert seen == 60
