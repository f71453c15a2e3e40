import asyncio
from pathlib import Path

import pytest
from pydantic import ValidationError

from relayproxy.api import Action, App, DnsStatus
from relayproxy.builtin._dnsbl_settings import DnsblSettings
from relayproxy.builtin._listings import domain_label, ip_label, parse_code, weigh
from relayproxy.builtin.dnsbl import Dnsbl
from relayproxy.testing import FakeClock, FakeResolver
from relayproxy.testing.mail import call, make_client, make_mail
from relayproxy.testing.session import SessionDriver, entry_for

CLIENT = "198.51.99.7"  # no documentation address: those are nobody's, and are not looked up
BACKWARDS = "7.99.51.198"
RAW = b"Subject: x\r\n\r\nSee https://www.bad.example.co.uk/x?y=1\r\n"
ZEN = {"zone": "zen.test"}


def listing(zone="zen.test", *codes, label=BACKWARDS):
    return {(f"{label}.{zone}", "A"): list(codes or ["127.0.0.2"])}


class Lists:
    def __init__(self, zone, *lists, delay=0.0, **settings) -> None:
        self.clock = FakeClock()
        self.resolver = FakeResolver(zone, clock=self.clock, delay=delay)
        self.plugin = Dnsbl(DnsblSettings.model_validate({"lists": lists or [ZEN], **settings}))
        self.plugin.startup(App("mx.example.com", self.resolver, self.clock, Path()))

    async def at_mail(self, **more):
        self.mail = make_mail(**{"ip": CLIENT, **more})
        verdict = await call(self.plugin, "mail", mail=self.mail)
        return verdict, self.mail.findings

    async def at_message(self, raw=RAW, **more):
        self.mail = make_mail(raw, **{"ip": CLIENT, **more})
        verdict = await call(self.plugin, "message", mail=self.mail)
        return verdict, self.mail.findings

    async def at_rcpt(self, **more):
        rcpt = make_mail().envelope.recipients[0]
        return await call(self.plugin, "rcpt", mail=make_mail(**{"ip": CLIENT, **more}), rcpt=rcpt)


async def test_a_listing_is_a_finding_of_its_own_for_each_list():
    zone = {**listing(), **listing("other.test", "127.0.0.9"), **listing("third.test", "127.0.0.5")}
    lists = Lists(zone, ZEN, {"zone": "other.test", "weight": 1.5}, {"zone": "none.test"})
    verdict, findings = await lists.at_mail()
    assert verdict is None
    assert [(f.method, f.result, f.score, f.props["zone"]) for f in findings] == [
        ("dnsbl", "hit", 3.0, "zen.test"),
        ("dnsbl", "hit", 1.5, "other.test"),
    ]
    assert dict(findings[0].props) == {
        "zone": "zen.test",
        "kind": "ip",
        "item": CLIENT,
        "codes": "127.0.0.2",
        "dns.zone": "zen.test",
    }


async def test_all_lists_are_asked_at_once():
    zones = [{"zone": f"z{number}.test", "of": ["ip", "helo", "domain"]} for number in range(10)]
    lists = Lists({}, *zones, delay=0.05)
    await lists.clock.run(lists.at_mail())
    assert lists.clock.monotonic() == 0.05
    assert len(lists.resolver.asked) == 30


@pytest.mark.parametrize(
    ("codes", "score"),
    [
        (["127.0.0.2"], 4.0),
        (["127.0.0.10"], 1.0),
        (["127.0.0.2", "127.0.0.10"], 4.0),
        (["127.0.0.5"], 2.0),
        (["127.0.1.24"], 0.5),
        (["127.0.0.99"], None),
    ],
)
async def test_codes_have_scores_of_their_own(codes, score):
    settings = {"127.0.0.2": 4, "127.0.0.10-11": 1, "127.0.0.4-127.0.0.7": 2, "127.0.1.24": 0.5}
    _, findings = await Lists(listing("zen.test", *codes), {**ZEN, "codes": settings}).at_mail()
    assert [finding.score for finding in findings] == ([] if score is None else [score])


async def test_bits_of_the_last_octet():
    settings = {**ZEN, "of": "domain", "codes": {"&8": 2.0, "& 64": 5.0}}
    for code, score in (("127.0.0.8", 2.0), ("127.0.0.72", 5.0), ("127.0.0.2", None)):
        lists = Lists(listing("zen.test", code, label="example.org"), settings)
        _, findings = await lists.at_mail()
        assert [finding.score for finding in findings] == ([] if score is None else [score])


