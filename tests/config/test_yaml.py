"""Reading YAML: any text answers, nothing ends the process, and scalars are those of YAML 1.2."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.config import yaml


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? ", "[{a: "])
def test_depth_is_bounded_before_anything_recurses(opening):
    document = yaml.read(opening * 60_000)
    assert not document.readable
    assert [fault.code for fault in document.faults] == ["RP107"]


def test_a_well_formed_deep_file_does_not_end_the_process():
    # The C composer recurses: 30,000 levels are a segmentation fault, which no test in this process would survive.
    code = "from relayproxy.config import yaml; n = 60_000; print(len(yaml.read('[' * n + ']' * n).faults))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


@given(st.text())
def test_any_text_answers(text):
    document = yaml.read(text)
    assert document.readable or document.faults
    for fault in document.faults:
        assert fault.span.line >= 1
        assert fault.span.column >= 1


@given(st.text(alphabet="ab:-[]{}&*!|>'\"#%@,? \n\t", max_size=60))
def test_any_indicators_answer(text):
    document = yaml.read(text)
    assert document.readable or document.faults


@pytest.mark.parametrize("length", [41, 5000])
def test_numbers_of_very_many_digits_are_text(length):
    assert yaml.parse_scalar("9" * length) == "9" * length


def test_a_recursive_alias_ends():
    document = yaml.read("a: &a\n  b: *a\n")
    assert not document.readable


def test_an_alias_stands_for_its_value_and_has_values_of_its_own():
    document = yaml.read("a: &x {n: [1]}\nb: *x\n")
    assert document.value == {"a": {"n": [1]}, "b": {"n": [1]}}
    assert document.value["a"] is not document.value["b"]


@pytest.mark.parametrize("break_", ["\n", "\r\n", "\r", "\x85", "\u2028"])
def test_places_count_the_lines_that_yaml_counts(break_):
    document = yaml.read(f"a: 1{break_}b: 2{break_}")
    assert (document.keys[("b",)].line, document.keys[("b",)].column) == (2, 1)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(10**9), 10**9)
        | st.text(st.characters(categories=["L", "N", "P", "Zs"])),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.text(st.sampled_from("abcxyz"), min_size=1, max_size=4), inner, max_size=4)
        ),
        max_leaves=12,
    )
)
def test_what_is_written_reads_the_same(value):
    document = yaml.read(yaml.dump(value))
    assert document.faults == []
    assert document.value == value
