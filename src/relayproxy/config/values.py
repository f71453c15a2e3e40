"""The small languages inside YAML strings: networks, endpoints, domains, patterns of addresses, names, paths.

Each parser takes what a person writes and returns a value or raises a refusal that says what was meant. Must not
know which key it is used for.
"""

import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
)

from relayproxy.config.base import context_of, refusal
from relayproxy.model.address import to_a_label
from relayproxy.model.endpoint import Endpoint, is_host_name, read_endpoint
from relayproxy.model.refused import Refused, quoted

AnyNetwork: TypeAlias = IPv4Network | IPv6Network


def parse_network(value: object) -> AnyNetwork:
    """Return the network of `10.0.0.0/8`, `2001:db8::/32` or a single address; say what host bits hide."""
    if isinstance(value, (IPv4Network, IPv6Network)):
        return value
    if not isinstance(value, str):
        raise refusal("RP206", "a network is wanted", "write an address or a network: 10.0.0.0/8")
    try:
        return ip_network(value)
    except ValueError:
        pass
    try:
        meant = ip_network(value, strict=False)
    except ValueError:
        raise refusal(
            "RP206", f"{quoted(value)} is not a network", "such as 10.0.0.0/8 or fd00::/8"
        ) from None
    raise refusal("RP206", f"{quoted(value)} has host bits set", f"did you mean {meant}?")


Network: TypeAlias = Annotated[
    AnyNetwork,
    PlainValidator(parse_network),
    PlainSerializer(str, when_used="json"),
    WithJsonSchema({"type": "string", "examples": ["10.0.0.0/8", "fd00::/8"], "title": "network"}),
]


def parse_endpoint(value: object, *, lowest_port: int = 1, default_port: int = 0) -> Endpoint:
    """Return the endpoint of `host:port`, `[v6]:port` or `unix:/path`; `default_port` 0 asks for a port."""
    try:
        return read_endpoint(value, lowest_port=lowest_port, default_port=default_port)
    except Refused as error:
        raise refusal("RP207", error.message, error.hint) from None


def _listening(value: object) -> Endpoint:
    return parse_endpoint(value, lowest_port=0)


def _name_server(value: object) -> Endpoint:
    return parse_endpoint(value, default_port=53)


_ENDPOINT_TEXT = PlainSerializer(str, when_used="json")


def _endpoint_schema(*examples: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "examples": list(examples), "title": "address"})


ListenAddress: TypeAlias = Annotated[
    Endpoint,
    PlainValidator(_listening),
    _ENDPOINT_TEXT,
    _endpoint_schema("0.0.0.0:25", "[::]:25", "unix:/run/relayproxy/smtp.sock"),
]
HopAddress: TypeAlias = Annotated[
    Endpoint,
    PlainValidator(parse_endpoint),
    _ENDPOINT_TEXT,
    _endpoint_schema("10.0.0.5:25", "mail.internal:25", "unix:/run/dovecot/lmtp"),
]
NameServer: TypeAlias = Annotated[
    Endpoint, PlainValidator(_name_server), _ENDPOINT_TEXT, _endpoint_schema("127.0.0.1:53", "[::1]:53")
]


def parse_domain(value: object) -> str:
    """Return a domain in A-label form; `.example.org` stands for all names below it."""
    if not isinstance(value, str):
        raise refusal("RP208", "a domain is wanted", "write example.org")
    text = value.strip()
    if text.startswith("*."):
        raise refusal("RP208", f"{quoted(text)} is not a domain", f"for all its subdomains write {text[1:]}")
    if "@" in text:
        rest = text.rpartition("@")[2]
        raise refusal("RP208", f"{quoted(text)} is not a domain", f"write {rest}" if rest else "")
    dot = "." if text.startswith(".") else ""
    domain = to_a_label(text.removeprefix(".").rstrip("."))
    if not is_host_name(domain):
        raise refusal("RP208", f"{quoted(text)} is not a domain", "write example.org, or .example.org")
    return dot + domain


