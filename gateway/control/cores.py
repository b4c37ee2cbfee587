"""How many processors this node may use, and which: what `workers: auto` and `worker_affinity: auto` mean."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

#: Where a container's share of the processors stands, in microseconds a period: `200000 100000` are two (cgroup v2).
QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")


def allowed() -> list[int]:
    """The numbers of the processors that this process may run on."""
    try:
        return sorted(os.sched_getaffinity(0))
    except AttributeError:
        # Not on Linux: there all may be used.
        return list(range(os.cpu_count() or 1))


def quota(file: Path = QUOTA) -> float | None:
    """How many processors' time the container is given, None where it may use what there is."""
    try:
        given, period = file.read_text("ascii").split()
        return None if given == "max" else int(given) / int(period)
    except (OSError, ValueError):
        return None


def count(workers: int | str, file: Path = QUOTA) -> int:
    """How many workers the setting `workers` means: that many; with `auto` one a processor that may be used, and no
    more than the container is given time for (half of one counts as one)."""
    if not isinstance(workers, str):
        return workers
    cores, given = len(allowed()), quota(file)
    return cores if given is None else max(1, min(cores, round(given + 0.01)))


def core_of(slot: int) -> int:
    """The processor that a slot's worker keeps to."""
    cores = allowed()
    return cores[slot % len(cores)]
