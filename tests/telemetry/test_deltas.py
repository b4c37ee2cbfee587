"""Reports of several processes add up to what one would have told; nothing is lost, told twice, or taken back."""

from __future__ import annotations

import marshal
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.telemetry.deltas import WHOLE, Accumulator, Report, Reporter
from gateway.telemetry.exposition import render
from gateway.telemetry.metrics import FAMILIES, Kind, Metrics, Reading
from gateway.telemetry.states import AddressStatus, TargetStatus
from gateway.telemetry.usage import Usage

REQUESTS = "postern_http_requests_total"
ROUTE = ("lms", "read")
GET_200 = (*ROUTE, "GET", "200")


@dataclass
class Worker:
    """A process that counts and reports, without the process."""

    metrics: Metrics = field(default_factory=Metrics)
    now: float = 100.0
    used: Usage = field(default_factory=Usage)
    targets: list[TargetStatus] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reporter = Reporter(self.metrics, lambda: self.targets, lambda: self.used, lambda: self.now)

    def serve(self, requests: int = 1, seconds: float = 0.5, status: int = 200) -> None:
        for _ in range(requests):
            self.metrics.route(*ROUTE).observe("GET", status, seconds, seconds / 2)

    def told(self, asked: bool = True) -> Report:
        report = self.reporter.report(asked)
        assert report is not None
        # Over the link and back; and really plain.
        marshal.dumps(cast("Any", report))
        copy: Report = pickle.loads(pickle.dumps(report, protocol=5))
        return copy


def always(value: Any) -> Callable[[], Any]:
    return lambda: value


def node(**gauges: Any) -> Accumulator:
    """The control process's side; `gauges` are its own families without labels, `postern_` left out."""
    metrics = Metrics()
    for name, value in gauges.items():
        metrics.gauge(f"postern_{name}", (), always(value))
    return Accumulator(metrics)


def served(accumulator: Accumulator) -> float:
    return sum(accumulator.read().values[REQUESTS].values())


# ── counting ────────────────────────────────────────────────────────────────────────────────────


def test_what_workers_count_adds_up() -> None:
    accumulator, one, two = node(), Worker(), Worker()
    for round_ in range(3):
        one.serve(2)
        two.serve(5, seconds=0.002)
        accumulator.absorb(1, one.told())
        accumulator.absorb(2, two.told())
        assert served(accumulator) == 7 * (round_ + 1)
    counts, seconds = accumulator.read().histograms["postern_request_duration_seconds"][ROUTE]
    assert sum(counts) == 21
    assert seconds == pytest.approx(6 * 0.5 + 15 * 0.002)


def test_the_control_process_counts_too() -> None:
    metrics = Metrics()
    metrics.route(*ROUTE).observe("GET", 200, 0.5, None)
    accumulator, worker = Accumulator(metrics), Worker()
    worker.serve(2)
    accumulator.absorb(1, worker.told())
    assert [served(accumulator), served(accumulator)] == [3, 3], "reading changes nothing"
    assert sum(accumulator.read().histograms["postern_request_duration_seconds"][ROUTE][0]) == 3


def test_a_counter_that_is_pulled_is_told_as_what_was_added() -> None:
    accumulator, worker = node(), Worker()
    tally = {"hit": 3, "miss": 0}
    worker.metrics.gauge("postern_credential_cache_total", ("result",), lambda: tally)
    expected = {("hit",): 3.0, ("miss",): 0.0}
    for added in (0, 4, 0, 1):
        tally["hit"] += added
        expected["hit",] += added
        accumulator.absorb(1, worker.told(asked=added == 0))
        assert accumulator.read().values["postern_credential_cache_total"] == expected
    # What it is pulled from may begin again: what is shown goes on.
    tally = {"hit": 2, "miss": 0}
    accumulator.absorb(1, worker.told())
    assert accumulator.read().values["postern_credential_cache_total"]["hit",] == expected["hit",] + 2


def test_refusals_of_routes_that_share_a_name_add_up() -> None:
    accumulator, worker = node(), Worker()
    for service in ("one", "two", "two"):
        worker.metrics.route(service, "read").denied("acl", "acl")
    for _ in range(2):
        accumulator.absorb(1, worker.told())
    assert accumulator.read().values["postern_denied_total"] == {("read", "acl", "acl"): 3}


def test_a_method_that_is_counted_as_other_stays_other() -> None:
    accumulator, worker = node(), Worker()
    for _ in range(2):
        worker.metrics.route(*ROUTE).observe("PROPFIND", 207, 0.1, None)
        accumulator.absorb(1, worker.told())
    assert accumulator.read().values[REQUESTS] == {(*ROUTE, "other", "207"): 2}


# ── when there is something to tell ─────────────────────────────────────────────────────────────


