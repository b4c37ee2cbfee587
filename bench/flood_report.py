"""What a flood's tally says: each phase's rates and latencies, and how long it took to recover.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.flood import Phase, Tally
from bench.open_loop import percentile

#: The slices in which recovery is looked for, and how many good ones in a row are a recovery: a second.
WINDOW = 0.25
GOOD_IN_A_ROW = 4


def digest(tally: Tally, phases: Sequence[Phase]) -> dict[str, Any]:
    """The phases in order, the faults, and how late the generator was; milliseconds and rates a second."""
    return {
        "phases": [_phase(tally, at, phase) for at, phase in enumerate(phases)],
        "recovery_s": recovery(tally, phases),
        "generator_late_p50_ms": percentile(tally.late, 50) / 1000,
        "generator_late_p99_ms": percentile(tally.late, 99) / 1000,
        "broken": dict(tally.broken),
        "unanswered": tally.unanswered,
        "reconnected": tally.reconnected,
        "malformed_503": tally.malformed,
        "samples": tally.samples,
    }


def _phase(tally: Tally, at: int, phase: Phase) -> dict[str, Any]:
    begin, end = tally.begins[at], tally.begins[at + 1]
    served: list[int] = []
    accepted: list[int] = []
    refused: list[int] = []
    others: dict[str, int] = {}
    in_time = 0
    for due, latency, since, status in zip(tally.due, tally.latency, tally.accepted, tally.status, strict=True):
        # What is served in a phase may have been due in the one before.
        if status == 200 and begin <= due + latency < end:
            in_time += 1
        if begin <= due < end:
            if status == 200:
                served.append(latency)
                accepted.append(since)
            elif status == 503:
                refused.append(latency)
            else:
                others[str(status)] = others.get(str(status), 0) + 1
    held = sum(1 for due in tally.held if begin <= due < end)
    return {
        "rate": phase.rate,
        "seconds": phase.seconds,
        "served_a_second": in_time / phase.seconds,
        "refused_a_second": len(refused) / phase.seconds,
        "held_back_a_second": held / phase.seconds,
        "served_p50_ms": percentile(served, 50) / 1000,
        "served_p99_ms": percentile(served, 99) / 1000,
        "served_max_ms": percentile(served, 100) / 1000,
        "accepted_p99_ms": percentile(accepted, 99) / 1000,
        "refused_p50_ms": percentile(refused, 50) / 1000,
        "refused_p99_ms": percentile(refused, 99) / 1000,
        "others": others,
    }


def recovery(tally: Tally, phases: Sequence[Phase], factor: float = 2, slack_ms: float = 10) -> float | None:
    """Seconds of the last phase until a second long every request was served and p99 was normal again.

    Normal is at most `factor` times the first phase's p99, or `slack_ms` more than it.  None where it never was, or
    where there are not three phases (before, overload, after).
    """
    if len(phases) != 3:
        return None
    p99 = _phase(tally, 0, phases[0])["served_p99_ms"]
    normal = max(factor * p99, p99 + slack_ms) * 1e6
    begin, count = tally.begins[2], int(phases[2].seconds / WINDOW)
    windows: list[list[int]] = [[] for _ in range(count)]
    bad = [False] * count
    for due, latency, status in zip(tally.due, tally.latency, tally.status, strict=True):
        at = int((due - begin) / (WINDOW * 1e9)) if due >= begin else count
        if at < count:
            windows[at].append(latency)
            bad[at] = bad[at] or status != 200
    for due in tally.held:
        at = int((due - begin) / (WINDOW * 1e9)) if due >= begin else count
        if at < count:
            bad[at] = True
    good = [
        bool(window) and not bad[at] and percentile(window, 99) * 1000 <= normal for at, window in enumerate(windows)
    ]
    for at in range(count - GOOD_IN_A_ROW + 1):
        if all(good[at : at + GOOD_IN_A_ROW]):
            return at * WINDOW
    return None
