"""A reading as Prometheus takes it: in its text format or in OpenMetrics (contract §8), by the client library.

The format is the library's, and so are the families of the process; several processes of a node are shown as one.
Pure but for what it reads of this process, and therefore right in any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from gateway.telemetry.metrics import BOUNDS, FAMILIES, Family, Kind, Reading
from gateway.telemetry.usage import Usage

_LE: Final = (*(f"{bound:g}" if bound < 1 else f"{bound:.1f}" for bound in BOUNDS), "+Inf")
_PROCESS: Final = ProcessCollector(registry=None)
_PLATFORM: Final = PlatformCollector(registry=None)

#: What the processes of a node use together, by the library's names; its limit and its start are the control process's.
_ADDED: Final[Mapping[str, Callable[[Usage], float]]] = {
    "process_cpu_seconds": lambda usage: usage.cpu,
    "process_resident_memory_bytes": lambda usage: usage.resident,
    "process_virtual_memory_bytes": lambda usage: usage.virtual,
    "process_open_fds": lambda usage: usage.descriptors,
}


def render(reading: Reading, accept: str) -> tuple[bytes, str]:
    """A reading as `(body, content type)`: OpenMetrics where the `Accept` value prefers it, else Prometheus text.

    May run in any thread.
    """
    exposition = _Exposition(reading)
    if _prefers_openmetrics(accept):
        body: bytes = openmetrics.generate_latest(exposition)  # type: ignore[no-untyped-call]  # library lacks types
        return body, openmetrics.CONTENT_TYPE_LATEST
    return generate_latest(exposition), CONTENT_TYPE_PLAIN_0_0_4


class _Exposition(Collector):
    """A reading, and what the library itself knows about the process, as the library's families."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def collect(self) -> Iterator[Metric]:
        for family in FAMILIES:
            yield _metric(family, self._reading)
        yield from _process(self._reading.others)
        yield from _PLATFORM.collect()


def _process(others: Usage | None) -> Iterator[Metric]:
    """This process as the library sees it, and what the node's others use added to that."""
    for metric in _PROCESS.collect():
        used = 0.0 if others is None else _ADDED[metric.name](others) if metric.name in _ADDED else 0.0
        metric.samples = [sample._replace(value=sample.value + used) for sample in metric.samples]
        yield metric


def _metric(family: Family, reading: Reading) -> Metric:
    if family.kind is Kind.HISTOGRAM:
        histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        for labels, (counts, seconds) in reading.histograms[family.name].items():
            histogram.add_metric(labels, list(zip(_LE, _summed(counts), strict=True)), seconds)
        return histogram
    samples = reading.values[family.name]
    if family.kind is Kind.INFO:
        info = InfoMetricFamily(family.name.removesuffix("_info"), family.help)
        for labels in samples:
            info.add_metric((), dict(zip(family.labels, labels, strict=True)))
        return info
    library = CounterMetricFamily if family.kind is Kind.COUNTER else GaugeMetricFamily
    metric = library(family.name, family.help, labels=family.labels)
    for labels, value in samples.items():
        if len(labels) != len(family.labels):
            raise ValueError(f"{family.name} has the labels {family.labels!r}, not {labels!r}")
        metric.add_metric(labels, value)
    return metric


def _summed(counts: Sequence[int]) -> Iterator[float]:
    total = 0
    for count in counts:
        total += count
        yield total


def _prefers_openmetrics(accept: str) -> bool:
    """Whether an `Accept` value weighs OpenMetrics at least as much as text (RFC 9110 §12.5.1)."""
    best = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for member in accept.split(",")[:64]:
        media, *parameters = (part.strip().lower() for part in member.split(";"))
        if media in best:
            best[media] = max(best[media], _weight(parameters))
    weight = best["application/openmetrics-text"]
    return weight > 0 and weight >= best["text/plain"]


def _weight(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
