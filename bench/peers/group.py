"""Several programs as one relay: children of one shell, so that their CPU time is that of one tree.

The shell has a mount namespace of its own (unshare(1)), in which /etc/resolv.conf names the bench's name server.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from bench.lab import Place
from bench.programs import Program, find


def start_group(place: Place, folder: Path, commands: Sequence[Sequence[str | Path]]) -> Program:
    """Start `commands` side by side, with their end on the stack of `place`; output goes to `folder`/log."""
    lines = [f"mount --bind {shlex.quote(str(place.lab.names().resolv_conf))} /etc/resolv.conf || exit 1"]
    lines += [" ".join(shlex.quote(str(word)) for word in command) + " &" for command in commands]
    script = folder / "start"
    script.write_text("\n".join([*lines, "wait", ""]))
    program = Program([find("unshare"), "--mount", "sh", script], folder / "log")
    place.stack.callback(program.end)
    return program
