"""Whose turn it is: weights, loads, keys, health; no loop, no socket, a clock of the test's own."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.proxy.balancer import UNIT, Balancer, Endpoint
from gateway.proxy.pool import Pool
from gateway.snapshot import SECOND, UNWATCHED, Health, Origin, PassiveHealth, Service, Target

PASSIVE = Health(passive=PassiveHealth(2, 10 * SECOND))
SLOW = Health(passive=PassiveHealth(1, 10 * SECOND), slow_start=10 * SECOND)


def pool(origin: Origin) -> Pool:
    """A pool that nobody takes from; what it carries is told by `opening`."""
    return Pool(origin, cast(asyncio.AbstractEventLoop, None))


def balancer(*weights: int, balance: str = "round-robin", health: Health = UNWATCHED) -> Balancer:
    """One target a weight, one address a target."""
    targets = tuple(
        Target(f"http://lms-{number}", Origin(f"192.0.2.{number}", 80), b"lms", weight)
        for number, weight in enumerate(weights)
    )
    service = Service("lms", targets, balance=balance, health=health)
    found = Balancer(service)
    found.replace(endpoints(found))
    return found


def endpoints(of: Balancer) -> list[Endpoint]:
    made = []
    for target in of.service.targets:
        endpoint = Endpoint("lms", target, pool(target.origin))
        assert endpoint.weight == target.weight * UNIT
        made.append(endpoint)
    return made


def picks(of: Balancer, number: int, now: int = 0, key: str = "") -> list[int]:
    """Which endpoints get so many requests, by their number."""
    found = []
    for _ in range(number):
        endpoint = of.pick(key, now)
        assert endpoint is not None
        found.append(of.endpoints.index(endpoint))
    return found


# ── round-robin ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("weights", "order"),
    [
        ((1,), [0, 0, 0]),
        ((1, 1), [0, 1, 0, 1]),
        ((5, 1, 1), [0, 0, 1, 0, 2, 0, 0]),  # nginx's own example
        ((1, 2), [1, 0, 1, 1, 0, 1]),
    ],
)
def test_smooth_weights(weights: tuple[int, ...], order: list[int]) -> None:
    assert picks(balancer(*weights), len(order)) == order


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8), st.integers(0, 30))
def test_every_run_of_a_round_gives_each_its_weight(weights: list[int], skipped: int) -> None:
    of = balancer(*weights)
    picks(of, skipped)
    counts = Counter(picks(of, sum(weights)))
    assert [counts[number] for number in range(len(weights))] == weights


@given(st.lists(st.integers(1, 65535), min_size=2, max_size=6), st.data())
def test_whoever_is_out_gets_nothing_and_the_others_their_weight(weights: list[int], data: Any) -> None:
    of = balancer(*weights, health=PASSIVE)
    out = data.draw(st.integers(0, len(weights) - 1))
    for _ in range(2):
        of.endpoints[out].failed(0, "it broke")
    counts = Counter(picks(of, 200))
    assert out not in counts
    whole = sum(weights) - weights[out]
    for number, weight in enumerate(weights):
        if number != out:
            assert abs(counts[number] - 200 * weight / whole) <= len(weights)


def test_addresses_share_their_targets_weight() -> None:
    of = balancer(2, 1)
    heavy, light = of.endpoints
    addresses = [Endpoint("lms", heavy.target, pool(Origin(f"198.51.100.{n}", 80))) for n in range(3)]
    for endpoint in addresses:
        endpoint.weight = heavy.weight // 3
    of.replace([*addresses, light])
    assert Counter(picks(of, 90)) == {0: 20, 1: 20, 2: 20, 3: 30}


# ── least connections ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("weights", "busy", "expected"),
    [
        ((1, 1, 1), (3, 1, 2), {1}),
        ((1, 1, 1), (1, 1, 2), {0, 1}),
        ((1, 4), (1, 3), {1}),
        ((1, 4), (0, 1), {0}),
        ((1, 4), (1, 4), {0, 1}),
        ((1, 1), (0, 0), {0, 1}),
    ],
)
def test_the_least_busy_for_its_weight(weights: tuple[int, ...], busy: tuple[int, ...], expected: set[int]) -> None:
    of = balancer(*weights, balance="least-connections")
    for endpoint, number in zip(of.endpoints, busy, strict=True):
        endpoint.pool.opening = number
    assert set(picks(of, 10)) == expected, "equals take turns"


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 200))
def test_requests_that_stay_settle_by_weight(weights: list[int], number: int) -> None:
    of = balancer(*weights, balance="least-connections")
    for _ in range(number):
        endpoint = of.pick("", 0)
        assert endpoint is not None
        endpoint.pool.opening += 1
    for endpoint in of.endpoints:
        assert abs(endpoint.pool.busy - number * endpoint.weight / (sum(weights) * UNIT)) <= len(weights)


# ── consumer hash ───────────────────────────────────────────────────────────────────────────────

KEYS = [f"consumer-{number}" for number in range(2000)]


def homes(of: Balancer, now: int = 0) -> dict[str, str]:
    return {key: endpoint.target.name for key in KEYS if (endpoint := of.pick(key, now)) is not None}


def test_a_consumer_stays_where_it_is() -> None:
    of = balancer(1, 1, 1, balance="consumer-hash")
    assert homes(of) == homes(of)
    assert set(homes(of).values()) == {"http://lms-0", "http://lms-1", "http://lms-2"}


@pytest.mark.parametrize("count", [2, 4, 8])
def test_one_that_goes_takes_only_its_own_keys_and_one_that_comes_back_gets_them_again(count: int) -> None:
    of = balancer(*[1] * count, balance="consumer-hash")
    before = homes(of)
    whole = of.endpoints
    of.replace(whole[1:])
    after = homes(of)
    moved = {key for key in KEYS if before[key] != after[key]}
    assert moved == {key for key in KEYS if before[key] == whole[0].target.name}
    assert len(moved) == pytest.approx(len(KEYS) / count, rel=0.4)
    of.replace(whole)
    assert homes(of) == before


def test_one_that_is_ill_is_passed_over() -> None:
    of = balancer(1, 1, 1, 1, balance="consumer-hash", health=PASSIVE)
    before = homes(of)
    ill = of.endpoints[2]
    for _ in range(2):
        ill.failed(0, "it broke")
    after = homes(of)
    assert {key for key in KEYS if before[key] != after[key]} == {k for k in KEYS if before[k] == ill.target.name}
    ill.watch.admitted(10 * SECOND)
    ill.succeeded(10 * SECOND)
    assert homes(of, 10 * SECOND) == before


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=120),
)
def test_nobody_carries_more_than_its_bound(weights: list[int], requests: list[tuple[int, bool]]) -> None:
    """Few keys, so that some are hot; some requests end in between."""
    of = balancer(*weights, balance="consumer-hash")
    under_way: list[Endpoint] = []
    for key, ends in requests:
        if ends and under_way:
            under_way.pop(0).pool.opening -= 1
        endpoint = of.pick(f"consumer-{key}", 0)
        assert endpoint is not None
        endpoint.pool.opening += 1
        under_way.append(endpoint)
        share = endpoint.target.weight / sum(weights)
        assert endpoint.pool.busy <= math.ceil(1.25 * len(under_way) * share + 1e-9)


# ── health ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("balance", ["round-robin", "least-connections", "consumer-hash"])
def test_all_are_out(balance: str) -> None:
    of = balancer(1, 1, balance=balance, health=PASSIVE)
    for endpoint in of.endpoints:
        for _ in range(2):
            endpoint.failed(0, "it broke")
    assert of.pick("k", 9 * SECOND) is None
    first, second = of.pick("k", 10 * SECOND), of.pick("k", 10 * SECOND)
    assert {first, second} == set(of.endpoints), "each of them gets the one request that decides"
    assert of.pick("k", 11 * SECOND) is None
    assert first is not None
    told = [first.failing]
    first.succeeded(11 * SECOND)
    assert [*told, first.failing] == [True, False]
    assert [of.pick("k", 12 * SECOND) for _ in range(3)] == [first] * 3


@pytest.mark.parametrize("balance", ["round-robin", "least-connections"])
def test_a_half_open_one_gets_the_next_request_and_only_that(balance: str) -> None:
    of = balancer(1, 100, balance=balance, health=PASSIVE)
    ill, well = of.endpoints
    for _ in range(2):
        ill.failed(0, "it broke")
    assert [of.pick("", 10 * SECOND) for _ in range(4)] == [ill, well, well, well]
    ill.abandoned(11 * SECOND)
    assert [of.pick("", 11 * SECOND) for _ in range(3)] == [ill, well, well]
    ill.failed(12 * SECOND, "still")
    assert [of.pick("", 13 * SECOND) for _ in range(3)] == [well] * 3


def test_one_that_comes_back_begins_slowly() -> None:
    of = balancer(1, 1, health=SLOW)
    ill, _ = of.endpoints
    ill.failed(0, "it broke")
    assert of.pick("", 10 * SECOND) is ill
    ill.succeeded(10 * SECOND)
    early = Counter(picks(of, 110, 10 * SECOND))
    assert early[0] == pytest.approx(10, abs=1), "a tenth of its weight: 1 in 11"
    late = Counter(picks(of, 100, 20 * SECOND))
    assert late[0] == pytest.approx(50, abs=1)


@pytest.mark.parametrize("balance", ["round-robin", "least-connections", "consumer-hash"])
def test_the_one_to_avoid_comes_last(balance: str) -> None:
    of = balancer(1, 1, balance=balance)
    one, other = of.endpoints
    assert [of.pick("k", 0, avoid=one) for _ in range(3)] == [other] * 3
    of.replace([one])
    assert of.pick("k", 0, avoid=one) is one, "there is no other"
    of.replace([other])
    assert of.pick("k", 0, avoid=one) is other
    of.replace([])
    assert of.pick("k", 0, avoid=one) is None, "it is none of ours any more"


@pytest.mark.parametrize(
    ("weights", "health", "only"),
    [((1,), UNWATCHED, True), ((1,), Health(slow_start=1), True), ((1,), PASSIVE, False), ((1, 1), UNWATCHED, False)],
)
def test_the_one_that_needs_no_asking(weights: tuple[int, ...], health: Health, only: bool) -> None:
    of = balancer(*weights, health=health)
    assert of.only is (of.endpoints[0] if only else None)


def test_statuses_that_are_failures() -> None:
    assert balancer(1).statuses == frozenset()
    assert balancer(1, health=PASSIVE).statuses == {502, 503, 504}


# ── waiting for the first resolution ────────────────────────────────────────────────────────────


@pytest.mark.parametrize("resolved", [True, False])
def test_who_waits_is_told_once_the_first_resolution_has_ended(resolved: bool) -> None:
    of = balancer(1)
    found = of.endpoints
    of.replace([], resolving=True)
    assert (of.resolving, of.pick("", 0)) == (True, None)
    told: list[str] = []
    of.wait().then(lambda _: told.append("first"), lambda error: told.append(str(error)))
    gone = of.wait()
    gone.then(lambda _: told.append("gone"), lambda error: told.append(str(error)))
    gone.cancel()
    assert told == []
    of.replace(found if resolved else [], resolving=False)
    assert told == ["first"]
    assert (of.resolving, of.pick("", 0)) == (False, found[0] if resolved else None)
    of.wait().then(lambda _: told.append("late"), lambda error: told.append(str(error)))
    assert told == ["first", "late"], "nothing to wait for any more"


def test_another_target_is_enough_to_begin_with() -> None:
    of = balancer(1)
    of.replace(of.endpoints, resolving=True)
    assert not of.resolving


@pytest.mark.parametrize(
    ("origin", "text"),
    [
        (Origin("192.0.2.7", 80), "192.0.2.7:80"),
        (Origin("2001:db8::1", 8080), "[2001:db8::1]:8080"),
        (Origin(path="/run/lms.sock"), "unix:/run/lms.sock"),
    ],
)
def test_an_endpoint_is_shown_by_its_address(origin: Origin, text: str) -> None:
    endpoint = Endpoint("lms", Target("http://lms", origin, b"lms"), pool(origin))
    assert endpoint.address == text


def test_changes_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "postern.proxy")
    endpoint = balancer(1, health=PASSIVE).endpoints[0]
    for _ in range(4):
        endpoint.failed(0, "no answer in time")
    endpoint.watch.admitted(10 * SECOND)
    endpoint.succeeded(10 * SECOND)
    endpoint.succeeded(10 * SECOND)
    assert [record.getMessage() for record in caplog.records] == [
        "service lms: target http://lms-0 at 192.0.2.0:80 is left out: no answer in time",
        "service lms: target http://lms-0 at 192.0.2.0:80 is used again",
    ]
