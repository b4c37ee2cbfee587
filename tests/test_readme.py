"""What README.md and docs/ARCHITECTURE.md claim: the excerpt loads and holds, and every file that they name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.analysis.lint import lint
from gateway.analysis.offline import run_tests
from gateway.config.loader import load_bytes

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [ROOT / "README.md", ROOT / "docs" / "ARCHITECTURE.md"]
_FILE = re.compile(r"`((?:gateway|policies|upstream_stub|tests|bench|docs)/[\w/.\-]*)`")


def test_the_excerpt_is_a_configuration_whose_tests_hold() -> None:
    (excerpt,) = re.findall(r"^```yaml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    loaded = load_bytes(excerpt.encode(), Path("config.yaml"), environ={})
    results = run_tests(loaded)
    assert len(results) == 3
    assert [result.message for result in results if not result.passed] == []
    assert (lint(loaded), loaded.warnings) == ([], ())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_named_exists(page: Path) -> None:
    named = set(_FILE.findall(page.read_text("utf-8")))
    assert len(named) > 5
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


def test_the_benchmark_has_its_place() -> None:
    assert README.index("<!-- bench -->") < README.index("<!-- /bench -->")
