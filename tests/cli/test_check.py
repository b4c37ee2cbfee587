"""`postern check`: 0 for a good file, 1 for a failed test or, strictly, a lint, 2 for a file that does not load."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gateway.cli import check
from gateway.cli.main import main
from gateway.config.loader import Loaded
from gateway.config.services import RequestTest

GOOD = """\
services:
  - name: lms
    url: http://127.0.0.1:9000
    routes:
      - {name: ping, policies: {auth: none}}
"""
TESTS = "tests:\n  - {request: GET /a, expect: {status: 200}}\n  - {request: GET /b, expect: {status: 404}}\n"


@dataclass
class Result:
    """What the offline run says of one test."""

    test: RequestTest
    passed: bool
    got_status: int = 200
    got_route: str | None = "ping"
    message: str = "expected 404, got 200"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the offline run: a test passes that expects 200."""

    def run_tests(loaded: Loaded) -> list[Result]:
        return [Result(test, test.expect.status == 200) for test in loaded.config.tests]

    module = ModuleType("gateway.analysis.offline")
    module.run_tests = run_tests  # type: ignore[attr-defined]  # a module made by hand
    monkeypatch.setitem(sys.modules, "gateway.analysis.offline", module)


@pytest.mark.parametrize(
    ("text", "options", "status", "out", "err"),
    [
        (GOOD, [], 0, "is valid; 0 of 0 tests hold", ""),
        (GOOD + "lisen: {}\nversion: 3\n", [], 2, "", "6:1: lisen: unknown key (did you mean listen?)"),
        (GOOD + "version: 3\n", ["--strict"], 2, "", "version: must be 1"),
        (GOOD + TESTS, [], 1, "FAIL  GET /b as anonymous: expected 404, got 200", ""),
        (GOOD + TESTS, [], 1, "ok    GET /a as anonymous: 200 ping", ""),
        (GOOD + TESTS, [], 1, "is valid; 1 of 2 tests hold", ""),
        (GOOD + "      - {name: pong, policies: {auth: none}}\n", [], 0, "with 1 remark;", "can never match"),
        (GOOD + "      - {name: pong, policies: {auth: none}}\n", ["--strict"], 1, "", "can never match"),
        ("version: 1\n", [], 0, "with 1 remark;", "there is no route"),
    ],
)
def test_check(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    options: list[str],
    status: int,
    out: str,
    err: str,
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    assert main(["check", "--config", str(file), *options], commands=[check]) == status
    said = capsys.readouterr()
    assert out in said.out
    assert err in said.err
    assert "Traceback" not in said.err
    assert all(line.startswith(f"{file}:") for line in said.err.splitlines())


@pytest.mark.parametrize(
    ("form", "read"),
    [("json", json.loads), ("csv", lambda text: list(csv.DictReader(io.StringIO(text))))],
)
def test_the_tests_as_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str, read: Callable[[str], list[dict[str, Any]]]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(GOOD + TESTS)
    assert main(["check", "--config", str(file), "--output", form], commands=[check]) == 1
    rows = read(capsys.readouterr().out)
    assert [list(row) for row in rows] == [["request", "as", "passed", "status", "route", "message"]] * 2
    assert [(row["request"], row["as"], str(row["status"])) for row in rows] == [
        ("GET /a", "anonymous", "200"),
        ("GET /b", "anonymous", "200"),
    ]
    assert [row["passed"] for row in rows] == ([True, False] if form == "json" else ["yes", "no"])


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--config", str(tmp_path / "none.yaml")], commands=[check]) == 2
    assert "none.yaml: cannot be read: No such file or directory" in capsys.readouterr().err
