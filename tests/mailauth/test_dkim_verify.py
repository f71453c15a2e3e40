"""Every rule of verification, on signatures that are right but for the one thing that a test is about."""

import base64
from hashlib import sha256

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st
from tests.mailauth.dkim_craft import ED25519, NAME, NOW, RAW, RSA, craft, result, results, zone_of

from relayproxy.api import Answer, DnsStatus
from relayproxy.mailauth import dkim_tags
from relayproxy.mailauth.canonical import BodyForm, body_digests
from relayproxy.mailauth.dkim_header import SignatureFault, read_record, read_signature
from relayproxy.mailauth.dkim_tags import Claim, without_b
from relayproxy.mailauth.dkim_verify import body_forms, find_signatures, questions, verify
from relayproxy.model.message import Message


def outcome(raw, zone=None, now=NOW):
    found = result(raw, zone, now)
    return found.result, found.reason


# -- what is right ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "c", ["simple/simple", "simple/relaxed", "relaxed/simple", "relaxed/relaxed", "relaxed"]
)
def test_all_algorithms(c):
    assert outcome(craft(c=c)) == ("pass", "")


def test_no_algorithm_means_simple():
    raw = craft(c="simple/simple", form="v={v}; a={a}; d={d}; s={s}; h={h}; bh={bh}; b=")
    assert outcome(raw) == ("pass", "")


def test_ed25519():
    assert outcome(craft(key=ED25519), zone_of(ED25519)) == ("pass", "")


def test_what_is_told_of_a_signature():
    raw = craft(more=" i=joe@News.example.org;")
    found = result(raw)
    b = raw.partition(b"; b=")[2][:8].decode()
    assert found.claim == Claim("example.org", "s1", "rsa-sha256", b)
    assert (found.identity, found.bits, found.testing) == ("joe@news.example.org", 2048, False)


def test_no_signature_is_no_result():
    assert results(RAW) == ()
    assert results(b"") == ()


def test_each_signature_has_its_own_result():
    two = craft(craft(), ED25519, s="s2")
    zone = zone_of() | {"s2._domainkey.example.org": [ED25519.record().encode()]}
    assert [found.result for found in results(two, zone)] == ["pass", "pass"]
    assert [found.result for found in results(two)] == ["permerror", "pass"]
    wrong_first = craft(craft(), bh=base64.b64encode(sha256(b"x").digest()).decode())
    assert [found.result for found in results(wrong_first)] == ["fail", "pass"]


def test_no_more_than_five_are_looked_at():
    raw = RAW
    for number in range(7):
        raw = craft(raw, s=f"s{number}")
    message = Message.from_bytes(raw)
    found = find_signatures(message)
    assert [signature.claim.selector for signature in found] == ["s6", "s5", "s4", "s3", "s2"]
    assert len(questions(found)) == 5
    assert len(find_signatures(message, 2)) == 2


def test_a_key_is_asked_for_once():
    assert questions(find_signatures(Message.from_bytes(craft(craft())))) == ((NAME, "TXT"),)


def test_what_can_not_be_verified_is_not_asked_for():
    found = find_signatures(Message.from_bytes(craft(v="2")))
    assert questions(found) == ()
    assert body_forms(found) == frozenset()


# -- the form of the field (RFC 6376 section 6.1.1) -------------------------------------------------------------


