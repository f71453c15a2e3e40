import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from relayproxy.api import Setup
from relayproxy.testing.mail import call, make_mail

CONTENT = b"Subject: x\r\n\r\nbody\r\n"


@pytest.fixture
def keep(load, app, tmp_path):
    """Start the plugin and show it messages; returns the names of the files."""
    (tmp_path / "sample").mkdir()

    async def show(*ids, content=CONTENT, **settings):
        plugin = load("keep_sample", folder="sample", **settings)
        await call(plugin, "startup", app=app)
        for identity in ids:
            mail = make_mail(content)
            mail.id = identity
            assert await call(plugin, "message", mail=mail) is None
        return sorted(file.name for file in (tmp_path / "sample").iterdir())

    return show


async def test_what_is_kept_is_what_arrived_and_nobody_else_reads_it(keep, tmp_path):
    assert await keep("a.1", share=1) == ["a.1.eml"]
    file = tmp_path / "sample" / "a.1.eml"
    assert file.read_bytes() == CONTENT
    assert file.stat().st_mode & 0o777 == 0o600


async def test_a_share_is_chosen_by_the_id(keep):
    ids = [f"m{n}.1" for n in range(1000)]
    chosen = await keep(*ids, share=0.1)
    assert 60 < len(chosen) < 140
    assert await keep(*ids, share=0.1) == chosen


async def test_the_oldest_go_and_large_ones_do_not_come(keep, tmp_path):
    await keep("old.1", share=1)
    os.utime(tmp_path / "sample" / "old.1.eml", (1, 1))
    assert await keep("a.1", "b.1", share=1, most=2) == ["a.1.eml", "b.1.eml"]
    assert await keep("c.1", share=1, largest=5) == ["a.1.eml", "b.1.eml"]


async def test_a_folder_that_is_gone_keeps_no_mail_up(keep, tmp_path, caplog):
    (tmp_path / "sample").rmdir()
    with pytest.raises(FileNotFoundError):
        await keep("a.1", share=1)
    assert "a.1 is not in the sample" in caplog.text


@pytest.mark.parametrize("settings", [{"share": 0}, {"share": 2}, {"most": 0}])
def test_settings_that_make_no_sense(load, settings):
    with pytest.raises(ValidationError):
        load("keep_sample", folder="x", **settings)


def test_the_folder_is_looked_for(load, tmp_path):
    (mistake,) = load("keep_sample", folder="none").check(Setup(tmp_path))
    assert "no folder" in mistake.message
    assert list(load("keep_sample", folder=Path()).check(Setup(tmp_path))) == []
