import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.mailauth.dmarc_record import POLICIES, DmarcRecord, parse_record


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"v=spf1 -all",
        b"v=DMARC1x; p=reject",
        b"v=dmarc1; p=reject",
        b" v=DMARC1; p=reject",
        b"p=reject; v=DMARC1",
        b"v=DMARC2; p=reject",
        b"v=DMARC1 p=reject",
        b"\xffv=DMARC1; p=reject",
    ],
)
def test_what_is_no_dmarc_record(text):
    assert parse_record(text) is None


@pytest.mark.parametrize(
    ("text", "record"),
    [
        (b"v=DMARC1;p=reject", DmarcRecord("reject")),
        (b"V = DMARC1 ; P = Reject ;", DmarcRecord("reject")),
        (b"v=DMARC1; p=none; sp=quarantine; np=reject", DmarcRecord("none", "quarantine", "reject")),
        (
            b"v=DMARC1; p=reject; adkim=s; aspf=S; psd=y; t=y",
            DmarcRecord("reject", "", "", "s", "s", "y", True),
        ),
        (b"v=DMARC1; p=reject; adkim=x; aspf=; psd=maybe; t=ny", DmarcRecord("reject")),
        (b"v=DMARC1; p=reject; pct=0; rf=afrf; ri=1; x=y; nonsense; =; ;;", DmarcRecord("reject")),
        (b"v=DMARC1; p=reject; p=none", DmarcRecord("reject")),
        (b"v=DMARC1; p=reject; x=\xff\xfe", DmarcRecord("reject")),
        (
            b"v=DMARC1; p=none; rua=mailto:a@x.example!10m, https://y.example/d ,nonsense; ruf=mailto:b@x.example; fo=1:d",
            DmarcRecord(
                rua=("mailto:a@x.example", "https://y.example/d"), ruf=("mailto:b@x.example",), fo="1:d"
            ),
        ),
        (b"v=DMARC1", DmarcRecord(usable=False)),
        (b"v=DMARC1; p=bogus", DmarcRecord(usable=False)),
        (b"v=DMARC1; p=reject; sp=bogus", DmarcRecord(usable=False)),
        (b"v=DMARC1; p=reject; np=", DmarcRecord(usable=False)),
        (b"v=DMARC1; rua=nonsense", DmarcRecord(usable=False)),
        (b"v=DMARC1; psd=y", DmarcRecord(psd="y", usable=False)),
        (b"v=DMARC1; rua=mailto:a@x.example", DmarcRecord(rua=("mailto:a@x.example",))),
        (b"v=DMARC1; p=reject; sp=bogus; rua=mailto:a@x.example", DmarcRecord(rua=("mailto:a@x.example",))),
    ],
)
def test_what_a_record_says(text, record):
    assert parse_record(text) == record


@pytest.mark.parametrize(
    ("text", "own", "below", "missing"),
    [
        (b"v=DMARC1; p=reject", "reject", "reject", "reject"),
        (b"v=DMARC1; p=reject; sp=none", "reject", "none", "none"),
        (b"v=DMARC1; p=none; sp=quarantine; np=reject", "none", "quarantine", "reject"),
        (b"v=DMARC1; p=none; np=reject", "none", "none", "reject"),
        (b"v=DMARC1; p=reject; t=y", "quarantine", "quarantine", "quarantine"),
        (b"v=DMARC1; p=quarantine; sp=none; np=reject; t=y", "none", "none", "quarantine"),
    ],
)
def test_which_policy_applies(text, own, below, missing):
    record = parse_record(text)
    assert record.policy_for(subdomain=False) == own
    assert record.policy_for(subdomain=True) == below
    assert record.policy_for(subdomain=True, exists=False) == missing
    assert record.policy_for(subdomain=False, exists=False) == own


TAGS = st.sampled_from(
    [b"p=reject", b"p=", b"sp=none", b"np=x", b"rua=mailto:a@b", b"psd=y", b"t=y", b"\xff", b"=", b"v=DMARC1"]
)


@given(
    st.lists(TAGS).map(lambda tags: b";".join([b"v=DMARC1", *tags]))
    | st.binary(max_size=60).map(b"v=DMARC1;".__add__)
)
def test_every_record_has_a_policy(text):
    record = parse_record(text)
    for subdomain in (True, False):
        assert record.policy_for(subdomain=subdomain, exists=False) in POLICIES


@given(st.binary(max_size=60))
def test_no_text_is_an_accident(text):
    parse_record(text)
    assert parse_record(b"x" + text) is None


@pytest.mark.parametrize("piece", [b";", b"p=", b" ", b"a=b;", b"rua=", b",", b"mailto:", b"!1"])
def test_long_records_are_read_in_one_pass(piece):
    for start in (b"v=DMARC1;", b"v=DMARC1; rua=", b"v=DMARC1"):
        record = parse_record(start + piece * (1_000_000 // len(piece)))
        assert record is None or record.policy_for(subdomain=False) == "none"
