"""The "SRS" row of the traps: hash case folding, SRS1 on double forward, expiry, the null sender untouched."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.mailauth.srs import LONGEST_LOCAL, Srs, SrsFault
from relayproxy.model.address import NULL_SENDER, Address
from relayproxy.smtp.commands import parse_address

DAY = 86_400
NOW = 1_790_000_000.0
B = Srs("b.example", (b"key of b",))
C = Srs("c.example", (b"key of c",))
D = Srs("d.example", (b"key of d",))
SENDER = Address("user", "orig.example")


def fault(srs, address, now=NOW):
    with pytest.raises(SrsFault) as caught:
        srs.reverse(address, now)
    return caught.value.kind


def changed(address, **parts):
    return Address(parts.get("local", address.local), parts.get("domain", address.domain))


def test_the_form_is_the_one_in_use():
    made = B.forward(SENDER, NOW)
    head, hash_, stamp, domain, local = made.local.split("=")
    assert (head, domain, local, made.domain) == ("SRS0", "orig.example", "user", "b.example")
    assert (len(hash_), len(stamp)) == (6, 2)


def test_the_timestamp_is_the_day_in_base32():
    stamps = [B.forward(SENDER, day * DAY).local.split("=")[2] for day in (0, 1, 31, 32, 1023, 1024)]
    assert stamps == ["aa", "ab", "a7", "ba", "77", "aa"]


def test_there_and_back():
    assert B.reverse(B.forward(SENDER, NOW), NOW) == SENDER


def test_the_null_sender_stays():
    assert B.forward(NULL_SENDER, NOW) is None


@pytest.mark.parametrize(
    "sender", [Address("postmaster", ""), Address("a", "[192.0.2.1]"), Address("a", "x_.ü ")]
)
def test_a_sender_without_a_host_name_stays(sender):
    assert B.forward(sender, NOW) is None


def test_a_domain_is_written_in_a_labels():
    back = B.reverse(B.forward(Address("a", "Bücher.example"), NOW), NOW)
    assert back == Address("a", "xn--bcher-kva.example")


@pytest.mark.parametrize("fold", [str.lower, str.upper, str.swapcase])
def test_servers_may_change_the_case(fold):
    made = B.forward(Address("User.Name", "orig.example"), NOW)
    back = B.reverse(Address(fold(made.local), fold(made.domain)), NOW)
    assert back.key.lower() == "user.name@orig.example"


def test_only_ascii_letters_are_alike():
    made = B.forward(Address("kay", "orig.example"), NOW)
    assert fault(B, changed(made, local=made.local.replace("kay", "\u212aay"))) == "forged"


def test_forwarded_twice_the_bounce_goes_to_the_first_forwarder_and_home():
    first = B.forward(SENDER, NOW)
    second = C.forward(first, NOW)
    assert second.local.startswith("SRS1=")
    assert second.local.endswith(f"=b.example={first.local[4:]}")
    assert C.reverse(second, NOW) == first
    assert B.reverse(first, NOW) == SENDER


def test_forwarded_thrice_the_address_does_not_grow():
    first = B.forward(SENDER, NOW)
    second = C.forward(first, NOW)
    third = D.forward(second, NOW)
    assert len(third.local) == len(second.local)
    assert D.reverse(third, NOW) == first  # past C, which rewrote it in between


@pytest.mark.parametrize("separator", "+-=")
def test_the_separators_of_other_forwarders_are_kept(separator):
    theirs = Address(f"SRS0{separator}xyz=AB=orig.example=user", "b.example")
    assert C.reverse(C.forward(theirs, NOW), NOW) == theirs


def test_of_another_forwarder_not_even_an_empty_address_is_judged():
    theirs = Address("SRS0=", "b.example")
    assert C.reverse(C.forward(theirs, NOW), NOW) == theirs


@pytest.mark.parametrize("local", ["SRS1", "SRS1=x", "SRS1=abcdef=b.example=no-separator", "SRS2=a", "srs0"])
def test_what_only_looks_like_it_is_rewritten_like_anything(local):
    made = C.forward(Address(local, "b.example"), NOW)
    assert made.local.startswith("SRS0=")
    assert C.reverse(made, NOW) == Address(local, "b.example")


def test_it_expires():
    made = B.forward(SENDER, NOW)
    assert B.reverse(made, NOW + 21 * DAY) == SENDER
    assert fault(B, made, NOW + 22 * DAY) == "expired"
    assert fault(B, made, NOW + 1000 * DAY) == "expired"


def test_a_clock_may_be_a_day_behind_and_no_more():
    made = B.forward(SENDER, NOW)
    assert B.reverse(made, NOW - DAY) == SENDER
    assert fault(B, made, NOW - 2 * DAY) == "expired"


def test_keys_rotate():
    made = B.forward(SENDER, NOW)
    rotated = Srs("b.example", (b"new", b"key of b"))
    assert rotated.reverse(made, NOW) == SENDER
    assert rotated.forward(SENDER, NOW) != made
    assert rotated.forward(SENDER, NOW) == Srs("b.example", (b"new",)).forward(SENDER, NOW)
    assert fault(Srs("b.example", (b"new",)), made) == "forged"


@pytest.mark.parametrize("keys", [(), (b"",), (b"good", b"")])
def test_a_key_is_needed(keys):
    with pytest.raises(ValueError, match="key"):
        Srs("b.example", keys)


@pytest.mark.parametrize("days", [0, 1023])
def test_days_that_a_timestamp_can_tell(days):
    with pytest.raises(ValueError, match="days"):
        Srs("b.example", (b"k",), days)


def test_other_addresses_are_none_of_its_business():
    assert B.reverse(Address("user", "b.example"), NOW) is None
    assert B.reverse(C.forward(SENDER, NOW), NOW) is None
    assert B.reverse(Address("SRS0", "b.example"), NOW) is None


@pytest.mark.parametrize("part", range(1, 5))
def test_a_changed_part_is_a_forgery(part):
    made = B.forward(SENDER, NOW)
    parts = made.local.split("=")
    parts[part] = {3: "evil.example"}.get(
        part, parts[part].translate(str.maketrans("abcuser", "bcdxyzw")) + ""
    )
    if parts == made.local.split("="):
        parts[part] = "777777"[: len(parts[part])]
    assert fault(B, changed(made, local="=".join(parts))) == "forged"


def test_a_hash_of_one_kind_is_none_of_the_other():
    second = C.forward(Address("SRS0-x=yz", "ab"), NOW)
    hash_ = second.local.split("=")[1]
    assert fault(C, Address(f"SRS0={hash_}=ab=-x=yz", "c.example")) == "forged"


@pytest.mark.parametrize(
    "local",
    ["SRS0=", "SRS0=abcdef", "SRS0=abcdef=aa=x", "SRS0=abcdef=aa==user", "SRS0=abcde1=aa=x.example=user",
     "SRS1=abcdef=x.example=user", "SRS1==", "SRS0=abcdef=aa=[1]=u", "SRS0=" + "a" * 1000],
)  # fmt: skip
def test_an_incomplete_address_is_malformed(local):
    assert fault(B, Address(local, "b.example")) == "malformed"


def test_a_local_part_has_64_octets_at_most():
    # SRS0=hhhhhh=tt= are 15 octets, orig.example= 13
    fits = Address("a" * 36, "orig.example")
    assert len(B.forward(fits, NOW).local) == LONGEST_LOCAL
    assert B.forward(Address("a" * 37, "orig.example"), NOW) is None
    assert B.forward(Address("\u00e4" * 19, "orig.example"), NOW) is None


@pytest.mark.parametrize("local", ['"a b"', r'"a\"b"', r'"a\\b"', '"a@b"', '"SRS0=x=y=z=w"', '""'])
def test_quotes_go_round_the_whole(local):
    made = B.forward(Address(local, "orig.example"), NOW)
    assert parse_address(str(made)) == made
    back = B.reverse(made, NOW)
    assert parse_address(str(back)) == back
    assert back.local.strip('"') == local.strip('"')


locals_ = st.from_regex(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,20}(\.[A-Za-z0-9=+-]{1,10})?", fullmatch=True)
hosts = st.from_regex(r"[a-z0-9]{1,8}\.[a-z]{2,6}", fullmatch=True)


@given(locals_, hosts, st.integers(0, 4_000_000_000), st.integers(0, 21))
def test_every_sender_comes_back(local, host, now, days):
    made = B.forward(Address(local, host), now)
    if made is not None:
        assert parse_address(str(made)) == made
        assert len(made.local.encode()) <= LONGEST_LOCAL
        assert B.reverse(made, now + days * DAY) == Address(local, host)


@given(locals_, hosts)
def test_every_chain_leads_home(local, host):
    first = B.forward(Address(local, host), NOW)
    second = C.forward(first, NOW) if first else None
    if second is not None:
        assert B.reverse(C.reverse(second, NOW), NOW) == Address(local, host)
