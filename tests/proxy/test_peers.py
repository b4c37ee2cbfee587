"""Who the client is: believed from the right, hop by hop, as far as the proxies are trusted."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.units import Network
from gateway.proxy.http1 import Limits, parse_request
from gateway.proxy.peers import Peer, is_trusted, trusted_peer, untrusted_peer

NETWORKS: tuple[Network, ...] = (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))
PEER = "10.0.0.1"


def behind(*lines: str, address: str = PEER) -> Peer:
    """The peer of a request with these lines, from a trusted proxy over plain HTTP to port 8000."""
    raw = "\r\n".join(["GET / HTTP/1.1", "Host: gateway.example.org", *lines, "", ""]).encode("latin-1")
    return trusted_peer(address, "http", 8000, NETWORKS, parse_request(raw, Limits()).index)


def written(peer: Peer) -> dict[str, str]:
    """The forwarding lines of a peer, the unfinished last one left out."""
    *lines, last = peer.lines.decode("ascii").split("\r\n")
    assert last == "X-Forwarded-Host: "
    return dict(line.split(": ") for line in lines)


@pytest.mark.parametrize(
    ("lines", "chain"),
    [
        ([], []),
        (["192.0.2.7"], ["192.0.2.7"]),
        (["6.6.6.6, 192.0.2.7"], ["192.0.2.7"]),
        (["10.6.6.6, 192.0.2.7"], ["192.0.2.7"]),
        (["192.0.2.7, 10.1.1.1"], ["192.0.2.7", "10.1.1.1"]),
        (["10.2.2.2, 10.1.1.1"], ["10.2.2.2", "10.1.1.1"]),
        (["6.6.6.6", "192.0.2.7", "10.1.1.1"], ["192.0.2.7", "10.1.1.1"]),
        (["6.6.6.6 ,\t192.0.2.7,,  10.1.1.1 ,"], ["192.0.2.7", "10.1.1.1"]),
        # What is no address ends what can be believed.
        (["192.0.2.7, forged, 10.1.1.1"], ["10.1.1.1"]),
        (["192.0.2.7, unknown"], []),
        (["192.0.2.7, _hidden"], []),
        (["192.0.2.7, 192.0.2.7.1"], []),
        (["192.0.2.7, 010.0.0.1"], []),
        (["192.0.2.7, 167772161"], []),
        (["192.0.2.7, 192.0.2.7:http"], []),
        (["192.0.2.7, 192.0.2.7:"], []),
        (["192.0.2.7, [2001:db8::1"], []),
        (["192.0.2.7, 2001:db8::1]"], []),
        (["192.0.2.7, [2001:db8::1]x"], []),
        (["192.0.2.7, [2001:db8::1]:"], []),
        (['192.0.2.7, "192.0.2.8"'], []),
        (["192.0.2.7, for=192.0.2.8"], []),
        (["192.0.2.7, 192.0.2.8;proto=https"], []),
        (["192.0.2.7, 10.0.0.1 10.0.0.2"], []),
        (["192.0.2.7, \xb2"], []),
        (["192.0.2.7, " + "1" * 5000], []),
        ([" , ,"], []),
        # One address, one spelling.
        (["192.0.2.7:4711, 10.1.1.1:80"], ["192.0.2.7", "10.1.1.1"]),
        (["[2001:DB8:0::1]:4711, 2001:db8::2"], ["2001:db8::1", "2001:db8::2"]),
        (["2001:4860:0:0:0:0:0:1"], ["2001:4860::1"]),
        (["[fe80::1%eth0]:80"], ["fe80::1"]),
        (["fe80::1%eth0"], ["fe80::1"]),
        (["::ffff:192.0.2.7"], ["192.0.2.7"]),
        (["::FFFF:c000:207"], ["192.0.2.7"]),
        (["6.6.6.6, [::ffff:10.1.1.1]:80"], ["6.6.6.6", "10.1.1.1"]),
    ],
)
def test_the_chain(lines: list[str], chain: list[str]) -> None:
    peer = behind(*(f"X-Forwarded-For: {line}" for line in lines))
    assert peer.client == (chain[0] if chain else PEER)
    fields = written(peer)
    assert fields["X-Forwarded-For"] == ", ".join([*chain, PEER])
    assert fields["X-Real-IP"] == peer.client


ONE = "X-Forwarded-For: 192.0.2.7"
TWO = "X-Forwarded-For: 6.6.6.6, 192.0.2.7, 10.1.1.1"


@pytest.mark.parametrize(
    ("lines", "proto", "port", "host"),
    [
        ([], "http", "8000", None),
        (["X-Forwarded-Proto: https"], "https", "443", None),
        (["X-Forwarded-Proto: http"], "http", "80", None),
        (["X-Forwarded-Proto: HTTPS", "X-Forwarded-Port: 8443"], "https", "8443", None),
        (["X-Forwarded-Proto: wss"], "https", "443", None),
        (["X-Forwarded-Proto: ws"], "http", "80", None),
        (["X-Forwarded-Proto: gopher", "X-Forwarded-Port: 8443a"], "http", "8000", None),
        (["X-Forwarded-Proto: https http"], "http", "8000", None),
        (["X-Forwarded-Port: 0"], "http", "8000", None),
        (["X-Forwarded-Port: 65536"], "http", "8000", None),
        (["X-Forwarded-Host: learn.example.org"], "http", "8000", b"learn.example.org"),
        (["X-Forwarded-Host: learn.example.org:8443"], "http", "8000", b"learn.example.org:8443"),
        (["X-Forwarded-Host: learn.example.org/x"], "http", "8000", None),
        (["X-Forwarded-Host: a b"], "http", "8000", None),
        (["X_Forwarded_Host: evil", "X_Forwarded_Proto: https", "X_Forwarded_Port: 1"], "http", "8000", None),
        # Lists: as far from the right as the client in X-Forwarded-For.
        ([ONE, "X-Forwarded-Proto: https,http"], "http", "80", None),
        ([ONE, "X-Forwarded-Proto: http", "X-Forwarded-Proto: https"], "https", "443", None),
        ([TWO, "X-Forwarded-Proto: https, http"], "https", "443", None),
        ([TWO, "X-Forwarded-Proto: http, https, http"], "https", "443", None),
        ([TWO, "X-Forwarded-Proto: https"], "https", "443", None),
        ([TWO, "X-Forwarded-Proto: , https ,, http,"], "https", "443", None),
        ([TWO, "X-Forwarded-Proto: , ,"], "http", "8000", None),
        ([TWO, "X-Forwarded-Host: evil, learn.example.org, inner"], "http", "8000", b"learn.example.org"),
        ([TWO, "X-Forwarded-Port: 1, 8443, 80"], "http", "8443", None),
        ([TWO, "X-Forwarded-Host: learn.example.org"], "http", "8000", b"learn.example.org"),
        (["X-Forwarded-Host: evil, learn.example.org"], "http", "8000", b"learn.example.org"),
    ],
)
def test_what_else_a_trusted_proxy_says(lines: list[str], proto: str, port: str, host: bytes | None) -> None:
    peer = behind(*lines)
    fields = written(peer)
    assert (fields["X-Forwarded-Proto"], fields["X-Forwarded-Port"], peer.host) == (proto, port, host)
    assert peer.scheme == proto
    assert peer.trusted


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_a_peer_that_is_not_trusted_is_the_client(address: str, client: str) -> None:
    peer = untrusted_peer(address, "https", 8443)
    assert (peer.client, peer.scheme, peer.trusted, peer.host) == (client, "https", False, None)
    assert written(peer) == {
        "X-Forwarded-For": client,
        "X-Real-IP": client,
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Port": "8443",
    }


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        ("10.1.2.3", True),
        ("11.0.0.1", False),
        ("::ffff:10.1.2.3", True),
        ("2001:db8::1", True),
        ("2001:db8::1%eth0", True),
        ("fe80::1%eth0", False),
        ("", False),
    ],
)
def test_trusted_addresses(address: str, trusted: bool) -> None:
    assert is_trusted(address, NETWORKS) is trusted


members = st.sampled_from(
    ["10.1.1.1", "192.0.2.7", "6.6.6.6", "2001:db8::1", "[::1]:80", "", " ", "x", "[", "]", ":", "%", ",", "1.2.3.4:5"]
) | st.text("0123456789abcdef:.[]%, \x80\xff", max_size=20)


@given(st.lists(members, max_size=8).map(",".join), st.lists(members, max_size=3).map(",".join))
def test_whatever_is_said_an_address_comes_of_it(chain: str, other: str) -> None:
    index = {
        b"x-forwarded-for": chain.encode("latin-1"),
        b"x-forwarded-proto": other.encode("latin-1"),
        b"x-forwarded-port": other.encode("latin-1"),
        b"x-forwarded-host": other.encode("latin-1"),
    }
    peer = trusted_peer(PEER, "http", 8000, NETWORKS, index)
    fields = written(peer)
    found = fields["X-Forwarded-For"].split(", ")
    assert found[-1] == PEER
    assert [str(ip_address(member)) for member in found] == found
    # Everybody behind the client is a trusted proxy, and it is whom they spoke for.
    assert all(is_trusted(member, NETWORKS) for member in found[1:])
    assert peer.client == found[0] == fields["X-Real-IP"]
    assert peer.scheme in ("http", "https")
    assert 0 < int(fields["X-Forwarded-Port"]) < 65536
