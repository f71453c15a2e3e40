"""ARC against the suite of Valimail: every case of both parts."""

import os
import re
from pathlib import Path

import pytest
import yaml

from relayproxy.api import Answer, DnsStatus
from relayproxy.mailauth.arc_chain import find_chain
from relayproxy.mailauth.arc_seal import seal
from relayproxy.mailauth.arc_verify import body_forms, questions, verify
from relayproxy.mailauth.canonical import body_digests
from relayproxy.mailauth.dkim_keys import read_key
from relayproxy.model.edits import AddHeader, apply_to_message
from relayproxy.model.message import Message

SUITES = Path(os.environ.get("RELAYPROXY_SUITES", Path(__file__).parents[3] / "shared" / "suites"))
VALIMAIL = SUITES / "arc-valimail" / "tests"


def cases(name):
    path = VALIMAIL / name
    if not path.exists():
        return [pytest.param(None, None, marks=pytest.mark.skip(f"there is no {path}"), id="suite")]
    scenarios = [one for one in yaml.safe_load_all(path.read_text()) if one]
    return [
        pytest.param(scenario, test, id=name)
        for scenario in scenarios
        for name, test in scenario["tests"].items()
    ]


def message_of(text):
    return Message.from_bytes(text.encode().replace(b"\n", b"\r\n"))


def result(message, records, now=1_500_000_000):
    """Verify as a plugin does; `records` maps key names to texts."""
    chain = find_chain(message)
    answers = {
        question: Answer(DnsStatus.OK, (records[question[0]].encode(),))
        if question[0] in records
        else Answer(DnsStatus.NXDOMAIN)
        for question in questions(chain)
    }
    return verify(message, chain, answers, body_digests(message, body_forms(chain)), now=now)


@pytest.mark.parametrize(("scenario", "test"), cases("arc-draft-validation-tests.yml"))
def test_validation(scenario, test):
    found = result(message_of(test["message"]), scenario["txt-records"])
    # "" stands for a chain that ended with cv=fail, which is no third result (RFC 8617 section 4.4).
    assert found.result == (test["cv"].lower() or "fail"), found.reason


def own_results(message, authserv_id):
    """Return the results of all fields that bear our id, as one value, and what they say about ARC.

    The suite has the results in the message already, where the proxy makes them itself.
    """
    found = []
    for field in message.all("Authentication-Results"):
        name, _, results = field.value.partition(";")
        if name == authserv_id:
            found += [one.strip() for one in results.split(";")]
    said = [one.removeprefix("arc=") for one in found if one.startswith("arc=")]
    return ";\r\n\t".join([authserv_id, *found]), said


def same(ours, theirs):
    """Whether a field is the one expected, but for where it is folded."""
    ours = re.sub(r"\r\n[ \t]+", " ", ours)
    theirs = re.sub(r"\n", " ", theirs.strip())
    pairs = [dict(part.strip().split("=", 1) for part in one.split(";")) for one in (ours, theirs)]
    blank = [{name: value.replace(" ", "") for name, value in pair.items()} for pair in pairs]
    return blank[0] == blank[1]


@pytest.mark.parametrize(("scenario", "test"), cases("arc-draft-sign-tests.yml"))
def test_sealing(scenario, test):
    message = message_of(test["message"])
    results, said = own_results(message, test["srv-id"])
    added = seal(
        message,
        find_chain(message),
        read_key(scenario["privatekey"].encode()),
        cv=said[0] if said else "fail",
        results=results,
        domain=scenario["domain"],
        selector=scenario["sel"],
        now=test["t"],
        names=test["sig-headers"].split(":"),
    )
    if not test["AS"]:
        assert added is None
        return
    assert added.results.replace("\r\n\t", " ") == " ".join(test["AAR"].split())
    assert same(added.signature, test["AMS"])
    assert same(added.seal, test["AS"])
    sealed = apply_to_message(message, [AddHeader(*field) for field in added.fields])
    expected = "fail" if said == ["fail"] else "pass"
    assert result(sealed, scenario["txt-records"]).result == expected


def test_all_cases_are_there():
    if not VALIMAIL.exists():
        pytest.skip(f"there is no {VALIMAIL}")
    assert len(cases("arc-draft-validation-tests.yml")) == 171
    assert len(cases("arc-draft-sign-tests.yml")) == 17
