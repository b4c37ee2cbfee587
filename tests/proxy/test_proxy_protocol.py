"""The PROXY protocol's header: what it says, what is no header, and that no cut of it is read as something else."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.proxy_protocol import MAX_HEADER, Header, ProxyProtocolError, Source, parse

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V4 = bytes([192, 0, 2, 7, 198, 51, 100, 1]) + (4711).to_bytes(2) + (443).to_bytes(2)
V6 = (
    ipaddress.ip_address("2001:db8::7").packed
    + ipaddress.ip_address("2001:db8::1").packed
    + (4711).to_bytes(2)
    + (443).to_bytes(2)
)
FROM_V4 = Source("192.0.2.7", 4711, 443)
FROM_V6 = Source("2001:db8::7", 4711, 443)


def v2(command: int = 0x21, family: int = 0x11, block: bytes = V4, length: int | None = None) -> bytes:
    size = len(block) if length is None else length
    return SIGNATURE + bytes([command, family]) + size.to_bytes(2) + block


TLVS = b"\x04\x00\x03abc" + b"\x02\x00\x0flms.example.org" + b"\x20\x00\x05\x01\x00\x00\x00\x00"

GOOD = {
    "1: IPv4": (b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n", FROM_V4),
    "1: IPv6": (b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n", FROM_V6),
    "1: IPv6 in full": (b"PROXY TCP6 2001:0DB8:0:0:0:0:0:7 2001:db8::1 4711 443\r\n", FROM_V6),
    "1: the longest": (
        b"PROXY TCP6 " + b" ".join([b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] * 2) + b" 65535 65535\r\n",
        Source("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535, 65535),
    ),
    "1: the lowest ports": (b"PROXY TCP4 192.0.2.7 198.51.100.1 0 0\r\n", Source("192.0.2.7", 0, 0)),
    "1: unknown": (b"PROXY UNKNOWN\r\n", None),
    "1: unknown, with addresses": (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", None),
    "1: unknown, with anything": (b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n", None),
    "2: IPv4": (v2(), FROM_V4),
    "2: IPv6": (v2(family=0x21, block=V6), FROM_V6),
    "2: IPv4 with TLVs": (v2(block=V4 + TLVS), FROM_V4),
    "2: IPv6 with TLVs": (v2(family=0x21, block=V6 + TLVS), FROM_V6),
    "2: TLVs to the limit": (v2(block=V4 + b"\x04" * (MAX_HEADER - 16 - 12)), FROM_V4),
    "2: Unix sockets": (v2(family=0x31, block=b"/run/a".ljust(108, b"\0") + b"/run/b".ljust(108, b"\0")), None),
    "2: no addresses": (v2(family=0x00, block=b""), None),
    "2: no addresses, with TLVs": (v2(family=0x00, block=TLVS), None),
    "2: local": (v2(command=0x20, family=0x00, block=b""), None),
    "2: local, with addresses": (v2(command=0x20), None),
    "2: local, of any family": (v2(command=0x20, family=0xFF, block=b"abc"), None),
}

MALFORMED = {
    "a request": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01",
    "a line's end": b"\r\nGET / HTTP/1.1\r\n",
    "nothing but zeros": b"\0" * 16,
    "1: in small letters": b"proxy TCP4 192.0.2.7 198.51.100.1 4711 443\r\n",
    "1: a tab": b"PROXY\tTCP4 192.0.2.7 198.51.100.1 4711 443\r\n",
    "1: no protocol": b"PROXY \r\n",
    "1: another protocol": b"PROXY UDP4 192.0.2.7 198.51.100.1 4711 443\r\n",
    "1: the protocol in small letters": b"PROXY tcp4 192.0.2.7 198.51.100.1 4711 443\r\n",
    "1: unknown, run on": b"PROXY UNKNOWNX\r\n",
    "1: two spaces": b"PROXY TCP4  192.0.2.7 198.51.100.1 4711 443\r\n",
    "1: a space at the end": b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443 \r\n",
    "1: a word too many": b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443 1\r\n",
    "1: a word too few": b"PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n",
    "1: no addresses": b"PROXY TCP4\r\n",
    "1: IPv6 as IPv4": b"PROXY TCP4 2001:db8::7 2001:db8::1 4711 443\r\n",
    "1: IPv4 as IPv6": b"PROXY TCP6 192.0.2.7 198.51.100.1 4711 443\r\n",
    "1: a name": b"PROXY TCP4 localhost 198.51.100.1 4711 443\r\n",
    "1: a destination that is none": b"PROXY TCP4 192.0.2.7 nowhere 4711 443\r\n",
    "1: an octet of 256": b"PROXY TCP4 192.0.2.256 198.51.100.1 4711 443\r\n",
    "1: a leading zero in an octet": b"PROXY TCP4 192.0.2.07 198.51.100.1 4711 443\r\n",
    "1: three octets": b"PROXY TCP4 192.0.2 198.51.100.1 4711 443\r\n",
    "1: one number": b"PROXY TCP4 3221225991 198.51.100.1 4711 443\r\n",
    "1: an octet in hexadecimal": b"PROXY TCP4 0xc0.0.2.7 198.51.100.1 4711 443\r\n",
    "1: a zone": b"PROXY TCP6 fe80::1%eth0 2001:db8::1 4711 443\r\n",
    "1: brackets": b"PROXY TCP6 [2001:db8::7] 2001:db8::1 4711 443\r\n",
    "1: a network": b"PROXY TCP4 192.0.2.0/24 198.51.100.1 4711 443\r\n",
    "1: a byte above 127": b"PROXY TCP4 192.0.2.\xb2 198.51.100.1 4711 443\r\n",
    "1: a NUL": b"PROXY TCP4 192.0.2.7\x00 198.51.100.1 4711 443\r\n",
    "1: a port too high": b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n",
    "1: a port of six digits": b"PROXY TCP4 192.0.2.7 198.51.100.1 000443 443\r\n",
    "1: a leading zero in a port": b"PROXY TCP4 192.0.2.7 198.51.100.1 0443 443\r\n",
    "1: a negative port": b"PROXY TCP4 192.0.2.7 198.51.100.1 -1 443\r\n",
    "1: a port with a sign": b"PROXY TCP4 192.0.2.7 198.51.100.1 +1 443\r\n",
    "1: a port with an underscore": b"PROXY TCP4 192.0.2.7 198.51.100.1 4_4 443\r\n",
    "1: a destination port that is none": b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 https\r\n",
    "1: LF alone": b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\n",
    "1: LF, then CRLF": b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\nGET / HTTP/1.1\r\n",
    "1: CR alone": b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\rX",
    "1: two CRs": b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\r\n",
    "1: unknown, LF in what is ignored": b"PROXY UNKNOWN a\nb\r\n",
    "1: a byte too long": b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    "1: endless": b"PROXY UNKNOWN " + b"x" * 4096,
    "2: another signature": b"\r\n\r\n\x00\r\nQUIT\r" + v2()[12:],
    "2: version 1": v2(command=0x11),
    "2: version 3": v2(command=0x31),
    "2: an unknown command": v2(command=0x22),
    "2: datagrams over IPv4": v2(family=0x12),
    "2: datagrams over IPv6": v2(family=0x22, block=V6),
    "2: datagrams over Unix sockets": v2(family=0x32, block=b"\0" * 216),
    "2: IPv4 over nothing": v2(family=0x10),
    "2: a stream over nothing": v2(family=0x01),
    "2: an unknown family": v2(family=0x41),
    "2: an unknown transport": v2(family=0x13),
    "2: no room for IPv4": v2(block=V4[:-1]),
    "2: no room for IPv6": v2(family=0x21, block=V6[:-1]),
    "2: IPv4's room for IPv6": v2(family=0x21, block=V4),
    "2: no room for Unix sockets": v2(family=0x31, block=b"\0" * 215),
    "2: empty": v2(block=b""),
    "2: longer than is read": v2(block=V4, length=MAX_HEADER - 16 + 1),
    "2: as long as can be": v2(block=V4, length=65535),
    "2: local, longer than is read": v2(command=0x20, block=V4, length=65535),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_said(name: str) -> None:
    data, source = GOOD[name]
    assert parse(data) == Header(len(data), source)
    assert parse(data + b"GET / HTTP/1.1\r\n\r\n") == Header(len(data), source)


@pytest.mark.parametrize("name", GOOD)
def test_a_part_of_a_header_is_not_enough(name: str) -> None:
    data, _ = GOOD[name]
    assert [parse(data[:size]) for size in range(len(data))] == [None] * len(data)


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_header(name: str) -> None:
    data = MALFORMED[name]
    with pytest.raises(ProxyProtocolError):
        parse(data)
    # It is one as soon as the bytes say so, and never becomes a header: not with more, not byte by byte.
    refused = False
    for size in range(len(data) + 1):
        try:
            assert parse(data[:size]) is None
            assert not refused
        except ProxyProtocolError:
            refused = True
    assert refused


@given(st.binary(max_size=300) | st.builds(lambda rest: b"PROXY " + rest, st.binary(max_size=120)) | st.builds(v2,
    st.integers(0, 255), st.integers(0, 255), st.binary(max_size=260)))  # fmt: skip
def test_whatever_comes(data: bytes) -> None:
    try:
        header = parse(data)
    except ProxyProtocolError:
        # What was refused stays refused.
        with pytest.raises(ProxyProtocolError):
            parse(data + b"\r\n")
        return
    if header is None:
        return
    assert 15 <= header.size <= len(data)
    assert parse(data[: header.size]) == header
    assert parse(data[: header.size - 1]) is None
    if header.source is not None:
        assert str(ipaddress.ip_address(header.source.address)) == header.source.address


@given(st.ip_addresses(), st.integers(0, 65535), st.integers(0, 65535), st.booleans())
def test_every_address_survives(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int, destination: int, text: bool
) -> None:
    if text:
        data = f"PROXY TCP{address.version} {address} {address} {port} {destination}\r\n".encode()
    else:
        block = address.packed * 2 + port.to_bytes(2) + destination.to_bytes(2)
        data = v2(family=0x11 if address.version == 4 else 0x21, block=block)
    assert parse(data) == Header(len(data), Source(str(address), port, destination))
