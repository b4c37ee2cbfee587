"""`ip-restriction`: which addresses may use a route.

Closed: an address that cannot be read (a client behind a Unix socket has none) is refused.  The cost of a
request does not grow with the number of networks, but with the number of different prefix lengths.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Self

from pydantic import Field, model_validator

from gateway.config.types import Network, Settings
from gateway.core import units
from gateway.core.answers import ADDRESS_DENIED
from gateway.core.context import Context
from gateway.core.decision import ALLOW, Decision, Deny
from gateway.core.policy import Environment, Phase, Policy

#: An address as `(IP version, number)`; version 0 for a text that is no address.
Parsed = tuple[int, int]

_UNREADABLE: Parsed = (0, 0)
_MEMO_LIMIT = 8192
_MAPPED = IPv6Network("::ffff:0:0/96")


class _AddressMemo(dict[str, Parsed]):
    """`memo[text]` is the parsed address; forgets everything once it holds 8,192, so a flood cannot fill memory."""

    def __missing__(self, text: str) -> Parsed:
        try:
            address = ip_address(text.partition("%")[0])
        except ValueError:
            parsed = _UNREADABLE
        else:
            if isinstance(address, IPv6Address):
                address = address.ipv4_mapped or address
            parsed = (address.version, int(address))
        if len(self) >= _MEMO_LIMIT:
            self.clear()
        self[text] = parsed
        return parsed


#: Parsing an address does not depend on the configuration, so all routes share one memo.
_addresses = _AddressMemo()


def _unmapped(network: units.Network) -> units.Network:
    """A network of IPv4-mapped IPv6 addresses as the IPv4 network that it means; any other as it stands."""
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
    return network


class _Networks:
    """A set of networks: for each IP version, `(bits to shift out, the numbers that remain)` a prefix length."""

    __slots__ = ("_by_version",)

    def __init__(self, networks: Iterable[units.Network]) -> None:
        gathered: dict[tuple[int, int], set[int]] = {}
        for network in map(_unmapped, networks):
            shift = network.max_prefixlen - network.prefixlen
            gathered.setdefault((network.version, shift), set()).add(int(network.network_address) >> shift)
        self._by_version = {
            version: tuple((shift, frozenset(numbers)) for (its, shift), numbers in gathered.items() if its == version)
            for version in (0, 4, 6)
        }

    def __contains__(self, address: Parsed) -> bool:
        version, number = address
        for shift, numbers in self._by_version[version]:  # noqa: SIM110  # a generator would cost twice as much
            if number >> shift in numbers:
                return True
        return False


class IpRestriction(Policy):
    """Admit clients by their address.

    `allow` admits only the addresses in its networks; `deny` refuses those in its networks.  With both, an
    address must be in `allow` and must not be in `deny`.  The address is the client's own, found through
    `trusted_proxies` where there are any.  An IPv4 client that came in over an IPv6 socket
    (`::ffff:192.0.2.7`) is judged as IPv4.
    Refused, before authentication: 403 `IP address not allowed`.
    """

    name = "ip-restriction"
    phase = Phase.IP_RESTRICTION

    class Config(Settings):
        """At least one of `allow` and `deny`."""

        allow: tuple[Network, ...] = Field((), description="Networks whose addresses may use the route, and no others.")
        deny: tuple[Network, ...] = Field((), description="Networks whose addresses may not; stronger than `allow`.")

        @model_validator(mode="after")
        def _says_something(self) -> Self:
            if not self.allow and not self.deny:
                raise ValueError("must have `allow` or `deny`, with at least one network")
            return self

    def __init__(self, config: Config, environment: Environment) -> None:
        self._allow = _Networks(config.allow) if config.allow else None
        self._deny = _Networks(config.deny) if config.deny else None

    def check(self, context: Context) -> Decision:
        """`ALLOW`, or the 403 of the contract."""
        address = _addresses[context.client]
        if address is _UNREADABLE:
            return Deny(ADDRESS_DENIED, facts={"client": context.client, "matched": "not an address"})
        if self._deny is not None and address in self._deny:
            return Deny(ADDRESS_DENIED, facts={"client": context.client, "matched": "deny"})
        if self._allow is not None and address not in self._allow:
            return Deny(ADDRESS_DENIED, facts={"client": context.client, "matched": "nothing in allow"})
        return ALLOW
