"""A DNS server of the test's own, on UDP: names whose addresses and lifetimes can change (RFC 1035)."""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from collections.abc import Sequence
from types import TracebackType
from typing import Self, cast

A, CNAME, SOA, AAAA = 1, 5, 6, 28
_AUTHORITY = b"\0\0" + struct.pack("!IIIII", 1, 3600, 3600, 3600, 3600)
_ANSWERED, _FAILED, _UNKNOWN = 0x8580, 0x8582, 0x8583


def _name(text: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in text.split(".")) + b"\0"


class NameServer:
    """`async with NameServer() as names:`; `names.set("lms.test", "192.0.2.1", ttl=1)` and it answers so.

    `server` is what a `Resolver` takes; `asked` counts questions by name and type.  While `silent` nothing is
    answered; while `failing` everything is SERVFAIL.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.silent = False
        self.failing = False
        self._records: dict[str, tuple[tuple[str, ...], int, str]] = {}
        self._transport: asyncio.DatagramTransport | None = None

    def set(self, name: str, *addresses: str, ttl: int = 1, alias: str = "") -> None:
        """A name's addresses from now on; none: it does not exist.  `alias` puts a CNAME between."""
        self._records[name] = (addresses, ttl, alias)

    @property
    def server(self) -> str:
        """`address:port`."""
        assert self._transport is not None
        host, port = self._transport.get_extra_info("sockname")
        return f"{host}:{port}"

    async def __aenter__(self) -> Self:
        await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: cast(asyncio.DatagramProtocol, self), local_addr=("127.0.0.1", 0)
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def error_received(self, exc: Exception) -> None:
        """A client went away before its answer."""

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        labels, at = [], 12
        while size := data[at]:
            labels.append(data[at + 1 : at + 1 + size].decode())
            at += 1 + size
        (kind,) = struct.unpack_from("!H", data, at + 1)
        name = ".".join(labels).lower()
        self.asked.append((name, kind))
        if self._transport is not None and not self.silent:
            self._transport.sendto(self._answer(data[:2], data[12 : at + 5], name, kind), address)

    def _answer(self, number: bytes, question: bytes, name: str, kind: int) -> bytes:
        addresses, ttl, alias = self._records.get(name, ((), 0, ""))
        status = _FAILED if self.failing else _ANSWERED if addresses else _UNKNOWN
        found: Sequence[bytes] = []
        if status == _ANSWERED:
            owner = b"\xc0\x0c" if not alias else _name(alias)
            parsed = [ipaddress.ip_address(text) for text in addresses]
            wanted = [each.packed for each in parsed if each.version == (4 if kind == A else 6)]
            found = [owner + struct.pack("!HHIH", kind, 1, ttl, len(packed)) + packed for packed in wanted]
            if alias:
                target = _name(alias)
                found = [b"\xc0\x0c" + struct.pack("!HHIH", CNAME, 1, ttl, len(target)) + target, *found]
        # That there is nothing holds for an hour, as the zone says (RFC 2308).
        zone = b"" if found or status == _FAILED else b"\xc0\x0c" + struct.pack("!HHIH", SOA, 1, 3600, 22) + _AUTHORITY
        counts = struct.pack("!HHHHH", status, 1, len(found), 1 if zone else 0, 0)
        return number + counts + question + b"".join(found) + zone