def parse_sender(value: object) -> str:
    """Return a pattern for sender addresses: `a@x.org`, `x.org` (also written `@x.org`), `.x.org` or `<>`."""
    if not isinstance(value, str):
        raise refusal("RP208", "an address or a domain is wanted", "write ana@example.org or example.org")
    text = value.strip()
    if text == "<>":
        return text
    local, at, domain = text.rpartition("@")
    if not local:
        return parse_domain(domain)
    if any(c.isspace() or not c.isprintable() for c in local) or local.startswith("<"):
        raise refusal("RP208", f"{quoted(text)} is not an address", "write it bare: ana@example.org")
    return f"{local}{at}{parse_domain(domain)}"


Domain: TypeAlias = Annotated[
    str,
    BeforeValidator(parse_domain),
    WithJsonSchema({"type": "string", "examples": ["example.org", ".example.org"], "title": "domain"}),
]
SenderPattern: TypeAlias = Annotated[
    str,
    BeforeValidator(parse_sender),
    WithJsonSchema(
        {
            "type": "string",
            "examples": ["ana@example.org", "example.org", ".example.org", "<>"],
            "title": "address or domain",
        }
    ),
]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}\Z")


def _name(text: str) -> str:
    if not _NAME.match(text):
        raise refusal(
            "RP209",
            f"{quoted(text)} is not a name",
            "letters, digits, dots, dashes and underscores; at most 63",
        )
    return text


Name: TypeAlias = Annotated[
    str, AfterValidator(_name), Field(json_schema_extra={"pattern": _NAME.pattern[:-2] + "$"})
]


def is_ip(host: str) -> bool:
    """Whether a host is an IP address rather than a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _host_name(text: str) -> str:
    host = to_a_label(text).rstrip(".")
    if not is_host_name(host):
        raise refusal("RP207", f"{quoted(text)} is not a host name", "write mx.example.org")
    return host


HostName: TypeAlias = Annotated[str, AfterValidator(_host_name)]


def _resolved(value: Any, info: ValidationInfo) -> Path:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise refusal("RP211", "a path is wanted", "relative paths start at the folder of the configuration")
    return expanded(context_of(info).folder, value)


def expanded(folder: Path, text: str) -> Path:
    """Return the path that `text` means in `folder`; `~` is a home. Raises a refusal for a home that isn't there."""
    try:
        return folder / Path(text).expanduser()
    except RuntimeError:
        raise refusal(
            "RP211", f"{quoted(text)} begins with a home that isn't there", "write the whole path"
        ) from None


FilePath: TypeAlias = Annotated[
    Path,
    PlainValidator(_resolved),
    PlainSerializer(str, when_used="json"),
    WithJsonSchema({"type": "string", "title": "path"}),
]


def _mode(value: object) -> int:
    hint = 'write "0660"'
    if isinstance(value, str) and re.fullmatch(r"0?[0-7]{3}", value, re.ASCII):
        return int(value, 8)
    if isinstance(value, int) and not isinstance(value, bool):
        hint = f'in quotes and octal, as in "0660": the number {value} could be read in two ways'
    raise refusal("RP106", f"{quoted(value)} is not a file mode", hint)


FileMode: TypeAlias = Annotated[
    int,
    BeforeValidator(_mode),
    PlainSerializer(lambda mode: f"{mode:04o}", return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": "^0?[0-7]{3}$", "examples": ["0660"], "title": "file mode"}),
]


def _address(value: object) -> str:
    if not isinstance(value, str):
        raise refusal("RP207", "an IP address is wanted", "such as 192.0.2.1")
    try:
        return str(ip_address(value))
    except ValueError:
        raise refusal("RP207", f"{quoted(value)} is not an IP address", "such as 192.0.2.1") from None


IpAddress: TypeAlias = Annotated[
    str, BeforeValidator(_address), WithJsonSchema({"type": "string", "title": "IP address"})
]


def _listed(value: object) -> object:
    """Take one value where a list is meant."""
    return value if isinstance(value, (list, tuple)) or value is None else (value,)


one_or_many = BeforeValidator(_listed)
"""Put on a tuple field that also takes a single value."""
