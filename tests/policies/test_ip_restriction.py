"""`ip-restriction`: allow and deny by network; IPv4 is IPv4 whatever socket it came by; unreadable is refused."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.core.answers import ADDRESS_DENIED
from gateway.core.decision import ALLOW, Deny
from policies import ip_restriction
from policies.ip_restriction import IpRestriction
from tests.policies.helpers import decide, make_context, make_policy

OFFICE = {"allow": ["10.0.0.0/8", "2001:db8:1::/48", "198.51.100.7"]}
BOTH = {"allow": ["10.0.0.0/8"], "deny": ["10.1.0.0/16", "10.2.3.4"]}
DENY = {"deny": ["192.0.2.0/24", "2001:db8::/32"]}


@pytest.mark.parametrize(
    ("config", "client", "admitted"),
    [
        (OFFICE, "10.255.0.1", True),
        (OFFICE, "11.0.0.1", False),
        (OFFICE, "198.51.100.7", True),
        (OFFICE, "198.51.100.8", False),
        (OFFICE, "2001:db8:1:2::3", True),
        (OFFICE, "2001:DB8:1::", True),
        (OFFICE, "2001:db8:2::1", False),
        (OFFICE, "::ffff:10.0.0.1", True),
        (OFFICE, "::ffff:a00:1", True),
        (OFFICE, "::ffff:11.0.0.1", False),
        (OFFICE, "::10.0.0.1", False),  # IPv4-compatible, deprecated: not the same address
        (BOTH, "10.3.0.1", True),
        (BOTH, "10.1.0.1", False),  # denied beats allowed
        (BOTH, "10.2.3.4", False),
        (BOTH, "172.16.0.1", False),
        (DENY, "192.0.2.1", False),
        (DENY, "::ffff:192.0.2.1", False),
        (DENY, "2001:db8::1", False),
        (DENY, "203.0.113.1", True),
        (DENY, "fe80::1%eth0", True),
        ({"deny": ["fe80::/10"]}, "fe80::1%eth0", False),
        ({"deny": ["::ffff:10.0.0.0/104"]}, "10.9.9.9", False),
        ({"deny": ["::/0"]}, "10.9.9.9", True),
        ({"deny": ["0.0.0.0/0"]}, "2001:db8::1", True),
        ({"allow": ["0.0.0.0/0"]}, "203.0.113.9", True),
        # What is no address is refused, even where only a few are denied.
        (DENY, "", False),
        (DENY, "unix:", False),
        (OFFICE, "10.0.0", False),
        (OFFICE, "010.0.0.1", False),
    ],
)
def test_networks_decide(config: dict[str, Any], client: str, admitted: bool) -> None:
    policy = make_policy(IpRestriction, config)
    for _ in range(2):  # parsed, then remembered
        decision = decide(policy, make_context(client=client))
        if admitted:
            assert decision is ALLOW
        else:
            assert isinstance(decision, Deny)
            assert decision.answer is ADDRESS_DENIED
            assert decision.facts["client"] == client


@given(
    networks=st.lists(st.ip_addresses(v=4).flatmap(lambda a: st.tuples(st.just(a), st.integers(0, 32))), min_size=1),
    client=st.ip_addresses(v=4),
)
def test_it_agrees_with_the_standard_library(
    networks: list[tuple[ipaddress.IPv4Address, int]], client: ipaddress.IPv4Address
) -> None:
    made = [ipaddress.ip_network((address, length), strict=False) for address, length in networks]
    policy = make_policy(IpRestriction, {"allow": [str(network) for network in made]})
    expected = any(client in network for network in made)
    assert (decide(policy, make_context(client=str(client))) is ALLOW) is expected


def test_a_flood_of_addresses_does_not_fill_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ip_restriction, "_MEMO_LIMIT", 8)
    ip_restriction._addresses.clear()
    policy = make_policy(IpRestriction, DENY)
    for number in range(100):
        assert decide(policy, make_context(client=f"203.0.113.{number}")) is ALLOW
        assert len(ip_restriction._addresses) <= 8
    assert isinstance(decide(policy, make_context(client="192.0.2.1")), Deny)


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({}, "`allow` or `deny`"),
        ({"allow": [], "deny": []}, "`allow` or `deny`"),
        ({"allow": ["10.0.0.1/8"]}, "host bits"),
        ({"allow": ["ten"]}, "not an address"),
        ({"deny": [10]}, "must be an address"),
        ({"allow": "10.0.0.0/8"}, "valid tuple"),
        ({"whitelist": ["10.0.0.0/8"]}, "Extra inputs"),
    ],
)
def test_bad_config_is_refused(config: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        IpRestriction.Config.model_validate(config)