@pytest.mark.parametrize("missing", ["v", "a", "d", "s", "h", "bh", "b"])
def test_a_tag_that_is_missing(missing):
    tags = ["v=1", "a=rsa-sha256", "d=example.org", "s=s1", "h=from", "bh=YQ==", "b=YQ=="]
    raw = "; ".join(tag for tag in tags if not tag.startswith(f"{missing}="))
    assert outcome(b"DKIM-Signature: " + raw.encode() + b"\r\n" + RAW) == (
        "permerror",
        f"{missing}= is missing",
    )


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"v": "2"}, "v= is not 1"),
        ({"v": ""}, "v= is not 1"),
        ({"a": "rsa-sha1"}, "RFC 8301"),
        ({"a": "rsa-md5"}, "a= is not"),
        ({"a": "ed25519-sha512"}, "a= is not"),
        ({"c": "nofws"}, "c= is not"),
        ({"c": "relaxed/strict"}, "c= is not"),
        ({"c": ""}, "c= is not"),
        ({"h": "to:subject"}, "does not name From"),
        ({"h": "from::to"}, "not a list"),
        ({"h": "from:to you"}, "not a list"),
        ({"more": " q=dns/foo;"}, "q="),
        ({"more": " t=now;"}, "t= is not a time"),
        ({"more": " x=-1;"}, "x= is not a time"),
        ({"more": f" t={NOW}; x={NOW - 1};"}, "x= is before t="),
        ({"more": " i=joe@example.com;"}, "i= is not within"),
        ({"more": " i=joe@badexample.org;"}, "i= is not within"),
        ({"more": " i=example.org;"}, "i= is not within"),
        ({"more": " i=;"}, "i= is not within"),
        ({"l": "-1"}, "l= is not"),
        ({"l": "1" * 77}, "l= is not"),
        ({"l": ""}, "l= is not"),
        ({"bh": "?"}, "bh= is not base64"),
        ({"bh": ""}, "bh= is not base64"),
        ({"more": " v=1;"}, "twice"),
        ({"more": " b=YQ==;"}, "twice"),
        ({"more": " hello;"}, "no list of tags"),
        ({"more": " ;;"}, "no list of tags"),
        ({"more": " 1a=b;"}, "no list of tags"),
        ({"more": " a b=c;"}, "no list of tags"),
        ({"more": " x" + "y" * 16_384 + "=z;"}, "too long"),
    ],
)
def test_a_tag_that_is_wrong(tags, reason):
    found = result(craft(**tags))
    assert found.result == "permerror"
    assert reason in found.reason


@pytest.mark.parametrize(
    "name",
    # the first two are cases A3 and A4 of espoofer
    ["legitimate.com\x00.attack.com", "legitimate.com('.attack.com", "a..b", ".a", "-a.example", "a b", "a@b", "",
     "x" * 64, ".".join(["x" * 60] * 5), "\udcff"],
)  # fmt: skip
@pytest.mark.parametrize("tag", ["d", "s"])
def test_a_name_that_is_none(tag, name):
    raw = craft(**{tag: "PLACE"}).replace(b"PLACE", name.encode("utf-8", "surrogateescape"))
    found = result(raw)
    assert (found.result, found.reason) == ("permerror", "d= or s= is not a name")
    assert (found.claim.domain if tag == "d" else found.claim.selector) == ""


def test_names_are_folded_and_in_a_labels():
    found = result(craft(d="EXAMPLE.org", s="S1"))
    assert (found.result, found.claim.domain, found.claim.selector) == ("pass", "example.org", "s1")
    zone = {"s1._domainkey.xn--exmple-cua.org": [RSA.record().encode()]}
    found = result(craft(d="exämple.org", more=" i=jö@news.exämple.org;"), zone)
    assert (found.result, found.claim.domain) == ("pass", "xn--exmple-cua.org")
    assert found.identity == "jö@news.xn--exmple-cua.org"


@pytest.mark.parametrize(
    "form",
    [
        "v={v}; a={a}; c={c}; d={d}; s={s}; h={h}; bh={bh}; fh=abc; unknown=; b=",
        "b=; v={v}; a={a}; c={c}; d={d}; s={s}; h={h}; bh={bh};",
        "v = {v} ;\r\n\ta\t= {a} ; c={c}; d = {d}; s={s}; h=from :\r\n to\t: subject:date ; bh={bh}; b\r\n = ",
        "v={v};a={a};c={c};d={d};s={s};h={h};bh={bh};b=",
        "v={v}; a={a}; c={c}; d={d}; s={s}; q=dns/bar:DNS/TXT; h={h}; z=b=From: x; bh={bh}; b=",
    ],
)
def test_tags_in_any_order_with_blanks_and_unknown_ones(form):
    b_first = form.startswith("b=")
    raw = craft(form=form)
    if b_first:
        head, _, rest = raw.partition(b"\r\n")
        cut = head.rindex(b";") + 1
        raw = head[:cut].replace(b"b=;", b"b=" + head[cut:] + b";", 1) + b"\r\n" + rest
    assert outcome(raw) == ("pass", "")


