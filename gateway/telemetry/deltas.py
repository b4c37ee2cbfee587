"""One scrape of several processes: what a worker reports of its metrics, and how reports become the node's reading.

A worker's counts are never shown by the worker, so it gives them away: each report holds what was counted since the one
before.  The control process adds them up and keeps the sum whatever becomes of the worker.

Laws kept here: no counter falls; a count is added once, however often its report comes; what a dead worker held open
(its gauges) is gone with it.  Pure: time and what the system knows of a process are given.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Final, TypedDict

from gateway.telemetry.metrics import BUCKETS, BY_NAME, Family, Join, Kind, Labels, Metrics, Reading
from gateway.telemetry.states import PlainTarget, TargetStatus, from_plain, joined, plain
from gateway.telemetry.usage import Usage, own_usage

#: Seconds after which a report is whole, whether anything was counted or not.
WHOLE: Final = 1.0

#: Of how many workers that are gone it is remembered which of their reports have been counted.
_REMEMBERED: Final = 256

#: Gauges by family and label values, and counts likewise.
Values = dict[str, dict[Labels, float]]
#: Histograms by family and label values: counts, one a bucket, and the sum of the seconds.
Histograms = dict[str, dict[Labels, tuple[list[int], float]]]


class Report(TypedDict):
    """What a worker sends: plain data.  `gauges`, `targets` and `usage` are None where they are as they were."""

    #: Tells this process from every other, of the same number too.
    origin: int
    #: 1, 2, 3 …
    number: int
    counts: Values
    histograms: Histograms
    gauges: Values | None
    targets: list[PlainTarget] | None
    usage: tuple[float, int, int, int] | None


class Reporter:
    """The worker's side: asked four times a second, and whenever somebody looks."""

    def __init__(
        self,
        metrics: Metrics,
        targets: Callable[[], Sequence[TargetStatus]],
        usage: Callable[[], Usage] = own_usage,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`metrics` are this process's, and given away from now on; `clock` tells seconds."""
        self._metrics = metrics
        self._targets = targets
        self._usage = usage
        self._clock = clock
        self._origin = secrets.randbits(63)
        self._number = 0
        self._whole_at = 0.0
        #: The totals of pulled counters as they were last told.
        self._told: Values = {}

    def report(self, asked: bool = False) -> Report | None:
        """What to send now, None if there is nothing to tell.

        `asked`: somebody looks, so it is whole; else it is so once a second, and between that holds counts alone.
        """
        now = self._clock()
        whole = asked or now >= self._whole_at
        reading = self._metrics.take(gauges=whole)
        counts = {name: added for name in reading.values if (added := self._added(name, reading.values[name]))}
        histograms = {name: samples for name, samples in reading.histograms.items() if samples}
        if not (whole or counts or histograms):
            return None
        if whole:
            self._whole_at = now + WHOLE
        self._number += 1
        return {
            "origin": self._origin,
            "number": self._number,
            "counts": counts,
            "histograms": histograms,
            "gauges": {name: reading.values[name] for name in _gauges(reading)} if whole else None,
            "targets": [plain(target) for target in self._targets()] if whole else None,
            "usage": _plain_usage(self._usage()) if whole else None,
        }

    def _added(self, name: str, samples: dict[Labels, float]) -> dict[Labels, float]:
        """What a counter's samples add to what was told of them."""
        if BY_NAME[name].kind is not Kind.COUNTER:
            return {}
        if not self._metrics.pulls(name):
            return samples
        told = self._told.setdefault(name, {})
        added: dict[Labels, float] = {}
        for labels, total in samples.items():
            before = told.get(labels)
            if total != before:
                # A total that has fallen has begun again at zero.
                added[labels] = total if before is None or total < before else total - before
                told[labels] = total
        return added


class _Worker:
    """What is known of a living worker."""

    __slots__ = ("gauges", "number", "origin", "targets", "usage")

    def __init__(self, origin: int) -> None:
        self.origin = origin
        self.number = 0
        self.gauges: Values = {}
        self.targets: list[TargetStatus] = []
        self.usage = Usage()


class Accumulator:
    """The control process's side: the node's counts, over the life and death of its workers."""

    def __init__(self, metrics: Metrics) -> None:
        """`metrics` are the control process's own, which are added."""
        self._metrics = metrics
        self._counts: Values = {}
        self._histograms: Histograms = {}
        self._workers: dict[int, _Worker] = {}
        #: The workers that are gone, by origin: the last report that was counted, and the CPU seconds that it told.
        self._gone: dict[int, tuple[int, float]] = {}
        #: CPU seconds of all of them, living and dead, and of helpers.
        self._cpu = 0.0
        self._helpers: dict[int, Usage] = {}

    def absorb(self, worker: int, report: Report) -> None:
        """Take a worker's report; `worker` tells it from the others that live (its pid).

        One that has been taken already changes nothing.  Of one that comes after its worker's end the counts are taken.
        """
        origin, number = report["origin"], report["number"]
        gone = self._gone.get(origin)
        if gone is not None:
            if number > gone[0]:
                self._count(report)
                self._gone[origin] = number, self._spend(report, gone[1])
            return
        known = self._workers.get(worker)
        if known is not None and known.origin != origin:
            self.gone(worker)
            known = None
        if known is None:
            known = self._workers[worker] = _Worker(origin)
        if number <= known.number:
            return
        known.number = number
        self._count(report)
        if report["gauges"] is not None:
            known.gauges = report["gauges"]
        if report["targets"] is not None:
            known.targets = [from_plain(target) for target in report["targets"]]
        if report["usage"] is not None:
            spent = self._spend(report, known.usage.cpu)
            known.usage = Usage(*report["usage"])._replace(cpu=spent)

    def gone(self, worker: int) -> None:
        """A worker has ended: what it counted stays, all else of it goes."""
        known = self._workers.pop(worker, None)
        if known is None:
            return
        self._gone[known.origin] = known.number, known.usage.cpu
        if len(self._gone) > _REMEMBERED:
            del self._gone[next(iter(self._gone))]

    def helped(self, usages: dict[int, Usage]) -> None:
        """What the node's other processes use now, by their pids; those that are not named have ended."""
        for pid, usage in usages.items():
            before = self._helpers.get(pid)
            self._cpu += max(0.0, usage.cpu - (0.0 if before is None else before.cpu))
        self._helpers = dict(usages)

    def read(self) -> Reading:
        """The node's reading: the control process's own, and what the workers have reported."""
        reading = self._metrics.read()
        for name, samples in self._counts.items():
            _add(reading.values[name], samples)
        for name, histograms in self._histograms.items():
            _add_histograms(reading.histograms[name], histograms)
        for known in self._workers.values():
            for name, samples in known.gauges.items():
                _join(BY_NAME[name], reading.values[name], samples)
        others = [*(known.usage for known in self._workers.values()), *self._helpers.values()]
        reading.others = Usage(
            self._cpu,
            sum(usage.resident for usage in others),
            sum(usage.virtual for usage in others),
            sum(usage.descriptors for usage in others),
        )
        return reading

    def targets(self) -> list[TargetStatus]:
        """The targets of all services, as all living workers hold them to be."""
        return joined(known.targets for known in self._workers.values())

    def connections(self, worker: int) -> int:
        """How many clients a worker had when it last told."""
        known = self._workers.get(worker)
        samples = {} if known is None else known.gauges.get("postern_connections", {})
        return int(sum(number for (side, _state), number in samples.items() if side == "downstream"))

    def _count(self, report: Report) -> None:
        for name, samples in report["counts"].items():
            _add(self._counts.setdefault(name, {}), samples)
        for name, histograms in report["histograms"].items():
            _add_histograms(self._histograms.setdefault(name, {}), histograms)

    def _spend(self, report: Report, before: float) -> float:
        """Add the CPU seconds that a worker has used since it told `before`; returns what it tells now."""
        if report["usage"] is None:
            return before
        cpu = max(before, report["usage"][0])
        self._cpu += cpu - before
        return cpu


def _plain_usage(usage: Usage) -> tuple[float, int, int, int]:
    return usage.cpu, usage.resident, usage.virtual, usage.descriptors


def _gauges(reading: Reading) -> list[str]:
    return [
        name
        for name, samples in reading.values.items()
        if samples and BY_NAME[name].kind is not Kind.COUNTER and BY_NAME[name].join is not Join.CONTROL
    ]


def _add(into: dict[Labels, float], samples: dict[Labels, float]) -> None:
    for labels, value in samples.items():
        into[labels] = into.get(labels, 0) + value


def _add_histograms(
    into: dict[Labels, tuple[list[int], float]], samples: dict[Labels, tuple[list[int], float]]
) -> None:
    for labels, (counts, seconds) in samples.items():
        have, sum_ = into.get(labels, ([0] * BUCKETS, 0.0))
        into[labels] = [a + b for a, b in zip(have, counts, strict=True)], sum_ + seconds


def _join(family: Family, into: dict[Labels, float], samples: dict[Labels, float]) -> None:
    for labels, value in samples.items():
        have = into.get(labels)
        if have is None:
            into[labels] = value
        elif family.join is Join.SUM:
            into[labels] = have + value
        else:
            into[labels] = min(have, value) if family.join is Join.LEAST else max(have, value)
