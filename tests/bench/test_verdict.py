"""What the load tools conclude: checks, growth, tables, and the exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.verdict import EXIT_MISSED, Check, conclude, growth, number, table


@pytest.mark.parametrize(
    ("check", "met", "text"),
    [
        (Check("memory", 9.5, 10, " KiB"), True, "ok      memory: 9.5 KiB (at most 10 KiB)"),
        (Check("memory", 10.5, 10, " KiB"), False, "MISSED  memory: 10.5 KiB (at most 10 KiB)"),
        (Check("served", 0.85, 0.85, at_least=True), True, "ok      served: 0.85 (at least 0.85)"),
        (Check("served", 0.8, 0.85, at_least=True), False, "MISSED  served: 0.8 (at least 0.85)"),
        (Check("errors", None, 0), None, "unknown errors: not measured (at most 0)"),
    ],
)
def test_a_check_says_whether_it_holds(check: Check, met: bool | None, text: str) -> None:
    assert (check.met, str(check)) == (met, text)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (12345, "12,345"), (1234.5, "1,234"), (0.1234, "0.123"), (123.45, "123.5")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        ([], None),
        ([(0, 100), (5, 100)], None),
        # The warm-up's growth does not count; the windows' medians do, not their outliers.
        ([(0, 10), (10, 100), (11, 100), (12, 900), (20, 100), (30, 105), (38, 105), (39, 900), (40, 105)], 0.05),
        ([(at, 100 + at) for at in range(101)], 0.707),
        ([(at, 100) for at in range(101)], 0),
        ([(at, 0) for at in range(101)], None),
    ],
)
def test_growth_compares_the_first_steady_window_with_the_last(
    series: list[tuple[float, float]], expected: float | None
) -> None:
    found = growth(series, warm_up=10, window=10)
    assert found == (None if expected is None else pytest.approx(expected, abs=0.001))


def test_a_table_lines_up() -> None:
    assert table(["shape", "a second"], [["kept", 12345.6], ["fresh", 1]]).splitlines() == [
        "shape  a second",
        " kept    12,346",
        "fresh         1",
    ]


@pytest.mark.parametrize(("measured", "status"), [(1.0, 0), (None, 0), (2.0, EXIT_MISSED)])
def test_the_conclusion_is_the_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], measured: float | None, status: int
) -> None:
    output = tmp_path / "results" / "idle.json"
    assert conclude([Check("a", measured, 1)], output, {"clients": 3}) == status
    told = json.loads(output.read_text())
    assert (told["clients"], told["checks"][0]["measured"]) == (3, measured)
    assert "a: " in capsys.readouterr().out