def test_a_report_is_whole_once_a_second_and_otherwise_holds_what_was_counted() -> None:
    worker = Worker()
    worker.metrics.gauge("postern_connections", ("side", "state"), lambda: {("downstream", "idle"): 3})
    first = worker.told(asked=False)
    assert first["gauges"] == {"postern_connections": {("downstream", "idle"): 3}}
    assert first["usage"] == (0.0, 0, 0, 0)
    assert worker.reporter.report() is None, "nothing was counted since"
    worker.serve()
    counted = worker.told(asked=False)
    assert counted["counts"] == {REQUESTS: {GET_200: 1}}
    assert (counted["gauges"], counted["targets"], counted["usage"]) == (None, None, None)
    worker.now += WHOLE
    assert worker.told(asked=False)["gauges"] is not None
    assert worker.told(asked=True)["gauges"] is not None, "somebody looks"


# ── death ───────────────────────────────────────────────────────────────────────────────────────


def test_what_a_dead_worker_counted_stays_and_what_it_held_goes() -> None:
    accumulator, worker = node(), Worker(used=Usage(2.0, 100, 200, 10))
    worker.metrics.gauge("postern_connections", ("side", "state"), lambda: {("downstream", "idle"): 3})
    worker.targets = [TargetStatus("lms", "http://a", True)]
    worker.serve(4)
    accumulator.absorb(7, worker.told())
    assert accumulator.connections(7) == 3
    assert accumulator.targets() == worker.targets
    accumulator.gone(7)
    accumulator.gone(7)
    reading = accumulator.read()
    assert served(accumulator) == 4
    assert reading.values["postern_connections"] == {}
    assert reading.others == Usage(2.0, 0, 0, 0)
    assert (accumulator.connections(7), accumulator.targets()) == (0, [])


def test_a_report_is_counted_once_however_often_it_comes() -> None:
    accumulator, worker = node(), Worker(used=Usage(1.0))
    worker.serve()
    first = worker.told()
    worker.serve(2)
    second = worker.told()
    worker.used = Usage(1.5)
    worker.serve(4)
    late = worker.told()
    for report in (first, first, second, first, second):
        accumulator.absorb(7, report)
    assert served(accumulator) == 3
    accumulator.gone(7)
    for report in (second, late, late, first):
        accumulator.absorb(7, report)
    assert served(accumulator) == 7, "what was on its way when the worker ended counts, once"
    reading = accumulator.read()
    assert reading.others == Usage(1.5), "and nothing else of it is left"
    assert not any(reading.values["postern_connections"])


@pytest.mark.parametrize("told", [True, False], ids=["its end was told", "its end was not told"])
def test_a_respawned_worker_begins_at_zero(told: bool) -> None:
    accumulator, first, second = node(), Worker(), Worker()
    first.serve(5)
    accumulator.absorb(7, first.told())
    if told:
        accumulator.gone(7)
    second.serve(1)
    accumulator.absorb(7, second.told())
    assert served(accumulator) == 6
    accumulator.absorb(7, second.told())
    assert served(accumulator) == 6


def test_those_that_are_gone_are_forgotten_in_time() -> None:
    accumulator = node()
    for number in range(1000):
        worker = Worker()
        worker.serve()
        accumulator.absorb(number, worker.told())
        accumulator.gone(number)
    assert served(accumulator) == 1000
    assert len(accumulator._gone) < 300


# ── gauges ──────────────────────────────────────────────────────────────────────────────────────

SIDES = ("downstream", "idle")
TARGET = ("lms", "http://a")


@pytest.mark.parametrize(
    ("family", "labels", "values", "own", "expected"),
    [
        ("postern_connections", ("side", "state"), [{SIDES: 1}, {SIDES: 2}, {SIDES: 4}], None, {SIDES: 7}),
        ("postern_bcrypt_queue", (), [1, 2, 3], 4, {(): 10}),
        ("postern_store_up", (), [True, True, True], True, {(): 1}),
        ("postern_store_up", (), [True, False, True], True, {(): 0}),
        ("postern_store_up", (), [True, True, True], False, {(): 0}),
        ("postern_counters_up", (), [True, True, False], None, {(): 0}),
        ("postern_config_last_reload_success", (), [1, 1, 1], 0, {(): 0}),
        ("postern_revocation_lag_seconds", (), [0.1, 0.3, 0.2], 0.25, {(): 0.3}),
        ("postern_workers", (), [1, 1, 1], 3, {(): 3}),
        (
            "postern_upstream_target_healthy",
            ("service", "target"),
            [{TARGET: True}, {TARGET: False}, {("lms", "http://b"): True}],
            None,
            {TARGET: 0, ("lms", "http://b"): 1},
        ),
    ],
)
def test_gauges_are_joined_by_what_they_say(
    family: str, labels: tuple[str, ...], values: list[Any], own: Any, expected: dict[tuple[str, ...], float]
) -> None:
    metrics = Metrics()
    if own is not None:
        metrics.gauge(family, labels, lambda: own)
    accumulator = Accumulator(metrics)
    for number, value in enumerate(values):
        worker = Worker()
        worker.metrics.gauge(family, labels, always(value))
        for _ in range(2):
            accumulator.absorb(number, worker.told())
    assert accumulator.read().values[family] == expected


