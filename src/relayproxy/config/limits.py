"""The bounds of a session and of the process. Times in seconds and sizes in octets once they are read."""

from pydantic import Field

from relayproxy.config.base import Model
from relayproxy.config.quantities import Duration, Size


class Limits(Model):
    """What one client, one message and all of them together may take."""

    message_size: Size = 52_428_800
    """Largest message; announced as SIZE. Beyond it: 552 5.3.4."""
    recipients: int = Field(default=1000, ge=1, le=100_000)
    """Recipients of one message. Beyond it: 452 4.5.3."""
    messages_per_connection: int = Field(default=10_000, ge=1)
    """Messages in one connection. Beyond it: 421."""
    connections: int = Field(default=2000, ge=1)
    """Connections at the same time, to all listeners and workers together. Beyond it: 421."""
    connections_per_client: int = Field(default=200, ge=1)
    """Connections of one client address at the same time, to all workers together. Beyond it: 421."""
    command_line: int = Field(default=4096, ge=1024, le=65_536)
    """Octets of a command line, with its line break. Beyond it: 500 5.5.2."""
    command_timeout: Duration = 300.0
    """How long a client may be silent between commands. After it: 421."""
    data_timeout: Duration = 300.0
    """How long a client may send nothing within a message, and how far it may fall behind 500 octets a second. After it: 421."""
    handshake_timeout: Duration = 30.0
    """How long a TLS handshake may take."""
    bogus_commands: int = Field(default=10, ge=1)
    """Unknown or misplaced commands before the connection is closed: 421."""
    idle_commands: int = Field(default=100, ge=1)
    """NOOP, RSET, VRFY, EXPN and HELP between two messages before the connection is closed: 421."""
    auth_failures: int = Field(default=3, ge=1)
    """Failed logins before the connection is closed: 421."""
    headers: int = Field(default=1000, ge=10)
    """Header fields of a message. Beyond it: 552 5.3.4."""
    header_bytes: Size = 262_144
    """Octets of all header fields together. Beyond it: 552 5.3.4."""
    received_hops: int = Field(default=50, ge=1, le=1000)
    """Received fields before a message is taken for a loop: 554 5.4.6."""
    message_budget: Duration = 45.0
    """The time that all plugins together have for a message. After it: 451. Clients may give up at 60s."""
    bytes_in_flight: Size = 536_870_912
    """Octets of all messages in progress, for each worker. Beyond it: 452 4.3.1. Not per listener."""