@pytest.mark.parametrize("end", [b";", b"; ", b" ;\r\n ", b"\r\n\t"])
@pytest.mark.parametrize("c", ["simple/simple", "relaxed/relaxed"])
def test_what_follows_b_is_signed_too(end, c):
    """RFC 6376 section 3.5: only the value of b= and the blanks round it are left out."""
    head, _, rest = craft(c=c).partition(b"\r\n")
    found = result(head + end + b"\r\n" + rest)
    assert found.result == ("fail" if b";" in end else "pass")


def test_a_signature_may_be_folded_anywhere_within_b():
    raw = craft()
    at = raw.index(b"; b=") + 20
    assert outcome(raw[:at] + b"\r\n\t " + raw[at:]) == ("pass", "")


def test_a_bad_field_spoils_nothing():
    for line in (b"garbage\r\n", b": x\r\n", b"\xff\xfe: x\r\n", b"a b: c\r\n", b" leading\r\n"):
        assert outcome(craft(RAW.replace(b"To:", line + b"To:"))) == ("pass", "")


# -- the key (sections 3.6.1 and 6.1.2) -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (DnsStatus.NXDOMAIN, ("permerror", "there is no key")),
        (DnsStatus.NODATA, ("permerror", "there is no key")),
        (DnsStatus.SERVFAIL, ("temperror", "DNS gave no answer for the key (servfail)")),
        (DnsStatus.TIMEOUT, ("temperror", "DNS gave no answer for the key (timeout)")),
    ],
)
def test_no_answer_is_not_no_key(status, expected):
    assert outcome(craft(), {NAME: status}) == expected


P = RSA.record().rpartition("p=")[2]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (f"v=DKIM1; p={P}", "pass"),
        (f"p={P}", "pass"),
        (f"k=rsa; p={P};", "pass"),
        (f"v=DKIM1; g=joe; n=note; h=sha1:sha256; s=tlsrpt : email; t=x:s; unknown=1; p={P}", "pass"),
        (f"v=DKIM1; s=*; p={P[:50]} {P[50:90]}\t{P[90:]}", "pass"),
        ("v=DKIM1; p=", "the key is revoked"),
        ("v=DKIM1; p= ;", "the key is revoked"),
        (f"v=DKIM2; p={P}", "v="),
        (f"v=dkim1; p={P}", "v="),
        ("v=DKIM1; k=rsa", "p="),
        (f"v=DKIM1; k=dsa; p={P}", "k="),
        (f"v=DKIM1; k=ed25519; p={P}", "no ed25519 key"),
        (f"v=DKIM1; h=sha1; p={P}", "not for sha256"),
        (f"v=DKIM1; h=; p={P}", "not for sha256"),
        (f"v=DKIM1; s=tlsrpt; p={P}", "not for mail"),
        ("v=DKIM1; p=hello!", "p= is not base64"),
        ("v=DKIM1; p=aGVsbG8=", "no rsa key"),
        (f"v=DKIM1; p={P}; p={P}", "twice"),
        ("v=spf1 -all", "v= is not DKIM1"),
        ("hello", "no list of tags"),
        ("", "p="),
        ("\x00\x01", "no list of tags"),
        ("p=" + "A" * 20_000, "too long"),
        (ED25519.record(), "the key is for ed25519"),
    ],
)
def test_key_records(record, expected):
    found = result(craft(), {NAME: [record.encode()]})
    assert found.result == ("pass" if expected == "pass" else "permerror")
    assert expected == "pass" or expected in found.reason


def test_a_key_may_be_kept_from_subdomains():
    zone = zone_of(form="{record}; t=s")
    assert outcome(craft(), zone) == ("pass", "")
    assert outcome(craft(more=" i=joe@example.org;"), zone) == ("pass", "")
    assert outcome(craft(more=" i=joe@sub.example.org;")) == ("pass", "")
    assert outcome(craft(more=" i=joe@sub.example.org;"), zone)[0] == "permerror"


def test_a_domain_that_is_testing_can_not_fail():
    zone = zone_of(form="{record}; t=y : s")
    good, bad = result(craft(), zone), result(craft().replace(b"Hi.", b"Ho."), zone)
    assert (good.result, good.testing) == ("pass", True)
    assert (bad.result, bad.testing) == ("neutral", True)


