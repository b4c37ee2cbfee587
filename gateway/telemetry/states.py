"""What `/status` tells of workers and targets, as plain values, and how the workers' views become the node's.

Law kept here: in doubt the worse view is shown.  A target is healthy only if every worker holds it to be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

#: States of an address (`proxy/health.py`), the worst first.
_WORST_FIRST: Final = ("ejected", "half-open", "slow-start", "healthy")

#: A `TargetStatus` as it is sent from one process to another.
PlainTarget = tuple[str, str, bool, int, str, tuple[tuple[str, str, str, int], ...]]


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One process that serves, and the hash of the configuration that it serves by.

    `slot` is its place among the workers, `uptime_seconds` how long it has been there, `restarts` how often the slot
    got a fresh worker, `connections` how many clients are connected to it.
    """

    pid: int
    config_hash: str
    slot: int = 0
    uptime_seconds: float = 0.0
    restarts: int = 0
    connections: int = 0


@dataclass(frozen=True, slots=True)
class AddressStatus:
    """One address of a target: "healthy", "slow-start", "ejected" or "half-open", the reason where it is left out, and
    how many requests it carries."""

    address: str
    state: str
    reason: str
    active: int


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """One target of a service, whether it takes requests, the reason where it does not, and its addresses."""

    service: str
    target: str
    healthy: bool
    weight: int = 1
    reason: str = ""
    addresses: tuple[AddressStatus, ...] = ()


def plain(target: TargetStatus) -> PlainTarget:
    """A target's state as tuples, to be sent."""
    addresses = tuple((each.address, each.state, each.reason, each.active) for each in target.addresses)
    return target.service, target.target, target.healthy, target.weight, target.reason, addresses


def from_plain(sent: PlainTarget) -> TargetStatus:
    """A target's state of what `plain` made."""
    service, target, healthy, weight, reason, addresses = sent
    return TargetStatus(service, target, healthy, weight, reason, tuple(AddressStatus(*each) for each in addresses))


def joined(views: Iterable[Sequence[TargetStatus]]) -> list[TargetStatus]:
    """The targets of the node, of what each worker holds of them; in the order in which they are first named."""
    found: dict[tuple[str, str], list[TargetStatus]] = {}
    for view in views:
        for target in view:
            found.setdefault((target.service, target.target), []).append(target)
    return [_one(targets) for targets in found.values()]


def _one(targets: list[TargetStatus]) -> TargetStatus:
    first = targets[0]
    if len(targets) == 1:
        return first
    addresses: dict[str, list[AddressStatus]] = {}
    for target in targets:
        for address in target.addresses:
            addresses.setdefault(address.address, []).append(address)
    return TargetStatus(
        first.service,
        first.target,
        all(target.healthy for target in targets),
        first.weight,
        # Why it takes no requests, as one tells it who gives it none; what little ails the others comes after that.
        _first(target.reason for target in sorted(targets, key=_is_healthy)),
        tuple(_one_address(views) for views in addresses.values()),
    )


def _one_address(views: list[AddressStatus]) -> AddressStatus:
    worst = min(views, key=_badness)
    reason = worst.reason or _first(view.reason for view in views)
    return AddressStatus(worst.address, worst.state, reason, sum(view.active for view in views))


def _is_healthy(target: TargetStatus) -> bool:
    return target.healthy


def _badness(address: AddressStatus) -> int:
    """0 for the worst; a state that is not known here counts as that."""
    return _WORST_FIRST.index(address.state) if address.state in _WORST_FIRST else 0


def _first(texts: Iterable[str]) -> str:
    return next((text for text in texts if text), "")
