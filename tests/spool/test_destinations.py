"""One domain must not hold up the others."""

from relayproxy.spool.destinations import Destinations


def test_one_destination_has_its_share():
    destinations = Destinations(2)
    destinations.began("a")
    destinations.began("a")
    assert not destinations.has_room("a")
    assert destinations.has_room("b")
    destinations.ended("a")
    assert destinations.has_room("a")


def test_what_could_not_be_reached_is_left_alone_for_longer_and_longer():
    destinations = Destinations(2)
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