def test_of_several_records_the_one_that_fits_counts():
    records = [b"v=spf1 -all", ED25519.record().encode(), b"p=", RSA.record().encode()]
    assert outcome(craft(), {NAME: records}) == ("pass", "")
    assert outcome(craft(), {NAME: records[:3]})[0] == "permerror"
    changed = craft().replace(b"Hi.", b"Ho.")
    assert outcome(changed, {NAME: records}) == ("fail", "the body was changed")
    assert outcome(craft(), {NAME: [b"p="] * 5 + records})[0] == "permerror"


def rsa_key(bits, exponent=65537):
    numbers = rsa.RSAPublicNumbers(exponent, (1 << bits) - 159).public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return base64.b64encode(numbers.public_bytes(serialization.Encoding.DER, form))


def test_a_key_that_would_cost_too_much_is_refused():
    for key in (rsa_key(8200), rsa_key(2048, (1 << 70) + 1)):
        found = result(craft(), {NAME: [b"p=" + key]})
        assert (found.result, found.bits) == ("permerror", 0)


class Short:
    """RSA with 512 bits, which no library makes any more."""

    algorithm = "rsa-sha256"
    n = int(
        "dc42a0e97703ed3b6bddd2ba070a48046231a314d5e8818326f77b6ff5f9ca4e"
        "5b83be8a7ac9b6d8271a349d4ac4e75ef8c4db8bb1c3a500c4aadd30fa585c89",
        16,
    )
    d = int(
        "cde1119b67fda99f6341e298b3bfee74fa7bbf1dd89c0d82d3c77bffb9019510"
        "51011b01abf254e4283d553e6192a533a23ac0f2f0ccb1132a44d9ca284d8fa9",
        16,
    )

    def sign(self, data):
        # RFC 8017 section 9.2
        info = bytes.fromhex("3031300d060960864801650304020105000420") + sha256(data).digest()
        block = b"\x00\x01" + b"\xff" * (64 - len(info) - 3) + b"\x00" + info
        return pow(int.from_bytes(block), self.d, self.n).to_bytes(64)

    def record(self):
        numbers = rsa.RSAPublicNumbers(65537, self.n).public_key()
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return "p=" + base64.b64encode(numbers.public_bytes(serialization.Encoding.DER, form)).decode()


def test_a_short_key_is_not_a_pass():
    raw = craft(key=Short())
    assert outcome(raw, zone_of(Short())) == ("policy", "the key has 512 bits, RFC 8301 wants 1024")
    assert outcome(raw.replace(b"Hi.", b"Ho."), zone_of(Short()))[0] == "fail"


# -- time -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (f" t={NOW + 300};", ("pass", "")),
        (f" t={NOW + 301};", ("policy", "it was made in the future")),
        (f" x={NOW - 300};", ("pass", "")),
        (f" x={NOW - 301};", ("policy", "it has expired")),
        (f" t={NOW - 10}; x={NOW - 10};", ("pass", "")),
        (f" x={'9' * 20};", ("pass", "")),
    ],
)
def test_times(more, expected):
    assert outcome(craft(more=more)) == expected


def test_time_does_not_excuse_a_change():
    assert outcome(craft(more=f" x={NOW - 999};").replace(b"Hi.", b"Ho."))[0] == "fail"


# -- l= ---------------------------------------------------------------------------------------------------------


def test_l_must_cover_the_body():
    whole = len(RAW.partition(b"\r\n\r\n")[2])
    assert outcome(craft(l=str(whole))) == ("pass", "")
    assert outcome(craft(l=str(whole - 1))) == ("policy", "l= leaves 1 octets of the body unsigned")
    assert outcome(craft(l="0"))[0] == "policy"
    assert outcome(craft(l=str(whole + 1))) == ("permerror", "l= is longer than the body")
    assert outcome(craft(l="9" * 76))[0] == "permerror"


def test_what_was_appended_behind_l_is_not_a_pass():
    whole = len(RAW.partition(b"\r\n\r\n")[2])
    raw = craft(l=str(whole))
    assert outcome(raw + b"\r\n\r\n") == ("pass", "")  # empty lines at the end are nothing
    assert outcome(raw + b"<img>\r\n") == ("policy", "l= leaves 7 octets of the body unsigned")
    assert outcome(raw.replace(b"Hi.", b"Ho.") + b"<img>\r\n")[0] == "fail"


