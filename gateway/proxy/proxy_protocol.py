"""The PROXY protocol, versions 1 and 2: what a load balancer says of the client before the client's first byte.

Pure: bytes in, a header out (HAProxy's `proxy-protocol.txt`, 2020/03/05).  Law: strict.  What could be read in two
ways, or claims an address that it does not give, is an error, upon which the connection is closed without an answer.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

#: The longest version 1 header, its line's end included.
MAX_V1: Final = 107
#: The longest header that is read, TLVs included, in bytes (the protocol's limit is 64 KiB; nobody sends so much).
MAX_HEADER: Final = 4096

_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_V1: Final = b"PROXY "
_PORT: Final = re.compile(rb"0|[1-9][0-9]{0,4}")
#: By the family and transport of version 2: how many bytes an address takes, and all of the addresses.
_BLOCKS: Final = {0x00: (0, 0), 0x11: (4, 12), 0x21: (16, 36), 0x31: (0, 216)}


class ProxyProtocolError(ValueError):
    """What is no header of the PROXY protocol; the text says why."""


@dataclass(frozen=True, slots=True)
class Source:
    """Who connected to the load balancer (`address`, `port`), and to which port of it (`destination_port`)."""

    address: str
    port: int
    destination_port: int


@dataclass(frozen=True, slots=True)
class Header:
    """A header of `size` bytes.  `source` is None where the load balancer speaks for itself (LOCAL, a health check) or
    cannot say (UNKNOWN, a Unix socket): the connection's own addresses hold."""

    size: int
    source: Source | None


def parse(data: bytes) -> Header | None:
    """The header that `data` begins with, None while more bytes are needed.  Raises `ProxyProtocolError`."""
    if data.startswith(_SIGNATURE):
        return _version_2(data)
    if data.startswith(_V1):
        return _version_1(data)
    if _SIGNATURE.startswith(data) or _V1.startswith(data):
        return None
    raise ProxyProtocolError("does not begin with a PROXY protocol header")


# ── version 1: one line of text ─────────────────────────────────────────────────────────────────


def _version_1(data: bytes) -> Header | None:
    end = data.find(b"\r", 0, MAX_V1)
    line = data[: end if end >= 0 else MAX_V1]
    if b"\n" in line:
        raise ProxyProtocolError("the line ends without a carriage return")
    if end < 0 or end + 1 == len(data):
        if len(data) >= MAX_V1:
            raise ProxyProtocolError(f"the line is longer than {MAX_V1} bytes")
        return None
    if data[end + 1] != 0x0A or end + 2 > MAX_V1:
        raise ProxyProtocolError("the line does not end with CRLF")
    words = line.split(b" ")
    protocol = words[1]
    if protocol == b"UNKNOWN":
        # Whatever follows is to be ignored.
        return Header(end + 2, None)
    if protocol not in (b"TCP4", b"TCP6") or len(words) != 6:
        raise ProxyProtocolError("must name TCP4, TCP6 or UNKNOWN, two addresses and two ports")
    source = _address(protocol, words[2])
    _address(protocol, words[3])
    return Header(end + 2, Source(source, _port(words[4]), _port(words[5])))


def _address(protocol: bytes, word: bytes) -> str:
    kind = ipaddress.IPv4Address if protocol == b"TCP4" else ipaddress.IPv6Address
    try:
        if b"%" in word:
            raise ValueError("a zone")
        return str(kind(word.decode("ascii")))
    except ValueError:
        raise ProxyProtocolError(f"holds no {protocol.decode()} address where one must be") from None


def _port(word: bytes) -> int:
    if _PORT.fullmatch(word) is None or int(word) > 65535:
        raise ProxyProtocolError("holds no port where one must be")
    return int(word)


# ── version 2: binary ───────────────────────────────────────────────────────────────────────────


def _version_2(data: bytes) -> Header | None:
    if len(data) > 12 and data[12] not in (0x20, 0x21):
        raise ProxyProtocolError("is of another version than 2, or of an unknown command")
    if len(data) < 16:
        return None
    size = 16 + int.from_bytes(data[14:16])
    if size > MAX_HEADER:
        raise ProxyProtocolError(f"is longer than {MAX_HEADER} bytes")
    local = data[12] == 0x20
    block = _BLOCKS.get(data[13])
    if not local:
        if block is None:
            raise ProxyProtocolError("names another transport than a stream")
        if 16 + block[1] > size:
            raise ProxyProtocolError("is too short for its addresses")
    if len(data) < size:
        return None
    width = block[0] if block is not None else 0
    if local or not width:
        return Header(size, None)
    # The source's address, the destination's, the source's port, the destination's; TLVs follow and are skipped.
    ports = 16 + 2 * width
    return Header(
        size,
        Source(
            str(ipaddress.ip_address(data[16 : 16 + width])),
            int.from_bytes(data[ports : ports + 2]),
            int.from_bytes(data[ports + 2 : ports + 4]),
        ),
    )
