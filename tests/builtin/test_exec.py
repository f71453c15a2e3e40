import asyncio
import os
import signal
import sys
from pathlib import Path

import orjson
import pytest
from pydantic import ValidationError
from tests.builtin.scanning import RAW, an_app, asked, released, started
from tests.servers.process import wait_for

from relayproxy.api import Action, Mistake, ServiceError, Setup
from relayproxy.builtin.exec import Exec, ExecSettings
from relayproxy.testing.mail import call, make_mail

PRELUDE = f"#!{sys.executable}\nimport json, os, sys, time\n"


@pytest.fixture
def program(tmp_path):
    """Write a program in Python; return a plugin that asks it."""

    def write(text, timeout=20.0, name="check", **more):
        file = tmp_path / name
        file.write_text(PRELUDE + text)
        file.chmod(0o755)
        script = {"name": "check", "command": [f"./{name}"], **more}
        return started(Exec, timeout=timeout, app=an_app(folder=tmp_path), scripts=[script])

    return write


async def test_a_program_decides_and_edits(program):
    plugin = program(
        "told = json.loads(sys.stdin.readline())\n"
        "print(json.dumps({'verdict': 'accept', 'findings': [{'method': 'mine', 'result': 'hit', 'score': 1.5}],\n"
        "  'edits': [{'edit': 'add_header', 'name': 'X-Told', 'value': told['client']['ip'] + ' ' + told['hook']}]}))"
    )
    mail = make_mail(RAW)
    verdict = await call(plugin, "message", mail=mail)
    assert verdict.action is Action.ACCEPT
    assert mail.finding("mine").score == 1.5
    assert mail.finding("exec").props == {"script": "check", "verdict": "accept"}
    (edit,) = await call(plugin, "before_forward", mail=mail)
    assert (edit.name, edit.value) == ("X-Told", "192.0.2.1 message")


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({"send": "message"}, RAW),
        ({"send": "headers"}, b""),
        ({"send": "message", "max_size": 10}, b""),
    ],
)
async def test_the_message_follows_the_line(program, options, seen):
    plugin = program(
        "sys.stdin.buffer.readline(); rest = sys.stdin.buffer.read()\n"
        "print(json.dumps({'verdict': 'hold', 'reason': rest.hex()}))",
        **options,
    )
    verdict, _, _ = await asked(plugin)
    assert verdict.reason == seen.hex()


async def test_a_large_message_and_a_program_that_reads_none_of_it(program):
    plugin = program("print('{}')", send="message")
    raw = RAW + (b"x" * 998 + b"\r\n") * 5000
    assert (await asked(plugin, raw))[0] is None


async def test_what_it_inherits(program, monkeypatch):
    monkeypatch.setenv("A_SECRET_OF_OURS", "x")
    plugin = program(
        "print(json.dumps({'verdict': 'hold', 'reason': ' '.join([*sorted(os.environ), os.environ['MINE'], os.getcwd()])}))",
        environment={"MINE": "yes"},
    )
    verdict, _, _ = await asked(plugin)
    assert verdict.reason.startswith("LANG ")
    assert "A_SECRET_OF_OURS" not in verdict.reason
    assert verdict.reason.split()[-2:] == ["yes", str(plugin._folder)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sys.exit(3)", "exec check: ended with status 3"),
        ("print('{}'); sys.exit('what went\\nwrong')", "exec check: ended with status 1: wrong"),
        ("os.kill(os.getpid(), 9)", "exec check: was ended by signal 9"),
        ("raise KeyError('x')", "KeyError: 'x'"),
        ("", "exec check: answered wrongly in the whole"),
        ("print('no')", "exec check: answered wrongly in the whole"),
        ("print('{' * 40_000_000)", "wrote more than an answer can have"),
    ],
)
async def test_a_program_that_fails_is_a_fault(program, text, words):
    with pytest.raises(ServiceError) as raised:
        await asked(program(text))
    assert words in str(raised.value)


async def test_noise_on_standard_error_is_no_fault(program):
    plugin = program("sys.stderr.write('x' * 1_000_000); print('{}')")
    assert (await asked(plugin))[0] is None


async def test_a_program_that_isn_t_there(tmp_path):
    script = {"name": "a", "command": ["./none"]}
    plugin = started(Exec, app=an_app(folder=tmp_path), scripts=[script])
    with pytest.raises(ServiceError, match=r"exec a: .*No such file"):
        await asked(plugin)
    (mistake,) = plugin.check(Setup(tmp_path))
    assert mistake == Mistake(f"there is no program {tmp_path / 'none'}", ("scripts", 0, "command"))
    (tmp_path / "none").write_text("x")
    (mistake,) = plugin.check(Setup(tmp_path))
    assert "can't be executed" in mistake.message
    (tmp_path / "none").chmod(0o755)
    assert list(plugin.check(Setup(tmp_path))) == []