def test_the_hash_is_that_of_the_control_process() -> None:
    metrics = Metrics()
    metrics.config_loaded("committed")
    accumulator, worker = Accumulator(metrics), Worker()
    worker.metrics.config_loaded("another")
    accumulator.absorb(1, worker.told())
    assert accumulator.read().values["postern_config_hash_info"] == {("committed",): 1}


def test_targets_are_joined() -> None:
    accumulator = node()
    for number, state in enumerate(("healthy", "ejected", "healthy")):
        address = AddressStatus("192.0.2.1:80", state, "it answered 500" if state == "ejected" else "", number)
        worker = Worker(targets=[TargetStatus("lms", "http://a", state == "healthy", 2, address.reason, (address,))])
        accumulator.absorb(number, worker.told())
    why = "it answered 500"
    assert accumulator.targets() == [
        TargetStatus("lms", "http://a", False, 2, why, (AddressStatus("192.0.2.1:80", "ejected", why, 3),))
    ]


# ── the processes ───────────────────────────────────────────────────────────────────────────────


def test_cpu_of_the_living_and_the_dead_adds_up_and_never_falls() -> None:
    accumulator, worker = node(), Worker()
    seen = []

    def look() -> Usage:
        others = accumulator.read().others
        assert others is not None
        seen.append(others.cpu)
        return others

    for cpu in (1.0, 1.5, 1.25, 2.0):
        worker.used = Usage(cpu, 1000, 5000, 10)
        accumulator.absorb(1, worker.told())
        look()
    accumulator.helped({50: Usage(0.5, 10, 20, 3)})
    assert look() == Usage(2.5, 1010, 5020, 13)
    accumulator.gone(1)
    accumulator.helped({51: Usage(0.25, 10, 20, 3)})
    assert look() == Usage(2.75, 10, 20, 3)
    accumulator.helped({})
    assert look() == Usage(2.75, 0, 0, 0)
    assert seen == sorted(seen)


# ── the law ─────────────────────────────────────────────────────────────────────────────────────

STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["serve", "report", "die", "again", "late"])), max_size=60
)


@settings(max_examples=200)
@given(STEPS)
def test_whatever_happens_no_counter_falls_and_every_reported_request_is_counted_once(
    steps: list[tuple[int, str]],
) -> None:
    accumulator = node()
    workers = {slot: Worker() for slot in range(3)}
    sent: list[tuple[int, Report]] = []
    reported = before = 0.0
    for slot, step in steps:
        worker = workers[slot]
        if step == "serve":
            worker.serve()
            worker.used = worker.used._replace(cpu=worker.used.cpu + 0.25)
        elif step == "report":
            report = worker.told()
            sent.append((slot, report))
            accumulator.absorb(slot, report)
            reported += sum(report["counts"].get(REQUESTS, {}).values())
        elif step == "die":
            accumulator.gone(slot)
            workers[slot] = Worker()
        elif step == "again" and sent:
            accumulator.absorb(*sent[-1])
        elif sent and sent[0][1]["origin"] in accumulator._gone:
            accumulator.absorb(*sent[0])
        total = served(accumulator)
        assert total == reported >= before
        before = total


def requests(route: Callable[[int], Metrics]) -> None:
    """The same requests, each counted by whoever serves it."""
    for number in range(300):
        stats = route(number).route("lms" if number % 3 else "other", f"route-{number % 7}")
        status = (200, 200, 403, 502)[number % 4]
        seconds = (number % 11) / 64
        stats.observe(("GET", "POST", "BREW")[number % 3], status, seconds, None if status == 403 else seconds / 2)
        if status == 403:
            stats.denied("acl", "acl")


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text"])
def test_three_processes_expose_what_one_would(accept: str) -> None:
    def lines(reading: Reading) -> list[str]:
        body, _ = render(reading, accept)
        return sorted(line for line in body.decode().splitlines() if "process_" not in line)

    alone, control = Metrics(), Metrics()
    workers = [Worker() for _ in range(3)]
    for metrics in (alone, control):
        metrics.config_loaded("abc")
        metrics.gauge("postern_workers", (), lambda: 3)
    for metrics, connections in ((alone, 3), *((worker.metrics, 1) for worker in workers)):
        metrics.gauge("postern_connections", ("side", "state"), always({SIDES: connections}))
        metrics.gauge("postern_counters_up", (), lambda: True)
        metrics.gauge("postern_cache_total", ("route", "result"), always({("r", "hit"): connections}))
    requests(lambda _: alone)
    accumulator = Accumulator(control)

    def spread(number: int) -> Metrics:
        if number % 20 == 0:
            accumulator.absorb(number % 3, workers[number % 3].told(asked=number % 40 == 0))
        return workers[number % 3].metrics

    requests(spread)
    for number, worker in enumerate(workers):
        accumulator.absorb(number, worker.told())
    assert lines(accumulator.read()) == lines(alone.read())


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.kind is Kind.COUNTER], ids=lambda family: family.name)
def test_no_counter_is_joined_by_anything_but_its_sum(family: Any) -> None:
    assert family.join == "sum"
