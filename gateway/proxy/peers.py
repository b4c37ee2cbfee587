"""Who the client is: the peer of a connection, or whom the trusted proxies before us speak for.  Pure.

Laws: what a proxy says is believed from the right, one hop at a time, as far as the hops are trusted; what stands
further left may be anybody's.  A peer that is not trusted says nothing at all.  An address has one spelling.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.core.units import Network

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: The longest text that may be an address with brackets, zone and port.
_LONGEST: Final = 96
#: An address as members of X-Forwarded-For hold it: some proxies write IPv6 in brackets, or the client's port behind.
_MEMBER: Final = re.compile(r"\[([0-9A-Fa-f:.]+)(?:%[^\]]*)?\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}")
_PORT: Final = re.compile(rb"[0-9]{1,5}")
_HOST: Final = re.compile(rb"[A-Za-z0-9_.:\[\]-]{1,255}")
#: What may be said of the scheme; some proxies name a WebSocket's.
_SCHEMES: Final = {b"http": "http", b"https": "https", b"ws": "http", b"wss": "https"}
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Peer:
    """Who is at the other end of a client connection: the client's address (found through trusted proxies),
    the scheme that it used, whether its forwarding headers are believed, the forwarding lines for the
    upstream up to X-Forwarded-Host, and the X-Forwarded-Host of a trusted proxy (else None)."""

    __slots__ = ("client", "host", "lines", "scheme", "trusted")

    def __init__(self, client: str, scheme: str, trusted: bool, lines: bytes, host: bytes | None = None) -> None:
        self.client = client
        self.scheme = scheme
        self.trusted = trusted
        self.lines = lines
        self.host = host


@lru_cache(maxsize=4096)
def _parsed(text: str) -> tuple[Address, str] | None:
    """An address and its one spelling, None for what is none: an IPv4-mapped one is IPv4, a zone is left out.

    Remembered, because parsing costs as much as all else that is done for a proxy.
    """
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address, str(address)


def _member(text: str) -> tuple[Address, str] | None:
    """The address of a member of X-Forwarded-For, None where it holds none."""
    if len(text) > _LONGEST:
        return None
    match = _MEMBER.fullmatch(text)
    return _parsed(text if match is None else match[1] or match[2])


def _spelled(address: str) -> str:
    """A socket's address in its one spelling; what is no address (a Unix socket's) as it stands."""
    parsed = _parsed(address)
    return address if parsed is None else parsed[1]


def is_trusted(address: str, trusted: Sequence[Network]) -> bool:
    """Is a socket's address in one of the networks?"""
    parsed = _parsed(address)
    return parsed is not None and _within(parsed[0], trusted)


@lru_cache(maxsize=4096)
def client_network(address: str) -> str:
    """What counts as one client: an IPv4 address, the /64 of an IPv6 one (its first address), as text."""
    parsed = _parsed(address)
    if parsed is None or parsed[0].version == 4:
        return _spelled(address)
    return str(ipaddress.ip_network((int(parsed[0]) >> 64 << 64, 64)).network_address)


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _told(index: Mapping[bytes, bytes], name: bytes, hops: int) -> bytes:
    """What the trusted proxy said that is so many hops away, where each adds a member to a list.

    A list that is shorter was not added to by all: then its first member is the farthest that is known.
    """
    value = index.get(name, b"")
    if b"," not in value:
        return value.strip()
    members = [member for part in value.split(b",") if (member := part.strip())]
    return members[max(0, len(members) - hops)] if members else b""


def untrusted_peer(address: str, scheme: str, port: int) -> Peer:
    """A peer whose own forwarding headers are dropped: it is the client."""
    client = _spelled(address)
    return Peer(client, scheme, False, _lines(client, client, scheme, port))


def trusted_peer(
    address: str, scheme: str, port: int, trusted: Sequence[Network], index: Mapping[bytes, bytes]
) -> Peer:
    """A trusted proxy, with the headers of its request: the client is the last address of X-Forwarded-For that is
    not itself a trusted proxy; of the other lists that member counts which stands as far from the right.

    `address`, `scheme` and `port` are those of the connection.
    """
    client = own = _spelled(address)
    chain = [own]
    members = index.get(b"x-forwarded-for", b"").decode("latin-1").split(",")
    for member in reversed(members):
        text = member.strip()
        if not text:
            continue
        parsed = _member(text)
        if parsed is None:
            break
        client = parsed[1]
        chain.append(client)
        if not _within(parsed[0], trusted):
            break
    hops = max(1, len(chain) - 1)
    told = _SCHEMES.get(_told(index, b"x-forwarded-proto", hops).lower())
    if told is not None:
        scheme, port = told, _DEFAULT_PORTS[told]
    given_port = _told(index, b"x-forwarded-port", hops)
    if _PORT.fullmatch(given_port) and 0 < int(given_port) < 65536:
        port = int(given_port)
    host = _told(index, b"x-forwarded-host", hops)
    chain.reverse()
    lines = _lines(", ".join(chain), client, scheme, port)
    return Peer(client, scheme, True, lines, host if _HOST.fullmatch(host) else None)


def _lines(chain: str, client: str, scheme: str, port: int) -> bytes:
    """The forwarding lines for the upstream, up to the value of X-Forwarded-Host."""
    return (
        f"X-Forwarded-For: {chain}\r\nX-Real-IP: {client}\r\n"
        f"X-Forwarded-Proto: {scheme}\r\nX-Forwarded-Port: {port}\r\nX-Forwarded-Host: "
    ).encode("ascii", "replace")
