"""Documentation under test: every command and every policy is where a reader looks for it, and links lead somewhere.

(`docs/CONFIGURATION.md` and `docs/METRICS.md` have tests of their own, beside what they document.)
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from gateway import __version__
from gateway.cli.main import build
from gateway.core import answers
from gateway.registry import policies

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
COMMANDS = sorted(typer.main.get_command(build()).commands)  # type: ignore[attr-defined]  # it is a group
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_ANSWER = re.compile(r"^\| (\d{3}) \| `([^`]+)` \| `(\w+)` \|", re.MULTILINE)
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_readme(command: str) -> None:
    assert re.search(rf"\bpostern {command}\b", README), f"README.md does not mention `postern {command}`"


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_explains_itself(command: str) -> None:
    arguments = [sys.executable, "-m", "gateway", *filter(None, [command]), "--help"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: postern" in done.stdout
    assert len(done.stdout.splitlines()) > 4


@pytest.mark.parametrize("target", ["run", "test", "check", "bench"])
def test_what_make_does_for_a_developer_is_in_the_readme(target: str) -> None:
    assert f"make {target}" in README


@pytest.mark.parametrize("name", sorted(policies()))
def test_every_policy_is_documented(name: str) -> None:
    page = (ROOT / "docs" / "CONFIGURATION.md").read_text("utf-8")
    assert re.search(rf"^#+ .*`{re.escape(name)}`", page, re.MULTILINE), f"run make docs: no heading for {name}"
    policy = policies()[name]
    assert policy.__doc__, f"{name} has no docstring, which is its documentation"


def test_every_answer_of_our_own_is_documented() -> None:
    page = (ROOT / "docs" / "ANSWERS.md").read_text("utf-8")
    rows = [(int(status), text, reason) for status, text, reason in _ANSWER.findall(page)]
    ours = [answer for answer in vars(answers).values() if isinstance(answer, answers.Answer)]
    assert sorted(rows) == sorted((answer.status, answer.text, answer.reason) for answer in ours)
    assert [status for status, _, _ in rows] == sorted(status for status, _, _ in rows)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(page.read_text("utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{page.name} links to {link}, which has no such heading"


def anchors(page: Path) -> set[str]:
    """The anchors that the usual renderers make of a page's headings."""
    headings = _HEADING.findall(page.read_text("utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_the_changelog_knows_what_is_unreleased() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    sections = re.findall(r"^## \[([^\]]+)\]", text, re.MULTILINE)
    assert sections[0] == "Unreleased"
    assert len(sections) == 1 or __version__ in sections[1:]
