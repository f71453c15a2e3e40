"""A name server for tests, in a thread of its own: TXT records from a dict, NXDOMAIN for all else, UDP on loopback."""

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import dns.message
import dns.rcode
import dns.rrset


@contextmanager
def serving(zone: Mapping[str, str]) -> Iterator[int]:
    """Serve the TXT records of `zone` (by name, without the final dot) and give the port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=_serve, args=(server, zone))
        thread.start()
        port = server.getsockname()[1]
        try:
            yield port
        finally:
            server.sendto(b"end", ("127.0.0.1", port))
            thread.join()


def _serve(server: socket.socket, zone: Mapping[str, str]) -> None:
    while True:
        data, address = server.recvfrom(4096)
        if data == b"end":
            return
        reply = dns.message.make_response(dns.message.from_wire(data))
        question = reply.question[0]
        text = zone.get(question.name.to_text(omit_final_dot=True).lower())
        if text is None:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        elif question.rdtype == dns.rdatatype.TXT:
            quoted = " ".join(f'"{text[at : at + 255]}"' for at in range(0, len(text), 255))
            reply.answer.append(dns.rrset.from_text(question.name, 60, "IN", "TXT", quoted))
        server.sendto(reply.to_wire(), address)
