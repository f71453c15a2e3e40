"""A name server on the loopback for the commands that ask one: a zone in a dict, over UDP."""

import contextlib
import socket
import threading

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


class NameServer:
    """Answers from `zone`: lists of records in the text form of zone files by (name, type). It may be changed."""

    def __init__(self, zone=None):
        self.zone = {}
        for (name, rdtype), records in (zone or {}).items():
            self.set(name, rdtype, records)

    def set(self, name, rdtype, records):
        """TXT records are given as they are, and cut into strings here."""
        listed = [records] if isinstance(records, str) else records
        if rdtype == "TXT":
            listed = [
                " ".join(f'"{text[at : at + 255]}"' for at in range(0, max(len(text), 1), 255))
                for text in listed
            ]
        self.zone[name.lower(), rdtype] = listed

    def __enter__(self):
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.place = f"127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"end", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()

    def _serve(self):
        while (received := self._socket.recvfrom(4096))[0] != b"end":
            with contextlib.suppress(OSError):
                self._socket.sendto(self._reply(received[0]), received[1])

    def _reply(self, data):
        query = dns.message.from_wire(data)
        reply = dns.message.make_response(query, recursion_available=True)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        rdtype = dns.rdatatype.to_text(question.rdtype)
        records = self.zone.get((name, rdtype))
        if records:
            reply.answer.append(dns.rrset.from_text_list(question.name, 60, "IN", rdtype, records))
        elif not any(known == name or known.endswith(f".{name}") for known, _ in self.zone):
            reply.set_rcode(dns.rcode.NXDOMAIN)
        return reply.to_wire()
