"""What all rules together demand of one caller: made once for an identity, asked once a request (so: compiled)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple, Protocol

from gateway.core.context import Context
from gateway.core.ports import Demand
from gateway.core.units import Rate
from policies._rate_limit_headers import Window, fields_of

Rates = tuple[Rate, ...]

_CALL_TYPES: Final = {"GET": "read", "HEAD": "read", "OPTIONS": "read", "DELETE": "remove"}

#: Demands that all plans together remember by address and call type.
_VARIANTS: Final = 32_768


class RuleLike(Protocol):
    """What a plan reads of a rule's settings."""

    @property
    def name(self) -> str | None: ...

    @property
    def by(self) -> str: ...

    @property
    def separate_call_types(self) -> bool: ...

    @property
    def algorithm(self) -> str: ...

    @property
    def on_fault(self) -> str: ...

    @property
    def headers(self) -> tuple[str, ...]: ...


class Claim(NamedTuple):
    """What one rule demands of one caller; `subject` is the end of its counter key, None where the request decides."""

    prefix: str
    rule: RuleLike
    rates: Rates
    subject: str | None


class Plan:
    """What all rules together demand of one caller.  `demands` is None where that depends on the request."""

    __slots__ = ("_by_address", "_by_header", "_claims", "demands", "fields", "on_fault")

    def __init__(self, claims: tuple[Claim, ...]) -> None:
        self._claims = claims
        self._by_address = any(claim.subject is None for claim in claims)
        self._by_header = any(claim.rule.by.startswith("header.") for claim in claims)
        self.fields = fields_of(tuple(_windows(claims)))
        self.on_fault = "deny" if any(claim.rule.on_fault == "deny" for claim in claims) else "allow"
        fixed = not any(claim.subject is None or claim.rule.separate_call_types for claim in claims)
        self.demands: tuple[Demand, ...] | None = self._demands("", "", {}) if fixed else None

    def demands_of(self, context: Context) -> tuple[Demand, ...]:
        """What is demanded of this request."""
        kind = _CALL_TYPES.get(context.method, "modify")
        if self._by_header:
            return self._demands(kind, context.client, context.index)
        variant = (self, kind, context.client if self._by_address else "")
        demands = _variants.get(variant)
        if demands is None:
            if len(_variants) >= _VARIANTS:
                _variants.clear()
            demands = _variants[variant] = self._demands(kind, context.client, {})
        return demands

    def _demands(self, kind: str, client: str, index: Mapping[bytes, bytes]) -> tuple[Demand, ...]:
        demands = []
        for prefix, rule, rates, subject in self._claims:
            budget = f"{prefix} {kind}" if rule.separate_call_types else prefix
            found = subject or _header_subject(rule.by, index) or f"ip {_network(client)}"
            demands.append(Demand(f"{budget} {found}", rates, rule.algorithm, found))
        return tuple(demands)


_variants: dict[tuple[Plan, str, str], tuple[Demand, ...]] = {}


def _windows(claims: Iterable[Claim]) -> Iterable[Window]:
    for claim in claims:
        for rate in claim.rates:
            name = rate.name if claim.rule.name is None else f"{claim.rule.name}-{rate.name}"
            yield Window(name, rate.limit, rate.seconds, claim.rule.headers)


@lru_cache(maxsize=4096)
def _network(client: str) -> str:
    """Whom an address stands for: itself, of IPv6 its /64 (anybody has a whole one)."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))


def _header_subject(by: str, index: Mapping[bytes, bytes]) -> str | None:
    if not by.startswith("header."):
        return None
    name = by.removeprefix("header.").lower()
    value = index.get(name.encode())
    if not value:
        return None
    # As a digest: it may be long, and it may be a secret, while keys are written to a Redis that others can read.
    return f"header.{name} {blake2b(value, digest_size=16).hexdigest()}"
