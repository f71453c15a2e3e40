import base64
import re
from hashlib import sha256

import dkim
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.mailauth.arc_craft import KEY, NOW, RAW, hop, hops, result

from relayproxy.api import DnsStatus
from relayproxy.mailauth import arc_seal
from relayproxy.mailauth.arc_chain import MOST_SETS, find_chain
from relayproxy.mailauth.arc_seal import default_names, seal
from relayproxy.mailauth.arc_verify import questions, seal_input
from relayproxy.mailauth.canonical import relaxed_header
from relayproxy.mailauth.dkim_keys import new_ed25519_key, new_rsa_key
from relayproxy.mailauth.dkim_tags import without_b
from relayproxy.model.edits import header_line
from relayproxy.model.message import Message

BODY_OF_RAW = RAW.partition(b"\r\n\r\n")[2]
NAME = "s1._domainkey.hop.example"
RECORD = KEY.record().encode()


def dkimpy_says(raw):
    return dkim.arc_verify(raw, dnsfunc=lambda name, timeout=5: RECORD)[0]


def chain_of(raw):
    return find_chain(Message.from_bytes(raw))


# -- sealed and verified -----------------------------------------------------------------------------------------


def test_no_field_of_arc_is_no_chain():
    assert result(RAW).result == "none"
    assert questions(chain_of(RAW)) == ()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_chain_of_ours_passes(count):
    raw = hops(count)
    found = result(raw)
    assert (found.result, found.sealers, found.oldest_pass) == ("pass", ("hop.example",) * count, 0)
    assert found.covers_from
    assert dkimpy_says(raw) == b"pass"


def test_fifty_sets_pass_and_nobody_adds_another():
    raw = hops(MOST_SETS)
    assert result(raw).result == "pass"
    message = Message.from_bytes(raw)
    assert seal_of(message, cv="pass") is None


def test_fifty_one_sets_fail_before_anything_is_asked():
    raw = hops(MOST_SETS) + b""
    more = b"".join(field.raw.replace(b"i=1;", b"i=51;") for field in Message.from_bytes(raw).fields[:3])
    chain = chain_of(more + raw)
    assert chain.fault == "there are more than 50 sets"
    assert questions(chain) == ()
    assert seal_of(Message.from_bytes(more + raw), cv="fail") is None


def test_the_new_set_is_at_the_very_top():
    names = [field.name for field in Message.from_bytes(hop(hop(RAW))).fields]
    one = ["ARC-Seal", "ARC-Message-Signature", "ARC-Authentication-Results"]
    assert names[:6] == one * 2


def test_sets_may_stand_in_any_order():
    fields = [field.raw for field in Message.from_bytes(hops(3)).fields]
    body = BODY_OF_RAW
    assert result(b"".join(reversed(fields[:9])) + b"".join(fields[9:]) + b"\r\n" + body).result == "pass"


def test_what_was_changed_between_hops_is_told():
    raw = hop(hop(RAW).replace(b"Subject: ", b"Subject: [list] "))
    assert (result(raw).result, result(raw).oldest_pass) == ("pass", 2)
    assert result(hop(raw)).oldest_pass == 2
    assert result(hop(hop(RAW).replace(b"game", b"match"))).oldest_pass == 2


def test_a_change_after_the_last_hop_fails():
    found = result(hops(2).replace(b"Subject: ", b"Subject: [list] "))
    assert found.result == "fail"
    assert found.reason == "signature 2: a field was changed, or the key is another"
    assert result(hops(2).replace(b"game", b"match")).reason == "signature 2: the body was changed"


@pytest.mark.parametrize("field", [b"From: Eve <eve@example.com>", b"Subject: x", b"Reply-To: x@example.com"])
def test_a_field_added_after_the_last_hop_fails(field):
    assert result(field + b"\r\n" + hop(RAW)).result == "fail"


@pytest.mark.parametrize("part", [b"mx.hop.example; spf=pass", b"h=From", b"cv=none"])
def test_a_change_of_an_earlier_set_fails(part):
    raw = hops(2)
    at = raw.rindex(part)
    changed = (
        raw[:at]
        + part.replace(b"none", b"none ; x=1").replace(b"spf=pass", b"spf=fail")
        + raw[at + len(part) :]
    )
    if changed == raw:
        changed = raw[:at] + b"h=Frob:From" + raw[at + len(part) :]
    found = result(changed)
    assert found.result == "fail"
    assert found.reason.startswith("seal 1: ")


# -- the form of a chain -----------------------------------------------------------------------------------------


def fields_of(raw):
    return [field.raw for field in Message.from_bytes(raw).fields]


