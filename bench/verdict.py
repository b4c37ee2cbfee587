"""What the load tools conclude: checks with a goal, the arithmetic of series, and how both are printed.  Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

#: Exit statuses, as those of the gateway's commands: a check failed; it could not run.
EXIT_MISSED, EXIT_BROKE = 1, 3


@dataclass(frozen=True, slots=True)
class Check:
    """One promise: what was measured must be at most (or at least) the limit; None was not measured."""

    text: str
    measured: float | None
    limit: float
    unit: str = ""
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        """Whether it holds."""
        if self.measured is None:
            return None
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    def __str__(self) -> str:
        word = {True: "ok     ", False: "MISSED ", None: "unknown"}[self.met]
        measured = "not measured" if self.measured is None else f"{number(self.measured)}{self.unit}"
        bound = "at least" if self.at_least else "at most"
        return f"{word} {self.text}: {measured} ({bound} {number(self.limit)}{self.unit})"


def number(value: float) -> str:
    """A figure as people read it: no more than three digits after the first, thousands separated."""
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.3g}" if abs(value) < 100 else f"{value:,.1f}"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns of equal width, numbers to the right."""
    texts = [[one if isinstance(one, str) else number(float(str(one))) for one in row] for row in rows]
    widths = [max(len(row[at]) for row in [list(header), *texts]) for at in range(len(header))]
    lines = ["  ".join(name.rjust(width) for name, width in zip(header, widths, strict=True))]
    lines += ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in texts]
    return "\n".join(lines)


def growth(series: Sequence[tuple[float, float]], warm_up: float, window: float) -> float | None:
    """By what share the median of the last `window` seconds exceeds that of the first one after `warm_up`.

    `series` are `(seconds, value)` in order; None where the two windows would overlap or one is empty.
    """
    if not series:
        return None
    begin, end = series[0][0] + warm_up, series[-1][0]
    if end - begin < 2 * window:
        return None
    first = [value for at, value in series if begin <= at < begin + window]
    last = [value for at, value in series if at > end - window]
    if not first or not last or not median(first):
        return None
    return median(last) / median(first) - 1


def conclude(checks: Sequence[Check], output: Path | None, facts: Mapping[str, Any]) -> int:
    """Print the checks, write everything as JSON where asked to; returns the exit status."""
    print()
    for check in checks:
        print(check)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        told = {**facts, "checks": [{**asdict(check), "met": check.met} for check in checks]}
        output.write_text(json.dumps(told, indent=2) + "\n")
        print(f"written to {output}")
    return EXIT_MISSED if any(check.met is False for check in checks) else 0
