"""An unbound that validates, over zones that the test has signed itself: AD means something here, and so does a broken signature."""

import dns.dnssec
import dns.name
import dns.zone
from cryptography.hazmat.primitives.asymmetric import ec
from tests.servers.unbound import Unbound

_SOA = "@ 300 IN SOA ns hostmaster 1 3600 600 86400 300\n@ 300 IN NS ns\nns 300 IN A 127.0.0.1\n"


class SignedUnbound(Unbound):
    """One instance. `zones` maps the name of a zone to its records as a zone file has them, without SOA and NS.

    Zones in `unsigned` are left as they are; those in `broken` lose a bit of every signature. The trust anchors are the
    zones' own keys.
    """

    def __init__(
        self, zones: dict[str, str], *, unsigned: tuple[str, ...] = (), broken: tuple[str, ...] = ()
    ) -> None:
        super().__init__({})
        server, zone_lines = [], []
        for name, records in zones.items():
            zone = dns.zone.from_text(_SOA + records, origin=f"{name}.", relativize=False)
            if name not in unsigned:
                server.append(f"  trust-anchor: '{_sign(zone)}'")
            text = zone.to_text(relativize=False)
            if name in broken:
                text = "\n".join(_spoilt(line) for line in text.split("\n"))
            path = self.folder / f"{name}.zone"
            path.write_text(text + "\n")
            server += [
                f'  local-zone: "{name}." nodefault',
                f'  domain-insecure: "{name}."' if name in unsigned else "",
            ]
            zone_lines.append(
                f'auth-zone:\n  name: "{name}."\n  zonefile: "{path}"\n  for-downstream: no\n  for-upstream: yes\n'
            )
        path = self.folder / "unbound.conf"
        text = path.read_text().replace('module-config: "iterator"', 'module-config: "validator iterator"')
        head, mark, tail = text.partition("remote-control:")
        text = head.replace('  local-zone: "." static\n', "") + "\n".join(server) + "\n" + mark + tail
        path.write_text(text + "\n" + "\n".join(zone_lines))


def _sign(zone: dns.zone.Zone) -> str:
    """Sign a zone in place; return its key as a trust anchor."""
    key = ec.generate_private_key(ec.SECP256R1())
    dnskey = dns.dnssec.make_dnskey(key.public_key(), dns.dnssec.Algorithm.ECDSAP256SHA256, flags=257)
    dns.dnssec.sign_zone(zone, keys=[(key, dnskey)], lifetime=86_400)
    return f"{zone.origin} 300 IN DNSKEY {dnskey.to_text()}"


def _spoilt(line: str) -> str:
    if " IN RRSIG " not in line or "RRSIG DNSKEY" in line:
        return line
    return line[:-12] + ("A" if line[-12] != "A" else "B") + line[-11:]