# -- the header -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("added", "uncovered"),
    [
        (b"Subject: Another\r\n", ("subject",)),
        (b"To: all\r\nDate: x\r\n", ("to", "date")),
        (b"Reply-To: x\r\nContent-Type: text/html\r\nX-Other: y\r\n", ("reply-to", "content-type")),
    ],
)
def test_fields_that_were_added_are_named(added, uncovered):
    assert result(craft()).uncovered == ()
    found = result(added + craft())
    assert (found.result, found.uncovered) == ("pass", uncovered)
    covering = craft(h="from:from:to:to:subject:subject:date:date:reply-to:content-type")
    assert result(covering).result == "pass"
    assert result(added + covering).result == "fail"


def test_a_second_from_is_not_a_pass():
    assert outcome(b"From: x@example.com\r\n" + craft()) == ("policy", "a From is unsigned")
    two = RAW.replace(b"To:", b"From: x@example.com\r\nTo:")
    assert outcome(craft(two)) == ("policy", "a From is unsigned")
    assert outcome(craft(two, h="from:from:subject")) == ("pass", "")


def test_names_are_read_from_the_bottom_and_may_repeat():
    raw = RAW.replace(b"To:", b"X: 1\r\nX: 2\r\nX: 3\r\nTo:")
    twice = craft(raw, h="from:x:X:y")
    assert outcome(twice) == ("pass", "")
    assert outcome(twice.replace(b"X: 1\r\n", b"")) == ("pass", "")
    assert outcome(twice.replace(b"X: 2\r\n", b""))[0] == "fail"
    assert outcome(b"X: 0\r\n" + twice) == ("pass", "")
    assert outcome(twice.replace(b"X: 2\r\nX: 3", b"X: 3\r\nX: 2"))[0] == "fail"
    assert outcome(b"Y: 1\r\n" + twice)[0] == "fail"


def test_a_signature_may_cover_another():
    raw = craft(craft(s="s0"), h="from:dkim-signature")
    zone = zone_of() | {"s0._domainkey.example.org": [RSA.record().encode()]}
    assert [found.result for found in results(raw, zone)] == ["pass", "pass"]
    without = raw.replace(b" v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.org; s=s0", b" v=1; s=s0")
    assert [found.result for found in results(without, zone)] == ["fail", "permerror"]


def test_a_missing_from_is_not_signed_by_being_named():
    raw = RAW.replace(b"From: Joe <joe@example.org>\r\n", b"")
    assert outcome(craft(raw)) == ("pass", "")
    assert outcome(b"From: x@example.com\r\n" + craft(raw))[0] == "fail"


# -- against dkimpy ---------------------------------------------------------------------------------------------

CHANGES = st.lists(
    st.tuples(st.integers(0, 2000), st.sampled_from([b"", b" ", b"\t", b"x", b";", b"=", b"\r\n", b"\r\n "])),
    max_size=3,
)


@given(CHANGES, st.sampled_from(["simple/simple", "relaxed/relaxed", "simple/relaxed", "relaxed/simple"]))
def test_we_agree_with_dkimpy_on_whatever_was_changed(changes, c):
    raw = craft(c=c, more=" i=@example.org;")
    for place, octets in changes:
        at = place % len(raw)
        raw = raw[:at] + octets + raw[at + 1 :]
    if raw.count(b"\r\n") != raw.count(b"\n") or raw.count(b"\r\n") != raw.count(b"\r"):
        return  # bare line ends: dkimpy repairs them, we never see any
    try:
        theirs = dkim.verify(raw, dnsfunc=lambda name, timeout=5: RSA.record().encode())
    except (dkim.DKIMException, IndexError):
        return  # it gives up the whole message for one odd line
    except ValueError:
        theirs = False
    found = results(raw)
    ours = bool(found) and found[0].result in ("pass", "policy")
    assert ours == theirs, found


# -- anything at all --------------------------------------------------------------------------------------------

