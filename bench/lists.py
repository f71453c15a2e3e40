"""A name server for relays that look names up: two DNS lists that know the bench's sender, and nothing else.

Run as `python -m bench.lists`; says its port as a line of JSON, and ends with its standard input.
"""

import asyncio
import json
import sys

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

LISTED = {
    "bench.example.rhs.lists.example.": "127.0.0.2",
    "client.bench.example.helo.lists.example.": "127.0.0.4",
}
ZONES = ("rhs.lists.example", "helo.lists.example", "quiet.lists.example")
_TTL = 3600


class Names(asyncio.DatagramProtocol):
    """Answers A questions from LISTED, and NXDOMAIN to all else."""

    def connection_made(self, transport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        answer = dns.message.make_response(query, recursion_available=True)
        name = query.question[0].name.to_text().lower()
        if name in LISTED:
            answer.answer.append(dns.rrset.from_text(name, _TTL, "IN", "A", LISTED[name]))
        else:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        self._transport.sendto(answer.to_wire(), addr)


async def main() -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Names, local_addr=("127.0.0.1", 0))
    print(json.dumps(transport.get_extra_info("sockname")[1]), flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
