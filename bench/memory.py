"""What the kernel says of processes' memory: resident, proportional and unique.

Resident counts a page that several processes share in each of them; proportional divides it among them, so that the
sum over a tree is what the tree takes; unique is what would be free again if that process alone ended.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes."""

    resident: int = 0
    proportional: int = 0
    unique: int = 0

    def __add__(self, other: Memory) -> Memory:
        return Memory(
            self.resident + other.resident, self.proportional + other.proportional, self.unique + other.unique
        )


def parse(text: str) -> Memory:
    """Read `/proc/PID/smaps_rollup`, whose numbers are KiB; what is missing counts as 0."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        name, colon, rest = line.partition(":")
        words = rest.split()
        if colon and len(words) == 2 and words[0].isdigit() and words[1] == "kB":
            found[name] = int(words[0]) * 1024
    unique = found.get("Private_Clean", 0) + found.get("Private_Dirty", 0)
    return Memory(found.get("Rss", 0), found.get("Pss", 0), unique)


def memory(process: int) -> Memory:
    """A process's memory; nothing where it is gone, or is not ours."""
    with contextlib.suppress(OSError):
        return parse(Path(f"/proc/{process}/smaps_rollup").read_text())
    return Memory()


def total(processes: Iterable[int]) -> Memory:
    """The memory of several; of the three only the proportional one is what they take together."""
    return sum((memory(process) for process in processes), Memory())
