"""Listening sockets: TCP for each worker, Unix paths and what may lie there already."""

import os
import socket
import stat
from pathlib import Path

import pytest

from relayproxy.server.sockets import SocketError, Where, bound, open_sockets


def close(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def test_one_tcp_socket():
    (sock,) = opened = open_sockets(Where("127.0.0.1", 0), 1)
    assert not sock.getblocking()
    assert bound(sock) == f"127.0.0.1:{sock.getsockname()[1]}"
    with socket.create_connection(sock.getsockname()):
        pass
    close(opened)
    assert bound(sock) == "closed"


def test_a_socket_for_each_worker_on_one_port():
    opened = open_sockets(Where("127.0.0.1", 0), 4)
    assert len(opened) == len({sock.fileno() for sock in opened}) == 4
    assert len({bound(sock) for sock in opened}) == 1
    accepted = 0
    for _ in range(64):
        with socket.create_connection(opened[0].getsockname()):
            pass
    for sock in opened:
        count = 0
        while True:
            try:
                sock.accept()[0].close()
            except BlockingIOError:
                break
            count += 1
        accepted += count
        assert count < 64, "the kernel shares them out"
    assert accepted == 64
    close(opened)


def test_more_sockets_beside_those_that_are_open():
    first = open_sockets(Where("127.0.0.1", 0), 1)
    more = open_sockets(Where("127.0.0.1", 0), 2, first)
    assert len({sock.fileno() for sock in first + more}) == 3
    assert len({bound(sock) for sock in first + more}) == 1
    close(first + more)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("taken_by", [1, 3])
def test_an_address_in_use(taken_by: int, count: int):
    """By another instance of us as well, which would take a share of the connections."""
    taken = open_sockets(Where("127.0.0.1", 0), taken_by)
    port = taken[0].getsockname()[1]
    with pytest.raises(SocketError, match=rf"^can't listen on 127\.0\.0\.1:{port}: Address already in use$"):
        open_sockets(Where("127.0.0.1", port), count)
    close(taken)


def test_the_second_of_several_that_fails_closes_the_first(monkeypatch: pytest.MonkeyPatch):
    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(socket.socket, "listen", None)
    with pytest.raises(TypeError):
        open_sockets(Where("127.0.0.1", 0), 3)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_an_address_that_is_not_ours():
    with pytest.raises(SocketError, match=r"192\.0\.2\.1:2525: Cannot assign requested address"):
        open_sockets(Where("192.0.2.1", 2525), 1)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
@pytest.mark.parametrize(("host", "only"), [("::1", 1), ("::", 0)])
def test_ipv6(host: str, only: int):
    (sock,) = opened = open_sockets(Where(host, 0), 1)
    assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == only
    assert bound(sock) == f"[{host}]:{sock.getsockname()[1]}"
    close(opened)


class TestUnix:
    @pytest.fixture
    def where(self, short_folder: Path) -> Where:
        return Where(path=str(short_folder / "smtp.sock"))

    @pytest.mark.parametrize("mode", [0o660, 0o600, 0o666])
    def test_its_mode(self, where: Where, mode: int):
        (sock,) = opened = open_sockets(Where(path=where.path, mode=mode), 1)
        assert stat.S_IMODE(Path(where.path).stat().st_mode) == mode
        assert bound(sock) == f"unix:{where.path}"
        close(opened)

    def test_the_mask_is_left_as_it_was(self, where: Where):
        mask = os.umask(0o027)
        try:
            close(open_sockets(where, 1))
            assert os.umask(mask) == 0o027
        finally:
            os.umask(mask)

    def test_all_workers_share_it(self, where: Where):
        opened = open_sockets(where, 3)
        assert len({id(sock) for sock in opened}) == 1
        close(opened[:1])

    def test_what_a_dead_process_left_is_replaced(self, where: Where):
        close(open_sockets(where, 1))
        assert Path(where.path).exists()
        (sock,) = opened = open_sockets(where, 1)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(where.path)
            sock.accept()[0].close()
        close(opened)

    def test_another_process_that_listens_there_is_left_alone(self, where: Where):
        opened = open_sockets(where, 1)
        with pytest.raises(SocketError, match="another process listens there"):
            open_sockets(where, 1)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(where.path)
        close(opened)

    def test_a_file_that_is_no_socket_is_left_alone(self, where: Where):
        Path(where.path).write_text("precious")
        with pytest.raises(SocketError, match="Address already in use"):
            open_sockets(where, 1)
        assert Path(where.path).read_text() == "precious"

    def test_a_folder_that_does_not_exist(self, short_folder: Path):
        where = Where(path=str(short_folder / "gone" / "smtp.sock"))
        with pytest.raises(
            SocketError, match=f"^can't listen on unix:{short_folder}/gone/smtp.sock: No such file"
        ):
            open_sockets(where, 1)


@pytest.mark.parametrize(
    ("where", "text"),
    [
        (Where("127.0.0.1", 25), "127.0.0.1:25"),
        (Where("::1", 25), "[::1]:25"),
        (Where(path="/run/x.sock"), "unix:/run/x.sock"),
    ],
)
def test_how_a_place_is_written(where: Where, text: str):
    assert str(where) == text
