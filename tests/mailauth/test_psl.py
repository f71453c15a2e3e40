import os
import re
from pathlib import Path

import pytest

from relayproxy.mailauth.psl import organizational_domain
from relayproxy.model.address import to_a_label

SUITES = Path(os.environ.get("RELAYPROXY_SUITES", Path(__file__).parents[3] / "shared" / "suites"))
TESTS = SUITES / "psl" / "tests" / "test_psl.txt"


def vectors():
    if not TESTS.exists():
        return [pytest.param("", "", marks=pytest.mark.skip(f"there is no {TESTS}"))]
    calls = re.findall(
        r"^checkPublicSuffix\('([^']*)', (?:'([^']*)'|null)\);", TESTS.read_text(), re.MULTILINE
    )
    return [
        (to_a_label(domain), to_a_label(wanted or domain))
        for domain, wanted in calls
        if not domain.startswith(".")  # no domain of a mail address does
    ]


@pytest.mark.parametrize(("domain", "wanted"), vectors())
def test_vectors_of_the_list(domain, wanted):
    assert organizational_domain(domain) == wanted