def without(raw, number):
    fields = fields_of(raw)
    del fields[number]
    return b"".join(fields) + b"\r\n" + raw.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("number", range(6))
def test_a_set_with_a_field_missing(number):
    raw = without(hops(2), number)
    assert result(raw).result == "fail"
    assert questions(chain_of(raw)) == ()


@pytest.mark.parametrize("number", range(3))
def test_a_field_that_occurs_twice(number):
    raw = hops(2)
    found = result(fields_of(raw)[number] + raw)
    assert found.result == "fail"
    assert "occurs twice" in found.reason


def test_a_gap():
    raw = without(without(without(hops(3), 3), 3), 3)
    assert result(raw).reason == "set 2 is not complete"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"i=1;", b"i=0;", "i= is not an instance"),
        (b"i=1;", b"i=51;", "i= is not an instance"),
        (b"i=1;", b"i=001;", "i= is not an instance"),
        (b"i=1;", b"i=\xc2\xb2;", "i= is not an instance"),
        (b"i=1;", b"", "i= is missing"),
        (b"a=rsa-sha256", b"a=rsa-sha1", "rsa-sha1 is no longer a signature"),
        (b"a=rsa-sha256", b"a=rsa-md5", "a= is not an algorithm"),
        (b"d=hop.example", b"d=hop.example('", "d= or s= is not a name"),
        (b"s=s1", b"s=s1\x00", "d= or s= is not a name"),
        (b"s=s1", b"s=\xff", "d= or s= is not a name"),
        (b"d=hop.example", b"d=" + b"a." * 600 + b"example", "d= or s= is not a name"),
        (b"t=1", b"t=x", "t= is not a time"),
        (b"t=1", b"i=1;t=1", "a tag occurs twice"),
    ],
)
@pytest.mark.parametrize("number", [0, 1])
def test_a_field_that_is_no_good(number, old, new, reason):
    fields = fields_of(hop(RAW))
    fields[number] = fields[number].replace(old, new)
    raw = b"".join(fields) + b"\r\n" + BODY_OF_RAW
    assert result(raw).result == "fail"
    assert reason in result(raw).reason


@pytest.mark.parametrize(
    "junk", [b"ARC-Seal: x\r\n", b"ARC-Message-Signature: i=2\r\n", b"ARC-Authentication-Results:\r\n"]
)
def test_a_field_that_belongs_to_no_set_breaks_the_chain(junk):
    assert result(junk + hop(RAW)).result == "fail"


def test_a_seal_must_not_name_fields():
    raw = hop(RAW).replace(b"cv=none;", b"cv=none; h=from;")
    assert result(raw).reason == "ARC-Seal: it has h="


@pytest.mark.parametrize(
    ("count", "old", "new", "reason"),
    [
        (1, b"cv=none", b"cv=pass", "seal 1 says cv=pass"),
        (2, b"cv=pass", b"cv=none", "seal 2 says cv=none"),
        (2, b"cv=none", b"cv=fail", "seal 1 says that the chain had failed"),
        (1, b"cv=none", b"cv=None", "ARC-Seal: cv= is neither none, pass nor fail"),
    ],
)
def test_verdicts_of_earlier_hops(count, old, new, reason):
    assert result(hops(count).replace(old, new)).reason == reason


def test_a_signature_must_not_cover_seals():
    assert "h= names ARC-Seal" in result(hop(RAW, names=["From", "ARC-Seal"])).reason


def test_a_chain_that_leaves_a_from_open_is_told():
    assert not result(hop(RAW, names=["Subject"])).covers_from
    assert not result(b"From: eve@example.com\r\n" + hop(RAW, names=["From"])).covers_from
    assert result(hop(RAW, names=["From"])).covers_from


@pytest.mark.parametrize(("limit", "reason"), [(26, ""), (25, "l= "), (27, "l= "), (0, "l= "), ("x", "l= ")])
def test_a_length_must_be_that_of_the_body(limit, reason):
    fields = fields_of(hop(RAW))
    octets = BODY_OF_RAW[: limit if limit != "x" else None]
    digest = base64.b64encode(sha256(octets).digest()).decode()
    tags = re.sub(rb"bh=[^;]+;", f"bh={digest}; l={limit};".encode(), fields[1])
    covered = Message.from_bytes(RAW).fields
    names = [field.name for field in covered]
    tags = re.sub(rb"h=From[^;]+;", f"h={':'.join(names)};".encode(), tags)
    block = b"".join(relaxed_header(field.raw) for field in covered) + relaxed_header(without_b(tags))[:-2]
    signature = re.sub(rb"b=[^;]+;", b"b=" + base64.b64encode(KEY.sign(block)) + b";", tags, count=1)
    block = seal_input(b"", fields[2], signature, fields[0])
    seal = re.sub(rb"b=[^;]+;", b"b=" + base64.b64encode(KEY.sign(block)) + b";", fields[0])
    found = result(seal + signature + fields[2] + RAW)
    assert found.result == ("fail" if reason else "pass"), found.reason
    assert reason in found.reason


