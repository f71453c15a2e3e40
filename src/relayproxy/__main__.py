"""`python -m relayproxy` is `relayproxy`."""

from relayproxy.cli import main

main()
