"""Secrets that something is signed with."""

import pytest
from pydantic import TypeAdapter

from relayproxy.api import SecretError, SecretRef
from relayproxy.builtin._keys import SHORTEST, signing_keys


@pytest.fixture
def secret(tmp_path):
    def make(name, text):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
        return TypeAdapter(SecretRef).validate_python({"file": str(tmp_path / name)})

    return make


def test_each_in_its_place(secret):
    keys = signing_keys([secret("a", "a" * SHORTEST), secret("b", "\u00e4" * SHORTEST)])
    assert keys == (b"a" * SHORTEST, "\u00e4".encode() * SHORTEST)


def test_one_that_can_be_guessed_is_named_and_not_shown(secret):
    with pytest.raises(SecretError, match="less than 16 characters") as caught:
        signing_keys([secret("a", "a" * SHORTEST), secret("b", "hunter2" * 2)])
    assert "b" in str(caught.value)
    assert "hunter2" not in str(caught.value)