@pytest.mark.parametrize(
    "codes",
    [
        ["127.255.255.254"],
        ["127.255.255.252"],
        ["127.0.0.1"],
        ["10.0.0.1"],
        ["203.0.113.5"],
        ["127.0.0.2", "127.255.255.255"],
    ],
)
async def test_an_error_of_the_list_is_no_listing(codes, caplog):
    lists = Lists(listing("zen.test", *codes), {**ZEN, "action": "reject"})
    for _ in range(3):
        verdict, findings = await lists.at_mail()
        assert verdict is None
        assert [f.result for f in findings if f.result == "hit"] == []
    assert caplog.text.count("is left alone for a while") == 1
    asked = len(lists.resolver.asked)
    lists.clock.advance(601.0)
    lists.resolver.set(f"{BACKWARDS}.zen.test", "A", ["127.0.0.3"])
    verdict, _ = await lists.at_mail()
    assert verdict.action is Action.REJECT
    assert asked == 1


async def test_a_list_that_lists_the_world_lists_nobody(caplog):
    zone = {**listing(), **listing(label="1.0.0.127")}
    lists = Lists(zone, {**ZEN, "action": "reject"})
    verdict, findings = await lists.at_mail()
    assert verdict is None
    assert [f.result for f in findings] == ["temperror"]
    assert "lists everything" in caplog.text
    await lists.at_mail()
    assert caplog.text.count("lists everything") == 1


async def test_the_same_for_a_list_of_domains():
    zone = {**listing(label="example.org"), **listing(label="invalid")}
    _, findings = await Lists(zone, {**ZEN, "of": "domain"}).at_mail()
    assert [f.result for f in findings] == ["temperror"]


@pytest.mark.parametrize("status", [DnsStatus.SERVFAIL, DnsStatus.TIMEOUT])
async def test_a_list_without_answers_stops_no_mail_and_is_spared(status, caplog):
    lists = Lists({(f"{BACKWARDS}.zen.test", "A"): status}, {**ZEN, "action": "reject"})
    for _ in range(8):
        verdict, _ = await lists.at_mail()
        assert verdict is None
    assert len(lists.resolver.asked) == 5
    assert caplog.text.count("gives no answers") == 1
    lists.clock.advance(61.0)
    lists.resolver.set(f"{BACKWARDS}.zen.test", "A", ["127.0.0.2"])
    assert (await lists.at_mail())[0].action is Action.REJECT


async def test_ipv6_is_asked_by_nibbles():
    ip = "2a01:4f8::1"
    label = "1.0.0.0." + "0.0.0.0." * 5 + "8.f.4.0.1.0.a.2"
    _, findings = await Lists(listing(label=label)).at_mail(ip=ip)
    assert [f.props["item"] for f in findings] == [ip]


@pytest.mark.parametrize("ip", ["", "127.0.0.1", "10.1.2.3", "192.168.1.1", "fd00::1", "::1", "192.0.2.1"])
async def test_addresses_of_our_own_are_not_looked_up(ip):
    lists = Lists({})
    await call(lists.plugin, "connect", client=make_client(ip=ip))
    await lists.at_mail(ip=ip)
    assert lists.resolver.asked == []


async def test_helo_and_sender_domain():
    zone = {**listing(label="client.example.org"), **listing("rhs.test", label="example.org")}
    lists = Lists(zone, {**ZEN, "of": "helo"}, {"zone": "rhs.test", "of": ["domain"]})
    _, findings = await lists.at_mail()
    assert [(f.props["kind"], f.props["item"]) for f in findings] == [
        ("helo", "client.example.org"),
        ("domain", "example.org"),
    ]
    lists.resolver.asked.clear()
    await lists.at_mail(sender="")
    assert {name for name, _ in lists.resolver.asked} == {"client.example.org.zen.test", "invalid.zen.test"}


async def test_links_by_their_registered_domain_or_whole():
    zone = {
        **listing("reg.test", label="example.co.uk"),
        **listing("whole.test", label="www.bad.example.co.uk"),
    }
    lists = Lists(
        zone, {"zone": "reg.test", "of": "uri"}, {"zone": "whole.test", "of": "uri", "whole_names": True}
    )
    _, findings = await lists.at_message()
    assert [(f.props["zone"], f.props["item"]) for f in findings] == [
        ("reg.test", "www.bad.example.co.uk"),
        ("whole.test", "www.bad.example.co.uk"),
    ]


