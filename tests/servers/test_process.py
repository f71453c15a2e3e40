"""The harness itself: ports that two test runs on one machine can't both be given."""

import socket
import subprocess
import sys

from tests.servers.process import free_port

OTHER = "from tests.servers.process import free_port; print([free_port() for _ in range(50)])"


def test_two_runs_never_take_the_same_port():
    ours = {free_port() for _ in range(50)}
    other = subprocess.run([sys.executable, "-c", OTHER], check=True, capture_output=True, text=True)
    assert len(ours) == 50
    assert ours.isdisjoint(map(int, other.stdout.strip("[]\n").split(", ")))


def test_a_port_in_use_is_passed_over():
    first = free_port()
    with socket.create_server(("127.0.0.1", first + 1)):
        assert free_port() > first + 1
