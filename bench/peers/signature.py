"""Not a relay: what the RSA signature alone costs, timed in the same rounds as the relays."""

import time
from importlib.metadata import version

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from bench.lab import Place, Running, Sample
from bench.peers.base import Relay

_HEADER = b"x" * 600  # about the canonicalised fields of a message


class Signature(Relay):
    name = "signature"
    about = "a bare RSA-2048 SHA-256 signature by `cryptography`, no mail at all"

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(65537, 2048)

    def version(self) -> str:
        return f"cryptography {version('cryptography')}"

    def start(self, _place: Place) -> Running:
        return Running(0, None)

    def measure(self, place: Place, _running: Running) -> Sample:
        done = 0
        begun, cpu = time.perf_counter(), time.thread_time()
        while time.perf_counter() - begun < place.lab.seconds / 3:
            self._key.sign(_HEADER, padding.PKCS1v15(), SHA256())
            done += 1
        return Sample(done, time.perf_counter() - begun, time.thread_time() - cpu)
