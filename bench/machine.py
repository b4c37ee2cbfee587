"""Where it ran: processor, cores, kernel, memory, load, versions."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_mib() -> int:
    return int(Path("/proc/meminfo").read_text().split()[1]) // 1024


def describe() -> dict[str, str | int | float]:
    """The machine in plain values, for the report."""
    wrk = shutil.which("wrk")
    said = subprocess.run([wrk, "-v"], capture_output=True, text=True, check=False) if wrk else None
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": _memory_mib(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "wrk": (said.stdout or said.stderr).split("\n")[0].split("[")[0].strip() if said else "absent",
        "load_before": round(os.getloadavg()[0], 2),
    }
