"""What every backend of the counters must keep (the port is `gateway.core.ports.Counters`), one suite for all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.ports import Demand
from gateway.core.units import Rate, parse_rate
from gateway.counters.memory import MemoryCounters
from tests.contract.counting import BACKENDS, SECOND, Bench

ALGORITHMS = ("sliding-window", "fixed-window", "token-bucket")


def rates(*texts: str) -> tuple[Rate, ...]:
    return tuple(parse_rate(text) for text in texts)


@pytest.fixture(params=BACKENDS)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with BACKENDS[request.param]() as made:
        yield made


backends = pytest.mark.parametrize("backend", BACKENDS)
algorithms = pytest.mark.parametrize("algorithm", ALGORITHMS)


@algorithms
async def test_admits_up_to_the_limit_then_refuses(bench: Bench, algorithm: str) -> None:
    demand = Demand("k", rates("3/minute"), algorithm)
    assert [(await bench.take(demand)).states[0][0] for _ in range(3)] == [2, 1, 0]
    refused = await bench.take(demand)
    assert not refused.admitted
    assert refused.states[0][0] == 0


@pytest.mark.parametrize(
    ("algorithm", "states"),
    [
        # The oldest request goes first, a minute after it came.
        ("sliding-window", [(2, 60), (1, 50), (0, 40), (0, 30)]),
        # All go together, a minute after the first came.
        ("fixed-window", [(2, 60), (1, 50), (0, 40), (0, 30)]),
        # A token is made every 20 s; the fourth request takes what had come back by then.
        ("token-bucket", [(2, 20), (1, 10), (1, 20), (0, 10)]),
    ],
)
async def test_reset_says_when_the_count_next_falls(
    bench: Bench, algorithm: str, states: list[tuple[int, int]]
) -> None:
    demand = Demand("k", rates("3/minute"), algorithm)
    for left, reset in states:
        assert (await bench.take(demand)).states[0] == (left, reset * SECOND)
        bench.now += 10 * SECOND


@algorithms
async def test_keys_are_counted_apart(bench: Bench, algorithm: str) -> None:
    limit = rates("1/minute")
    assert (await bench.take(Demand("a", limit, algorithm))).admitted
    assert (await bench.take(Demand("b", limit, algorithm))).admitted
    assert not (await bench.take(Demand("a", limit, algorithm))).admitted


@algorithms
async def test_all_windows_of_all_demands_or_none(bench: Bench, algorithm: str) -> None:
    wide, narrow = Demand("wide", rates("5/second", "9/minute"), algorithm), Demand("n", rates("2/hour"), algorithm)
    assert [(await bench.take(wide, narrow)).admitted for _ in range(4)] == [True, True, False, False]
    refused = await bench.take(wide, narrow)
    # What was refused has not been counted anywhere, and is shown so.
    assert [left for left, _ in refused.states] == [3, 7, 0]
    assert [left for left, _ in (await bench.take(wide)).states] == [2, 6]


@algorithms
async def test_windows_may_refuse_in_any_place(bench: Bench, algorithm: str) -> None:
    one, two = Demand("one", rates("9/minute"), algorithm), Demand("two", rates("1/minute"), algorithm)
    assert (await bench.take(one, two)).admitted
    for order in ((one, two), (two, one)):
        assert not (await bench.take(*order)).admitted
    assert (await bench.take(one)).states[0][0] == 7


@algorithms
@pytest.mark.parametrize(
    ("later", "admitted"), [("10/minute", 7), ("3/minute", 0), ("4/minute", 1), ("10/minute 50/hour", 7)]
)
async def test_changed_limits_go_on_from_the_counts_that_stand(
    bench: Bench, algorithm: str, later: str, admitted: int
) -> None:
    before = Demand("k", rates("5/minute"), algorithm)
    for _ in range(3):
        assert (await bench.take(before)).admitted
    after = Demand("k", rates(*later.split()), algorithm)
    assert sum([(await bench.take(after)).admitted for _ in range(20)]) == admitted


@algorithms
async def test_a_clock_that_goes_back_stands_still(bench: Bench, algorithm: str) -> None:
    demand = Demand("k", rates("2/minute"), algorithm)
    await bench.take(demand)
    bench.now -= 30 * SECOND
    assert (await bench.take(demand)).states[0] == (0, (30 if algorithm == "token-bucket" else 60) * SECOND)


windows = st.lists(
    st.tuples(st.integers(1, 6), st.sampled_from([1, 2, 5, 30])).map(lambda pair: Rate(*pair, name=f"{pair[1]}s")),
    min_size=1,
    max_size=3,
    unique_by=lambda rate: rate.seconds,
).map(tuple)
gaps = st.lists(
    st.one_of(
        st.integers(0, 3),
        st.sampled_from([SECOND - 1, SECOND, SECOND + 1, 2 * SECOND, 5 * SECOND, 30 * SECOND - 1]),
        st.integers(0, 8 * SECOND),
    ),
    max_size=60,
)


class Oracle:
    """A sliding window as its definition reads: every admitted moment, kept for ever."""

    def __init__(self) -> None:
        self.moments: list[int] = []

    def held(self, rate: Rate, now: int) -> list[int]:
        return [moment for moment in self.moments if moment + rate.seconds * SECOND > now]

    def take(self, limits: Sequence[Rate], now: int) -> tuple[bool, list[tuple[int, int]]]:
        admitted = all(len(self.held(rate, now)) < rate.limit for rate in limits)
        if admitted:
            self.moments.append(now)
        states = []
        for rate in limits:
            held, length = self.held(rate, now), rate.seconds * SECOND
            falls = held[-rate.limit] if len(held) >= rate.limit else held[0] if held else now - length
            states.append((max(0, rate.limit - len(held)), falls + length - now))
        return admitted, states


@backends
@given(limits=windows, later=windows, gaps=gaps, change=st.integers(0, 60))
@settings(max_examples=150, deadline=None)
async def test_the_sliding_window_is_its_definition(
    backend: str, limits: tuple[Rate, ...], later: tuple[Rate, ...], gaps: list[int], change: int
) -> None:
    """Against an oracle, with limits that change on the way.

    A new longer window sees only what the earlier windows still remembered, so there the limits alone change.
    """
    oracle = Oracle()
    changed = tuple(Rate(rate.limit, old.seconds, old.name) for rate, old in zip(later, limits, strict=False))
    async with BACKENDS[backend]() as bench:
        for index, gap in enumerate(gaps):
            current = changed if index >= change else limits
            verdict = await bench.take(Demand("k", current), after=gap)
            admitted, states = oracle.take(current, bench.now)
            assert (verdict.admitted, list(verdict.states)) == (admitted, states)


@backends
@given(limits=windows, gaps=gaps)
@settings(max_examples=100, deadline=None)
async def test_never_more_than_the_limit_in_any_window(backend: str, limits: tuple[Rate, ...], gaps: list[int]) -> None:
    async with BACKENDS[backend]() as bench:
        moments = [bench.now for gap in gaps if (await bench.take(Demand("k", limits), after=gap)).admitted]
    for rate in limits:
        for start in moments:
            assert sum(start <= moment < start + rate.seconds * SECOND for moment in moments) <= rate.limit


@backends
@algorithms
@given(limits=windows, other=windows, gaps=gaps)
@settings(max_examples=80, deadline=None)
async def test_a_refusal_costs_nothing(
    backend: str, algorithm: str, limits: tuple[Rate, ...], other: tuple[Rate, ...], gaps: list[int]
) -> None:
    """Two gateways see the same requests, one of them many refused ones more: every later answer is the same."""
    demands = Demand("k", limits, algorithm), Demand("other", other, algorithm)
    async with BACKENDS[backend]() as plain, BACKENDS[backend]() as pestered:
        for gap in gaps:
            verdict = await plain.take(*demands, after=gap)
            echo = await pestered.take(*demands, after=gap)
            assert (verdict.admitted, list(verdict.states)) == (echo.admitted, list(echo.states))
            if not verdict.admitted:
                for _ in range(3):
                    again = await pestered.take(*demands)
                    assert list(again.states) == list(verdict.states)


@backends
@algorithms
@given(limits=windows, gaps=gaps)
@settings(max_examples=80, deadline=None)
async def test_reset_is_the_truth(backend: str, algorithm: str, limits: tuple[Rate, ...], gaps: list[int]) -> None:
    """Waiting as long as the last exhausted window says admits; a tick of the clock less does not."""
    demand = Demand("k", limits, algorithm)
    for early in (False, True):
        async with BACKENDS[backend]() as bench:
            for gap in gaps:
                await bench.take(demand, after=gap)
            verdict = await bench.take(demand)
            while verdict.admitted:
                verdict = await bench.take(demand)
            wait = max(reset for left, reset in verdict.states if left == 0)
            assert wait > 0
            assert (await bench.take(demand, after=wait - early * bench.tick)).admitted is (not early)


@backends
@algorithms
@given(limits=windows, gaps=gaps)
@settings(max_examples=80, deadline=None)
async def test_the_count_falls_when_reset_says(
    backend: str, algorithm: str, limits: tuple[Rate, ...], gaps: list[int]
) -> None:
    """After an admitted request: at `reset` there is one more left than just before it (shown by one more request)."""
    if not gaps:
        return
    demand = Demand("k", limits[:1], algorithm)
    shown = []
    for early in (False, True):
        async with BACKENDS[backend]() as bench:
            for gap in gaps:
                verdict = await bench.take(demand, after=gap)
            shown.append(await bench.take(demand, after=verdict.states[0][1] - early * bench.tick))
    on_time, too_early = shown
    if too_early.admitted:
        assert on_time.states[0][0] > too_early.states[0][0]
    else:
        assert on_time.admitted


@pytest.mark.parametrize(("limit", "seconds"), [(1, 1), (7, 30), (3, 2)])
async def test_a_token_bucket_admits_its_burst_and_then_its_rate(bench: Bench, limit: int, seconds: int) -> None:
    demand = Demand("k", (Rate(limit, seconds, "w"),), "token-bucket")
    admitted = 0
    steps = 10 * 64 * limit  # 64 of them in the time that a token takes
    for _ in range(steps):
        admitted += (await bench.take(demand)).admitted
        bench.now += bench.tick * (seconds * SECOND // (64 * limit * bench.tick))
    assert admitted == pytest.approx(limit + 10 * limit, abs=1)


#: Callers with a budget each, and turns in which some of them ask, each for one or more of the budgets.
callers = st.tuples(
    *(st.builds(Demand, st.just(name), windows, st.sampled_from(ALGORITHMS)) for name in ("a", "b", "c", "d"))
)
turns = st.lists(
    st.tuples(
        st.integers(0, 8 * SECOND),
        st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True), max_size=8),
    ),
    max_size=8,
)


@backends
@given(callers=callers, turns=turns)
@settings(max_examples=80, deadline=None)
async def test_what_is_asked_at_once_is_answered_as_one_after_the_other(
    backend: str, callers: tuple[Demand, ...], turns: list[tuple[int, list[list[int]]]]
) -> None:
    """In the order of asking, whatever the algorithms, the number of demands and how many are on their way."""
    one_by_one = MemoryCounters()
    async with BACKENDS[backend]() as bench:
        for gap, asking in turns:
            asked = [[callers[index] for index in indices] for indices in asking]
            bench.now += gap - gap % bench.tick
            told = await bench.take_at_once(asked)
            expected = [one_by_one.take(demands, bench.now) for demands in asked]
            assert [(verdict.admitted, list(verdict.states)) for verdict in told] == [
                # A token may come back between two ticks of a clock: it is there at the second.
                (verdict.admitted, [(left, -(-reset // bench.tick) * bench.tick) for left, reset in verdict.states])
                for verdict in expected
            ]


@pytest.mark.parametrize("key", ["", "a b", "über", "\x00\r\n", "x" * 5000, "{a}b{c}", "header.x is \xff"], ids=repr)
@algorithms
async def test_any_text_is_a_key(bench: Bench, algorithm: str, key: str) -> None:
    demand, other = (Demand(name, rates("2/minute"), algorithm) for name in (key, key + "'"))
    assert [(await bench.take(demand)).admitted for _ in range(3)] == [True, True, False]
    assert (await bench.take(other)).states[0][0] == 1


@pytest.mark.parametrize("limit", [1, 10**9])
@pytest.mark.parametrize("seconds", [1, 366 * 86400])
@algorithms
async def test_the_largest_and_the_smallest_rates(bench: Bench, algorithm: str, limit: int, seconds: int) -> None:
    left, reset = (await bench.take(Demand("k", (Rate(limit, seconds, "w"),), algorithm))).states[0]
    assert left == limit - 1
    assert 0 < reset <= seconds * SECOND
