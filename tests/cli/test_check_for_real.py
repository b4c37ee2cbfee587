"""`postern check` as an operator runs it: a process, a file, an exit status; nothing made and nothing sent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
FILE = """\
services:
  - name: lms
    url: http://127.0.0.1:9
    routes:
      - {name: lessons, paths: [/lessons], policies: {auth: {any_of: [api-key]}, acl: {allow: [teachers]}}}
consumers:
  - {username: alice, groups: [teachers]}
  - {username: bob, groups: [GROUP]}
tests:
  - {request: GET /lessons, as: alice, expect: {status: 200, route: lessons}}
  - {request: GET /lessons, as: bob, expect: {status: STATUS}}
"""


def postern(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("group", "status", "options", "exit_status", "out", "err"),
    [
        ("teachers", "200", ["--strict"], 0, "config.yaml is valid; 2 of 2 tests hold", ""),
        ("pupils", "403", [], 0, "with 1 remark; 2 of 2 tests hold", "no acl names the group pupils"),
        ("pupils", "403", ["--strict"], 1, "with 1 remark; 2 of 2 tests hold", "no acl names the group pupils"),
        (
            "teachers",
            "403",
            [],
            1,
            "FAIL  GET /lessons as bob: expected 403, got 200 from lessons\n",
            "",
        ),
        ("teachers", "200, rute: x", [], 2, "", "tests[1].expect.rute: unknown key (did you mean route?)"),
    ],
)
def test_check(
    tmp_path: Path, group: str, status: str, options: list[str], exit_status: int, out: str, err: str
) -> None:
    (tmp_path / "config.yaml").write_text(FILE.replace("GROUP", group).replace("STATUS", status))
    done = postern("check", *options, folder=tmp_path)
    assert done.returncode == exit_status, done.stderr
    assert out in done.stdout
    assert err in done.stderr
    assert "Traceback" not in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["config.yaml"]


def test_the_shipped_file() -> None:
    done = postern("check", "--strict", folder=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
