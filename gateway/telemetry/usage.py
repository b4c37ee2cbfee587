"""What a process takes of the machine: CPU, memory, descriptors, as the kernel tells it.

The client library reads the same of the process that it runs in; this is for those processes of a node that it cannot
see, and light enough for a worker to ask once a second.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Final, NamedTuple

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS: Final = os.sysconf("SC_CLK_TCK")
#: Where user and system time stand in `/proc/PID/stat`, counted from behind the name (proc_pid_stat(5): 14 and 15).
_USER, _SYSTEM = 11, 12


class Usage(NamedTuple):
    """`cpu` in seconds, user and system, since the process began; `resident` and `virtual` memory in bytes; open file
    `descriptors`.  What the system does not tell is 0."""

    cpu: float = 0.0
    resident: int = 0
    virtual: int = 0
    descriptors: int = 0


def own_usage() -> Usage:
    """This process's."""
    times = resource.getrusage(resource.RUSAGE_SELF)
    return Usage(times.ru_utime + times.ru_stime, *_memory("self"), _descriptors("self"))


def usage_of(pid: int) -> Usage | None:
    """Another process's, of the same user; None where it cannot be seen (it is gone, there is no /proc)."""
    try:
        # The name, in parentheses, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        cpu = (int(fields[_USER]) + int(fields[_SYSTEM])) / _TICKS
    except (OSError, ValueError, IndexError):
        return None
    return Usage(cpu, *_memory(str(pid)), _descriptors(str(pid)))


def _memory(process: str) -> tuple[int, int]:
    """`(resident, virtual)` in bytes."""
    try:
        size, resident = Path(f"/proc/{process}/statm").read_bytes().split()[:2]
    except (OSError, ValueError):
        return 0, 0
    return int(resident) * _PAGE, int(size) * _PAGE


def _descriptors(process: str) -> int:
    folder = Path(f"/proc/{process}/fd")
    try:
        # From Linux 6.2 on the folder's size is their number; to list thousands takes milliseconds.
        return folder.stat().st_size or sum(1 for _ in folder.iterdir())
    except OSError:
        return 0