def test_an_expired_signature_fails():
    signature = Message.from_bytes(hop(RAW)).fields[1].raw
    raw = hop(RAW).replace(signature, signature.replace(b"t=17", b"x=%d; t=17" % (NOW - 301)))
    assert result(raw).reason == "signature 1: it has expired"


# -- keys --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [DnsStatus.SERVFAIL, DnsStatus.TIMEOUT])
def test_a_key_that_dns_does_not_tell_is_a_temperror(status):
    raw = hop(hop(RAW), selector="other")
    assert result(raw, {NAME: status}).result == "temperror"
    assert result(raw, {"other._domainkey.hop.example": status}).result == "temperror"


def test_what_is_wrong_anyway_is_no_temperror():
    raw = hop(hop(RAW), selector="other").replace(b"game", b"match")
    assert result(raw, {NAME: DnsStatus.SERVFAIL}).result == "fail"


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        (DnsStatus.NXDOMAIN, "there is no key"),
        (DnsStatus.NODATA, "there is no key"),
        ([b"v=DKIM1; p="], "the key is revoked"),
        ([b"p=%%%"], "the key record is unusable: p= is not base64"),
        ([new_ed25519_key().record().encode()], "the key is for ed25519"),
        ([RECORD + b"; h=sha1"], "the key is not for sha256"),
        ([RECORD + b"; s=tlsrpt"], "the key is not for mail"),
        ([new_rsa_key().record().encode()], "a field was changed, or the key is another"),
    ],
)
def test_keys_that_are_not_good_for_it(records, reason):
    assert result(hop(RAW), {NAME: records}).reason == f"signature 1: {reason}"


def test_one_good_record_among_several():
    assert (
        result(hop(RAW), {NAME: [b"v=spf1 -all", new_rsa_key().record().encode(), RECORD]}).result == "pass"
    )
    assert result(hop(RAW), {NAME: [b"v=spf1 -all"] * 5 + [RECORD]}).result == "fail"


def test_the_same_key_is_asked_for_once():
    assert questions(chain_of(hops(3))) == ((NAME, "TXT"),)


# -- sealing -----------------------------------------------------------------------------------------------------


def seal_of(message, **more):
    given = {
        "cv": "none",
        "results": "mx.hop.example; none",
        "domain": "hop.example",
        "selector": "s1",
        "now": NOW,
    }
    return seal(message, find_chain(message), more.pop("key", KEY), **(given | more))


def test_a_broken_chain_gets_one_last_set_that_vouches_for_nothing():
    broken = hop(RAW).replace(b"game", b"match")
    raw = hop(broken, "fail")
    assert result(raw).reason == "seal 2 says that the chain had failed"
    assert seal_of(Message.from_bytes(raw), cv="fail") is None
    # The seal covers its own set only: it holds without the first.
    own = Message.from_bytes(raw).fields[:3]
    block = seal_input(b"", own[2].raw, own[1].raw, own[0].raw)
    b = re.search(rb"b=([^;]+)", own[0].raw)[1]
    assert KEY.public.verifies(base64.b64decode(b), block)


def test_a_chain_whose_form_is_broken_is_counted_on_from_what_can_be_read():
    raw = without(hops(3), 7)
    assert b"i=4; mx.hop.example" in hop(raw, "fail")


def test_fields_without_an_instance_can_not_be_counted_on_from():
    assert seal_of(Message.from_bytes(b"ARC-Seal: x\r\n" + RAW), cv="fail") is None


@pytest.mark.parametrize(("count", "cv"), [(0, "pass"), (0, "fail"), (1, "none"), (1, "temperror")])
def test_a_verdict_that_can_not_be(count, cv):
    with pytest.raises(ValueError, match=f"cv={cv} can't be said"):
        seal_of(Message.from_bytes(hops(count)), cv=cv)


def test_a_broken_chain_is_not_called_a_pass():
    with pytest.raises(ValueError, match="cv=pass can't be said"):
        seal_of(Message.from_bytes(without(hops(2), 0)), cv="pass")


def test_only_rsa():
    with pytest.raises(ValueError, match="rsa-sha256"):
        seal_of(Message.from_bytes(RAW), key=new_ed25519_key())


