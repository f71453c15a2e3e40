"""The bench: relayproxy beside its peers, interleaved in one run, on loopback with a cheap sink."""
