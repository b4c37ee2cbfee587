"""What `rate-limiting` demands of a caller: rules and an identity in, demands on the counters out (pure, law 1).

A rule names what it counts by; who calls decides which of the caller's parts that is, and which numbers hold.
Both are fixed for one identity on one set of rules, so they become a plan that is remembered with the identity.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakValueDictionary

from gateway.core.ports import Demand
from gateway.core.units import Rate, parse_rate
from policies._rate_limit_headers import Window, fields_of

if TYPE_CHECKING:
    from gateway.core.context import Context
    from gateway.core.identity import Identity
    from gateway.core.policy import Entry
    from policies.rate_limiting import Rule

Rates = tuple[Rate, ...]

#: Who lacks the one falls to the next; then to the address.
_FALLS_TO = {
    "organization": ("organization", "consumer", "credential"),
    "consumer": ("consumer", "credential"),
    "credential": ("credential",),
}
_CALL_TYPES = {"GET": "read", "HEAD": "read", "OPTIONS": "read", "DELETE": "remove"}

#: A header's value that is longer than this stands in the counter's key as a digest.
_LONGEST_VALUE = 64
#: Plans one identity remembers, and demands that all plans together remember by address and call type.
_PLANS, _VARIANTS = 256, 32_768


class Placed(NamedTuple):
    """A rule where it was written: `prefix` begins its counter keys and tells it from every other rule."""

    prefix: str
    rule: Rule


class Claim(NamedTuple):
    """What one rule demands of one caller; `subject` is the end of its counter key, None where the request decides."""

    prefix: str
    rule: Rule
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
            demands.append(Demand(f"{budget} {found}", rates, rule.algorithm))
        return tuple(demands)


_variants: dict[tuple[Plan, str, str], tuple[Demand, ...]] = {}


class Ruleset:
    """The rules of one phase that hold on a route.  Routes with the same ones share it, and what it made."""

    __slots__ = ("__weakref__", "_placed", "_route", "nobody")

    def __init__(self, placed: tuple[Placed, ...], route: str) -> None:
        self._placed = placed
        self._route = route
        #: The plan of a request that nobody was authenticated for.
        self.nobody = self._plan(None)

    def plan(self, identity: Identity) -> Plan:
        """What is demanded of `identity`, from now on remembered with it."""
        derived = identity.derived
        if len(derived) >= _PLANS:
            derived.clear()
        plan = derived[self] = self._plan(identity)
        return plan

    def _plan(self, identity: Identity | None) -> Plan:
        return Plan(tuple(self._claim(prefix, rule, identity) for prefix, rule in self._placed))

    def _claim(self, prefix: str, rule: Rule, identity: Identity | None) -> Claim:
        rates = rule.limits
        if identity is not None:
            member_of = [limits for group, limits in rule.groups.items() if group in identity.groups]
            rates = max(member_of, key=_generosity, default=rates)
        if rule.by == "route":
            return Claim(prefix, rule, rates, f"route {self._route}")
        if identity is not None:
            parts = {
                "organization": identity.consumer.organization,
                "consumer": identity.consumer,
                "credential": identity.credential,
            }
            for kind in _FALLS_TO.get(rule.by, ()):
                part = parts[kind]
                if part is not None:
                    own = _parse(part.rate_limits) if part.rate_limits else rates
                    return Claim(prefix, rule, own, f"{kind} {part.id}")
        return Claim(prefix, rule, rates, None)


_rulesets: WeakValueDictionary[tuple[str, ...], Ruleset] = WeakValueDictionary()


def ruleset(placed: tuple[Placed, ...], route: str) -> Ruleset:
    """The rules of one phase on `route`: one object wherever they demand the same, also after a reload."""
    route = route if any(item.rule.by == "route" for item in placed) else ""
    key = (route, *(text for item in placed for text in (item.prefix, item.rule.model_dump_json())))
    found = _rulesets.get(key)
    if found is None:
        found = _rulesets[key] = Ruleset(placed, route)
    return found


def place(entry: Entry) -> Iterable[Placed]:
    """The rules of one level with the beginnings of their counter keys; rules alike in name and `by` are numbered."""
    seen: dict[str, int] = {}
    for rule in entry.config.root:
        prefix = f"{entry.scope} {rule.name or '-'} {rule.by.lower()}"
        seen[prefix] = number = seen.get(prefix, 0) + 1
        yield Placed(prefix if number == 1 else f"{prefix} #{number}", rule)


def _windows(claims: Iterable[Claim]) -> Iterable[Window]:
    for claim in claims:
        for rate in claim.rates:
            name = rate.name if claim.rule.name is None else f"{claim.rule.name}-{rate.name}"
            yield Window(name, rate.limit, rate.seconds, claim.rule.headers)


def _generosity(rates: Rates) -> float:
    return min(rate.limit / rate.seconds for rate in rates)


@lru_cache(maxsize=4096)
def _parse(texts: tuple[str, ...]) -> Rates:
    """Limits as an identity carries them; of two for one length the lower holds."""
    rates: dict[int, Rate] = {}
    for rate in map(parse_rate, texts):
        if rate.seconds not in rates or rate.limit < rates[rate.seconds].limit:
            rates[rate.seconds] = rate
    return tuple(rates.values())


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
    if len(value) > _LONGEST_VALUE:
        return f"header.{name} digest {blake2b(value, digest_size=16).hexdigest()}"
    return f"header.{name} is {value.decode('latin-1')}"
