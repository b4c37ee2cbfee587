"""The arithmetic of the benchmark: medians, ratios, targets, table and chart."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from bench.chart import chart
from bench.report import Report, Result, markdown, targets

BASE = Result(
    name="postern-policies",
    title="Postern + policies",
    work="everything <on>",
    version="1",
    cpu_us=30.0,
    cpu_us_least=29.0,
    cpu_us_most=31.0,
    user_us=20.0,
    system_us=10.0,
    busy=1.0,
    rate=30_000.0,
    p50_ms=1.0,
    p99_ms=2.0,
    idle_mib=80.0,
    loaded_mib=90.0,
    ready_seconds=0.5,
    rounds=3,
    half_rate=15_000.0,
    half_p50_ms=0.2,
    half_p99_ms=0.6,
)


def peer(name: str, cpu_us: float, half_p99_ms: float | None = None) -> Result:
    return replace(BASE, name=name, title=name, cpu_us=cpu_us, half_p99_ms=half_p99_ms)


@pytest.mark.parametrize(
    ("peers", "met"),
    [
        ([], {}),
        ([peer("envoy-policies", 60.0, 0.6)], {0: True, 4: True}),
        ([peer("envoy-policies", 45.0, 0.5)], {0: False, 4: False}),
        ([peer("nginx-lua", 24.0), peer("traefik-policies", 90.0)], {1: True, 2: True}),
        ([peer("nginx-lua", 23.0), peer("traefik-policies", 80.0)], {1: False, 2: False}),
        ([peer("postern-plain", 24.0), peer("envoy-plain", 40.0)], {3: True}),
        ([peer("postern-plain", 25.0), peer("envoy-plain", 40.0)], {3: False}),
        ([peer("postern-plain", 20.0), peer("postern-plain-2", 22.0)], {5: True}),
        ([peer("postern-plain", 20.0), peer("postern-plain-2", 22.5)], {5: False}),
        ([peer("postern-policies-2", 37.5), peer("postern-redis", 42.0)], {6: True, 7: True}),
        ([peer("postern-policies-2", 38.0), peer("postern-redis", 43.0)], {6: False, 7: False}),
    ],
)
def test_targets(peers: list[Result], met: dict[int, bool]) -> None:
    judged = {at: target.met for at, target in enumerate(targets([BASE, *peers])) if target.met is not None}
    assert judged == met


def test_nothing_is_promised_without_postern() -> None:
    assert {target.met for target in targets([peer("nginx-lua", 24.0)])} == {None}


def test_the_table_names_everybody_and_what_is_missing() -> None:
    report = Report({"cores": 2}, {"rounds": 3}, [BASE, peer("nginx-lua", 25.0)], {"envoy-plain": "not installed"})
    text = markdown(report)
    assert "| **Postern + policies** 1 | 30.0 (29.0–31.0) | 20.0 + 10.0 | 30,000 |" in text
    assert "*envoy-plain* is missing: not installed" in text
    assert "| CPU a request against nginx + Lua | 1.25 × | 1.20 × | met |" in text
    assert report.as_json()["targets"][1]["met"] is True


@pytest.mark.parametrize("results", [[], [BASE], [BASE, peer("nginx-lua", 300.0), peer("a<b", 0.0)]])
def test_the_chart_is_well_formed(results: list[Result]) -> None:
    root = ET.fromstring(chart(results))
    assert root.tag.endswith("svg")
    said = "".join(root.itertext())
    assert all(result.title in said for result in results)