TAG_TEXT = st.lists(
    st.sampled_from(
        ["v=1", "a=rsa-sha256", "d=example.org", "s=s1", "h=from", "bh=YQ==", "b=YQ==", "l=1", "t=1", "x=0", "i=@",
         "c=relaxed", ";", "; ", "=", " ", "\r\n ", "\x00", "\xff", ":", "é", "a", "q=dns/txt"]
    )
).map("".join)  # fmt: skip


@given(TAG_TEXT | st.text())
def test_any_text_is_a_signature_or_a_fault(text):
    try:
        read_signature(b"DKIM-Signature: " + text.encode("utf-8", "surrogatepass") + b"\r\n")
    except SignatureFault as fault:
        said = fault.reason
    else:
        said = "it is well-formed"
    assert said


@given(TAG_TEXT.map(str.encode) | st.binary())
def test_any_octets_are_a_record_or_a_fault(text):
    record = read_record(text)
    assert record.fault or record.key is None or record.key.bits


@pytest.mark.parametrize(
    "filler",
    [b"a", b";", b"=", b":", b" ", b"a=b;", b"h=from:from;", b"\r\n ", b"A", b"\xff", b"a.", b"@"],
    ids=repr,
)
@pytest.mark.parametrize("tag", [b"", b"d=", b"h=", b"b=", b"i=", b"p=", b"t=", b"l=1", b"s="])
def test_a_megabyte_is_refused_unread(filler, tag, monkeypatch):
    monkeypatch.setattr(dkim_tags, "parse_tag_value", lambda text: pytest.fail(f"read {len(text)} octets"))
    text = tag + filler * (1_000_000 // len(filler))
    with pytest.raises(SignatureFault, match="too long"):
        read_signature(b"DKIM-Signature: " + text)
    assert read_record(text).fault == "it is too long"


def test_work_does_not_grow_with_the_product_of_names_and_fields():
    """A field is canonicalised once for each signature that names it, however often it does."""
    fields = b"".join(b"X%d: %s\r\n" % (number, b"y" * 1000) for number in range(200))
    names = ":".join(["from", *(f"x{number}" for number in range(200))] * 3)
    raw = RAW
    for _ in range(5):
        raw = craft(fields + raw if raw is RAW else raw, h=names)
    message = Message.from_bytes(raw)
    found = find_signatures(message)
    zone = {question: Answer(DnsStatus.OK, (RSA.record().encode(),)) for question in questions(found)}
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("relayproxy.mailauth.dkim_verify.relaxed_header", lambda raw: calls.append(raw) or raw)
        verify(message, found, zone, body_digests(message, body_forms(found)), now=NOW)
    assert len(calls) == 5 * (201 + 1)


def test_the_body_is_hashed_once_for_all_signatures():
    raw = craft(craft(craft(craft(RAW, l="5"), l="3"), c="relaxed"), s="s2")
    forms = body_forms(find_signatures(Message.from_bytes(raw)))
    assert forms == {BodyForm(True), BodyForm(True, 5), BodyForm(True, 3), BodyForm(False)}
    passes = []
    with pytest.MonkeyPatch.context() as patch:
        from relayproxy.mailauth import canonical

        once = canonical.canonical_body

        def counted(pieces, *, relaxed):
            passes.append(relaxed)
            return once(pieces, relaxed=relaxed)

        patch.setattr(canonical, "canonical_body", counted)
        body_digests(Message.from_bytes(raw), forms)
    assert sorted(passes) == [False, True]


@pytest.mark.parametrize(
    ("raw", "without"),
    [
        (b"DKIM-Signature: a=1; b=x y;\r\n c=2\r\n", b"DKIM-Signature: a=1; b=;\r\n c=2\r\n"),
        (b"DKIM-Signature: b =x; bh=y; b=z\r\n", b"DKIM-Signature: b =; bh=y; b=z\r\n"),
        (b"DKIM-Signature: bh=b=c;\r\n\tb\t=\r\n x\r\n", b"DKIM-Signature: bh=b=c;\r\n\tb\t="),
        (b"DKIM-Signature: xb=1; ab=2\r\n", b"DKIM-Signature: xb=1; ab=2\r\n"),
        (b"b=1; b=2", b"b=1; b=2"),
        (b";b=1:b=2", b";b=1:b="),
        (b"", b""),
    ],
)
def test_the_value_of_b_alone_is_taken_out(raw, without):
    assert without_b(raw) == without
