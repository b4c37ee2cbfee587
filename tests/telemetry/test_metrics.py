"""Metrics: what is recorded is what the client library's own parser reads back, in both formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from gateway.telemetry.exposition import render
from gateway.telemetry.metrics import BOUNDS, FAMILIES, Kind, Metrics

DOCUMENT = Path(__file__).parents[2] / "docs" / "METRICS.md"
OPENMETRICS = "application/openmetrics-text;version=1.0.0"

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(metrics: Metrics) -> dict[str, Metric]:
    body, _ = render(metrics.read(), "")
    return {family.name: family for family in parse_text(body.decode())}


def samples(metrics: Metrics) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in scrape(metrics).values()
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, tuple(sorted(labels.items()))]


def busy() -> Metrics:
    """Metrics with a sample in every family."""
    metrics = Metrics()
    stats = metrics.route("lms", "read")
    stats.observe("GET", 200, 0.002, 0.001)
    stats.denied("acl", "acl")
    metrics.gauge("postern_credential_cache_total", ("result",), lambda: {"hit": 3, "miss": 1})
    metrics.gauge("postern_cache_total", ("route", "result"), lambda: {("read", "hit"): 7})
    metrics.gauge("postern_bcrypt_queue", (), lambda: 2)
    connections = {("downstream", "active"): 1, ("downstream", "idle"): 4, ("upstream", "idle"): 5}
    metrics.gauge("postern_connections", ("side", "state"), lambda: connections)
    targets = {("lms", "http://127.0.0.1:9000"): True}
    metrics.gauge("postern_upstream_target_healthy", ("service", "target"), lambda: targets)
    metrics.gauge("postern_store_up", (), lambda: True)
    metrics.gauge("postern_counters_up", (), lambda: False)
    metrics.set("postern_revocation_lag_seconds", 0.25)
    metrics.gauge("postern_workers", (), lambda: 4)
    metrics.gauge("postern_worker_restarts_total", ("reason",), lambda: {"crashed": 2})
    metrics.config_loaded("abc123")
    return metrics


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("postern_http_requests_total", {"service": "lms", "route": "read", "method": "GET", "code": "200"}, 1),
        ("postern_denied_total", {"route": "read", "policy": "acl", "reason": "acl"}, 1),
        ("postern_credential_cache_total", {"result": "hit"}, 3),
        ("postern_cache_total", {"route": "read", "result": "hit"}, 7),
        ("postern_bcrypt_queue", {}, 2),
        ("postern_connections", {"side": "downstream", "state": "active"}, 1),
        ("postern_connections", {"side": "downstream", "state": "idle"}, 4),
        ("postern_connections", {"side": "upstream", "state": "idle"}, 5),
        ("postern_upstream_target_healthy", {"service": "lms", "target": "http://127.0.0.1:9000"}, 1),
        ("postern_store_up", {}, 1),
        ("postern_counters_up", {}, 0),
        ("postern_revocation_lag_seconds", {}, 0.25),
        ("postern_config_last_reload_success", {}, 1),
        ("postern_config_hash_info", {"hash": "abc123"}, 1),
        ("postern_workers", {}, 4),
        ("postern_worker_restarts_total", {"reason": "crashed"}, 2),
        ("postern_request_duration_seconds_count", {"service": "lms", "route": "read"}, 1),
        ("postern_request_duration_seconds_sum", {"service": "lms", "route": "read"}, 0.002),
        ("postern_upstream_duration_seconds_count", {"service": "lms", "route": "read"}, 1),
    ],
)
def test_every_family_is_read_back(name: str, labels: dict[str, str], expected: float) -> None:
    assert value(busy(), name, **labels) == expected


@pytest.mark.parametrize(("accept", "parse"), [("", parse_text), (OPENMETRICS, parse_openmetrics)])
def test_both_formats_hold_the_same_families_with_the_declared_types(
    accept: str, parse: Callable[[str], list[Metric]]
) -> None:
    metrics = busy()
    body, _ = render(metrics.read(), accept)
    found = {family.name: family for family in parse(body.decode())}
    for family in FAMILIES:
        # The text format knows no info; the parsers name counters and infos without their suffix.
        kind = "gauge" if family.kind is Kind.INFO and not accept else str(family.kind)
        name = family.name.removesuffix("_total")
        name = name.removesuffix("_info") if accept else name
        assert found[name].type == kind
        assert found[name].documentation == family.help
        assert found[name].samples
    assert "process_cpu_seconds" in found
    assert any(name.startswith("python") for name in found)


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5", True),
        ("application/openmetrics-text;q=0.3,text/plain;q=0.9", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;version=junk", True),
        ("application/openmetrics-text;q=junk", False),
        (
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=1.0.0;q=0.4,*/*",
            True,
        ),
    ],
)
def test_the_format_follows_accept(accept: str, openmetrics: bool) -> None:
    metrics = Metrics()
    body, content_type = render(metrics.read(), accept)
    assert content_type.startswith("application/openmetrics-text" if openmetrics else "text/plain; version=0.0.4")
    assert body.endswith(b"# EOF\n") is openmetrics


@given(st.lists(st.floats(min_value=0, max_value=120)))
def test_buckets_count_what_took_no_longer_than_their_bound(durations: list[float]) -> None:
    metrics = Metrics()
    stats = metrics.route("lms", "read")
    for seconds in durations:
        stats.observe("GET", 200, seconds, None)
    found = {
        float(dict(labels)["le"]): count
        for (name, labels), count in samples(metrics).items()
        if name == "postern_request_duration_seconds_bucket"
    }
    bounds = (*BOUNDS, float("inf")) if durations else ()
    assert found == {bound: sum(seconds <= bound for seconds in durations) for bound in bounds}


@pytest.mark.parametrize(
    ("method", "label"), [("GET", "GET"), ("DELETE", "DELETE"), ("PROPFIND", "other"), ("get", "other"), ("", "other")]
)
def test_methods_are_a_fixed_set(method: str, label: str) -> None:
    metrics = Metrics()
    for _ in range(2):
        metrics.route("", "").observe(method, 404, 0.001, None)
    assert value(metrics, "postern_http_requests_total", service="", route="", method=label, code="404") == 2


def test_the_upstreams_time_is_that_of_requests_which_reached_it() -> None:
    metrics = Metrics()
    stats = metrics.route("lms", "read")
    stats.observe("GET", 200, 0.5, 0.25)
    stats.observe("GET", 403, 0.001, None)
    names = {"service": "lms", "route": "read"}
    assert value(metrics, "postern_upstream_duration_seconds_count", **names) == 1
    assert value(metrics, "postern_upstream_duration_seconds_sum", **names) == 0.25
    assert value(metrics, "postern_request_duration_seconds_count", **names) == 2


def test_a_route_keeps_its_counts_over_a_reload() -> None:
    metrics = Metrics()
    assert metrics.route("lms", "read") is metrics.route("lms", "read")
    assert metrics.route("lms", "read") is not metrics.route("lms", "write")


def test_a_route_that_was_never_asked_for_is_not_shown() -> None:
    metrics = Metrics()
    metrics.route("lms", "read")
    assert not [key for key in samples(metrics) if "read" in dict(key[1]).values()]


def test_refusals_of_routes_that_share_a_name_add_up() -> None:
    metrics = Metrics()
    metrics.route("one", "read").denied("acl", "acl")
    metrics.route("two", "read").denied("acl", "acl")
    assert value(metrics, "postern_denied_total", route="read", policy="acl", reason="acl") == 2


def test_a_refused_configuration_leaves_the_hash_of_the_one_in_force() -> None:
    metrics = Metrics()
    metrics.config_loaded("one")
    metrics.config_loaded("two")
    metrics.config_refused()
    hashes = [dict(labels)["hash"] for name, labels in samples(metrics) if name == "postern_config_hash_info"]
    assert hashes == ["two"]
    assert value(metrics, "postern_config_last_reload_success") == 0


def test_a_new_source_replaces_the_old_one() -> None:
    metrics = Metrics()
    metrics.gauge("postern_bcrypt_queue", (), lambda: 1)
    metrics.gauge("postern_bcrypt_queue", (), lambda: 7)
    assert value(metrics, "postern_bcrypt_queue") == 7


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("postern_nonsense", ()),
        ("postern_request_duration_seconds", ()),
        ("postern_store_up", ("too", "many")),
    ],
)
def test_what_is_not_in_the_table_cannot_be_exposed(name: str, labels: tuple[str, ...]) -> None:
    metrics = Metrics()
    with pytest.raises(ValueError, match=name):
        metrics.gauge(name, labels, lambda: 1)
    with pytest.raises(ValueError, match=name):
        metrics.set(name, 1, labels)


def test_a_source_that_leaves_a_label_out_is_found_out() -> None:
    metrics = Metrics()
    metrics.gauge("postern_connections", ("side", "state"), lambda: {"active": 1})
    with pytest.raises(ValueError, match="postern_connections has the labels"):
        render(metrics.read(), "")


def test_label_values_are_escaped() -> None:
    metrics = Metrics()
    name = 'a"b\\c\nd é'
    metrics.route("lms", name).denied("acl", "acl")
    assert value(metrics, "postern_denied_total", route=name, policy="acl", reason="acl") == 1


def test_a_reading_does_not_change_while_it_is_rendered() -> None:
    metrics = Metrics()
    stats = metrics.route("lms", "read")
    stats.observe("GET", 200, 0.002, 0.001)
    reading = metrics.read()
    before, _ = render(reading, "")
    stats.observe("GET", 200, 0.002, 0.001)
    after, _ = render(reading, "")
    ours = [[line for line in body.splitlines() if b"postern_" in line] for body in (before, after)]
    assert ours[0] == ours[1]


def test_the_document_tells_of_every_family() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `postern_")]
    table = [row for row in rows if "|" in row and row.count("|") == 5]
    assert table == [
        f"| `{family.name}` | {family.kind} | {', '.join(f'`{label}`' for label in family.labels)} | {family.help} |"
        for family in FAMILIES
    ]
    for family in scrape(Metrics()).values():
        if not family.name.startswith("postern_"):
            assert family.name in text
