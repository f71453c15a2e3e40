"""Nonsense made of the pieces of each grammar: parsers refuse it in the way they say, or return.

RELAYPROXY_FUZZ is the number of examples for each (`make fuzz` takes twenty thousand).
"""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz.hostile import HOSTILE
from tests.fuzz.targets import TARGETS

EXAMPLES = int(os.environ.get("RELAYPROXY_FUZZ", "50"))
targets = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


@targets
def test_nonsense_is_refused_or_read(target):
    words = st.one_of(st.sampled_from(target.words), st.binary(max_size=6))

    @settings(max_examples=EXAMPLES)
    @given(st.lists(words, max_size=40).map(b"".join))
    def fuzz(data):
        for name in target.fields or (b"",):
            target.run(name + data)

    fuzz()


@targets
@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_what_is_made_to_cost_time_is_refused_or_read(target, hostile):
    for data in target.inputs(hostile, 20_000):
        target.run(data)