async def test_many_links_count_once_and_not_all_are_looked_up():
    links = "".join(f"http://h{number}.example{number}.com/ " for number in range(100))
    zone = {}
    for number in range(100):
        zone.update(listing(label=f"example{number}.com"))
    lists = Lists(zone, {**ZEN, "of": "uri"}, uris=10)
    _, findings = await lists.at_message(f"\r\n{links}\r\n".encode())
    assert len(findings) == 1
    assert len({name for name, _ in lists.resolver.asked if name.startswith("example")}) == 10


async def test_a_link_to_an_address():
    _, findings = await Lists(listing(), {**ZEN, "of": "uri"}).at_message(
        f"\r\nhttp://{CLIENT}:8080/x\r\n".encode()
    )
    assert len(findings) == 1


async def test_refusals():
    lists = Lists(listing(), {**ZEN, "action": "reject"})
    assert str((await lists.at_rcpt()).reply) == f"554 5.7.1 Client {CLIENT} is listed by zen.test"
    lists = Lists(listing(), {**ZEN, "action": "defer"})
    assert str((await lists.at_rcpt()).reply) == f"450 4.7.1 Client {CLIENT} is listed by zen.test"
    assert await Lists(listing()).at_rcpt() is None
    good = Lists(listing(), {**ZEN, "action": "reject", "weight": -2.0})
    assert await good.at_rcpt() is None, "a list of good senders refuses nobody"


async def test_questions_about_the_client_start_with_the_connection():
    lists = Lists(listing(), delay=1.0)

    async def talk():
        await call(lists.plugin, "connect", client=make_client(ip=CLIENT))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return list(lists.resolver.asked)

    assert await talk() == [(f"{BACKWARDS}.zen.test", "A")]
    assert lists.clock.monotonic() == 0.0, "and the client waits for nothing"
    await call(lists.plugin, "shutdown")
    await asyncio.sleep(0)
    assert not lists.plugin._early


async def test_a_conversation():
    settings = {"lists": [{**ZEN, "action": "reject"}, {"zone": "uri.test", "of": "uri"}]}
    zone = {**listing(), **listing("uri.test", label="example.co.uk")}
    for ip, code in ((CLIENT, 554), ("198.51.99.8", 250)):
        driver = SessionDriver(
            entry_for(Dnsbl(DnsblSettings.model_validate(settings))), ip=ip, resolver=FakeResolver(zone)
        )
        delivery = await driver.deliver(RAW)
        assert delivery.reply.code == code
    assert [f.props["zone"] for f in delivery.mail.findings] == ["uri.test"]


async def test_trusted_clients_are_not_asked_about():
    settings = DnsblSettings.model_validate({"lists": [{**ZEN, "action": "reject"}]})
    resolver = FakeResolver(listing())
    driver = SessionDriver(Dnsbl(settings), ip=CLIENT, networks=[f"{CLIENT}/32"], resolver=resolver)
    assert (await driver.deliver(RAW)).reply.code == 250
    assert resolver.asked == []


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Example.ORG.", "example.org"),
        ("[192.0.2.1]", "1.2.0.192"),
        ("[IPv6:2001:db8::1]", ip_label("2001:db8::1")),
        ("localhost", ""),
        ("", ""),
        ("a b.example", ""),
        ("a..example", ""),
        ("x" * 64 + ".example", ""),
        (".".join(["abcdefgh"] * 40), ""),
    ],
)
def test_what_can_be_asked_for(name, label):
    assert domain_label(name) == label


def test_a_mapped_address_is_its_ipv4_address():
    assert ip_label("::ffff:192.0.2.1") == "1.2.0.192"


@pytest.mark.parametrize("text", ["128.0.0.1", "127.0.0", "127.0.0.9-127.0.0.2", "&3", "&256", "x", ""])
def test_codes_that_are_none(text):
    with pytest.raises(ValueError):
        parse_code(text)


def test_of_several_codes_the_one_that_is_worth_most_counts():
    codes = {parse_code("127.0.0.2"): 1.0, parse_code("127.0.0.3"): -4.0}
    assert weigh(["127.0.0.3", "127.0.0.2"], 9.0, codes).score == -4.0


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"lists": []}, "at least 1"),
        ({"lists": [{"zone": "a b"}]}, "domain of a list"),
        ({"lists": [ZEN, ZEN]}, "twice"),
        ({"lists": [{**ZEN, "of": "sender"}]}, "ip"),
        ({"lists": [{**ZEN, "codes": {"1.2.3.4": 1}}]}, "127.0.0.0"),
    ],
)
def test_mistakes_are_told(settings, word):
    with pytest.raises(ValidationError, match=word):
        DnsblSettings.model_validate(settings)