@pytest.mark.parametrize(("domain", "selector"), [("a;b", "s1"), ("a.example", "s 1"), ("", "s1")])
def test_names_that_can_not_stand_in_a_tag(domain, selector):
    with pytest.raises(ValueError, match="is no host name"):
        seal_of(Message.from_bytes(RAW), domain=domain, selector=selector)


def test_what_is_signed_by_default():
    names = default_names(
        Message.from_bytes(b"DKIM-Signature: a\r\nDKIM-Signature: b\r\nSender: c\r\n" + RAW)
    )
    assert [names.count(name) for name in ("From", "Cc", "Sender", "DKIM-Signature", "List-Id")] == [
        2,
        1,
        2,
        2,
        0,
    ]
    assert not {"authentication-results", "arc-seal"} & {name.lower() for name in names}


def test_lines_are_short_enough_whatever_the_key_and_the_fields():
    many = b"".join(b"To: %d@example.net\r\n" % n for n in range(500))
    raw = hop(many + RAW)
    assert result(raw).result == "pass"
    assert all(len(line) <= 998 for line in raw.split(b"\r\n"))
    value = arc_seal._value({"a": "rsa-sha256", "b": "A" * 1368, "cv": "none"})
    assert header_line("ARC-Seal", value)
    assert all(len(line) <= 998 for line in value.split("\r\n"))


# -- differential and fuzz ---------------------------------------------------------------------------------------

WORD = st.text("ab \t", max_size=8)
FIELD = st.tuples(
    st.sampled_from(["To", "Cc", "Subject", "List-Id", "X-a"]), st.lists(WORD, min_size=1, max_size=3)
)
BODY = st.lists(st.text("xy \t", max_size=6), max_size=6).map(
    lambda lines: "".join(f"{line}\r\n" for line in lines)
)


@st.composite
def messages(draw):
    lines = ["From: joe@example.org"]
    for name, words in draw(st.lists(FIELD, max_size=5)):
        folded = "\r\n\t".join(f"z{word}" for word in words)
        lines.append(f"{name}: {folded}")
    return ("\r\n".join(lines) + "\r\n\r\n" + draw(BODY)).encode()


@settings(max_examples=60, deadline=None)
@given(messages(), st.integers(1, 3))
def test_dkimpy_agrees_that_our_chains_pass(raw, count):
    sealed = hops(count, raw)
    assert result(sealed).result == "pass"
    assert dkimpy_says(sealed) == b"pass"


CHAIN = hops(2)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, len(CHAIN) - 1),
    st.sampled_from([b"", b" ", b";", b"=", b"1", b"a", b"A", b"\r\n ", b"\xff"]),
    st.integers(0, 2),
)
def test_a_change_that_passes_is_one_of_blanks_or_case(at, inserted, dropped):
    changed = CHAIN[:at] + inserted + CHAIN[at + dropped :]
    if result(changed).result == "pass":
        assert squeezed(changed) == squeezed(CHAIN)


def squeezed(raw):
    # The last character of base64 in front of "==" has four bits that stand for nothing.
    return re.sub(rb"\w==;", b"==;", b"".join(raw.split()).lower())


@pytest.mark.parametrize("blank", [b" ", b"\t", b"\r\n "])
def test_blanks_around_the_value_of_b_are_not_signed(blank):
    # RFC 6376 section 3.7: it is deleted with all of them. dkimpy leaves those behind it, and disagrees.
    raw = re.sub(rb" b=([^;]+);", rb" b=" + blank + rb"\1" + blank + b";", hop(RAW), count=1)
    assert raw != hop(RAW)
    assert result(raw).result == "pass"


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ARC-Seal", "ARC-Message-Signature", "ARC-Authentication-Results"]),
            st.one_of(st.binary(max_size=80), st.text("ibhcvadst=;:1 \r\n\t.@", max_size=80).map(str.encode)),
        ),
        max_size=8,
    )
)
def test_no_field_makes_it_raise(fields):
    raw = b"".join(name.encode() + b":" + value + b"\r\n" for name, value in fields) + RAW
    chain = chain_of(raw)
    assert chain.fault or len(chain.sets) == chain.highest
    assert result(raw).result in {"none", "fail"}


@pytest.mark.parametrize(
    "piece", [b";", b"i=1;", b" ", b"\r\n ", b"(", b"a=b;", b"\xff", b"h=from:", b"b=", b":", b"=", b"\t;"]
)
@pytest.mark.parametrize("name", [b"ARC-Seal", b"ARC-Message-Signature", b"ARC-Authentication-Results"])
def test_a_megabyte_of_anything_is_refused(name, piece):
    raw = name + b": i=1;" + piece * (1_000_000 // len(piece)) + b"\r\n" + RAW
    assert chain_of(raw).fault
    assert result(raw).result == "fail"