async def test_a_program_that_hangs_is_killed_with_all_that_it_started(program, tmp_path):
    plugin = program(
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "open('pids.new', 'w').write(f'{os.getpid()} {child.pid}')\n"
        "os.rename('pids.new', 'pids')\n"
        "time.sleep(600)",
        timeout=3.0,
    )
    with pytest.raises(ServiceError, match="exec check: no answer within"):
        await asked(plugin)
    pids = [int(pid) for pid in _text(tmp_path / "pids").split()]
    assert len(pids) == 2
    await _until_gone(pids)


async def test_a_child_that_has_left_the_group_keeps_nobody_waiting(program, tmp_path):
    plugin = program(
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "open('pids', 'w').write(str(child.pid))\n"
        "print('{}', flush=True)",
        timeout=3.0,
    )
    with pytest.raises(ServiceError, match="no answer within"):
        await asked(plugin)
    os.kill(int(_text(tmp_path / "pids")), signal.SIGKILL)


async def test_what_a_program_leaves_behind_is_killed_too(program, tmp_path):
    plugin = program(
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '600'], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "open('pids', 'w').write(str(child.pid))\n"
        "print('{}')"
    )
    assert (await asked(plugin))[0] is None
    await _until_gone([int(_text(tmp_path / "pids"))])


async def test_so_many_at_once_and_no_more(program, tmp_path):
    plugin = program(
        "open(f'running-{os.getpid()}', 'w').close()\n"
        "count = len([name for name in os.listdir('.') if name.startswith('running-')])\n"
        "os.unlink(f'running-{os.getpid()}')\n"
        "print(json.dumps({'verdict': 'hold', 'reason': str(count)}))",
        parallel=2,
    )
    told = await asyncio.gather(*(asked(plugin) for _ in range(8)))
    assert {int(verdict.reason) for verdict, _, _ in told} <= {1, 2}


async def test_a_recipient_can_be_asked_about(program):
    plugin = program(
        "told = json.loads(sys.stdin.readline())\n"
        "known = told['recipient'] == 'b@example.net'\n"
        "print(json.dumps({} if known else {'verdict': 'reject', 'reply': {'status': '5.1.1', 'text': 'no such user'}}))",
        at="rcpt",
    )
    mail = make_mail(b"", recipients=["b@example.net", "c@example.net"])
    verdicts = [await call(plugin, "rcpt", mail=mail, rcpt=rcpt) for rcpt in mail.envelope.recipients]
    assert [verdict and str(verdict.reply) for verdict in verdicts] == [None, "550 5.1.1 no such user"]
    assert await call(plugin, "mail", mail=mail) is None
    assert await call(plugin, "message", mail=mail) is None


async def test_the_program_of_the_documentation():
    file = Path(__file__).parent / "scripts" / "recipients.py"
    script = {"name": "recipients", "at": "rcpt", "command": [sys.executable, str(file)]}
    plugin = started(Exec, timeout=20.0, scripts=[script])
    mail = make_mail(b"", recipients=["b@example.org", "c@example.org"])
    verdicts = [await call(plugin, "rcpt", mail=mail, rcpt=rcpt) for rcpt in mail.envelope.recipients]
    assert [verdict and str(verdict.reply) for verdict in verdicts] == [
        None,
        "550 5.1.1 There is no such user",
    ]


async def test_scripts_are_asked_in_order_until_one_refuses(tmp_path):
    for name, answer in (("holds", {"verdict": "hold"}), ("defers", {"verdict": "defer"}), ("never", {})):
        file = tmp_path / name
        _write(file, f"{PRELUDE}open('ran-{name}', 'w').close()\nprint({orjson.dumps(answer).decode()!r})")
    scripts = [{"name": name, "command": [f"./{name}"]} for name in ("holds", "defers", "never")]
    plugin = started(Exec, timeout=20.0, app=an_app(folder=tmp_path), scripts=scripts)
    verdict, _, _ = await asked(plugin)
    assert verdict.action is Action.DEFER
    assert sorted(_names(tmp_path)) == ["ran-defers", "ran-holds"]


@pytest.mark.parametrize(
    "options",
    [
        {"scripts": []},
        {"scripts": [{"name": "a", "command": []}]},
        {"scripts": [{"name": "a", "command": ["echo"]}]},
        {"scripts": [{"name": "a", "command": ["/bin/x", "a\0b"]}]},
        {"scripts": [{"name": "a", "command": ["/bin/x"]}, {"name": "a", "command": ["/bin/y"]}]},
    ],
)
def test_settings_that_are_refused(options):
    with pytest.raises(ValidationError):
        ExecSettings.model_validate(options)


def _write(file, text):
    file.write_text(text)
    file.chmod(0o755)


def _text(file: Path) -> str:
    return file.read_text()


def _names(folder: Path) -> list[str]:
    return [file.name for file in folder.glob("ran-*")]


async def _until_gone(pids):
    await wait_for(lambda: not any(_runs(pid) for pid in pids), "the processes to end")


def _runs(pid):
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_what_a_human_released_leaves_as_the_program_wants_it(program):
    plugin = program(
        "sys.stdin.readline()\n"
        "print(json.dumps({'verdict': 'hold', 'edits': [{'edit': 'add_header', 'name': 'X-A', 'value': 'x'}]}))"
    )
    assert (await released(plugin)).header("X-A") == "x"
