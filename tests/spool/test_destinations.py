"""One domain must not hold up the others."""

from relayproxy.spool.destinations import Destinations


def test_transactions_are_counted_by_destination():
    destinations = Destinations()
    destinations.began("a")
    destinations.began("a")
    assert (destinations.running("a"), destinations.running("b")) == (2, 0)
    destinations.ended("a")
    assert destinations.running("a") == 1


def test_what_could_not_be_reached_is_left_alone_for_longer_and_longer():
    destinations = Destinations()
    destinations.failed("a", 100.0)
    assert destinations.is_down("a", 100.5)
    assert not destinations.is_down("b", 100.5)
    assert not destinations.is_down("a", 101.3)
    destinations.failed("a", 102.0)
    assert destinations.is_down("a", 103.5)
    destinations.failed("a", 103.0)
    assert not destinations.is_down("a", 104.5)
    destinations.reached("a")
    assert not destinations.is_down("a", 103.0)
