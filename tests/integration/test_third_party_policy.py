"""A policy from somebody else's package: the example of docs/POLICIES.md is built, installed, loaded and asked.

The page is the source: its fenced blocks with a `title` are the files.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from unittest.mock import Mock

import pytest

from gateway import pipeline, registry
from gateway.build import Ports, build
from gateway.config.loader import load_bytes
from gateway.core.answers import Answer
from gateway.core.decision import ALLOW, Deny
from gateway.core.errors import ConfigError
from gateway.core.policy import Phase, Policy
from tests.policies.helpers import make_context

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "POLICIES.md"
_BLOCK = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def files_of_the_page() -> dict[str, str]:
    return dict(_BLOCK.findall(PAGE.read_text("utf-8")))


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files in a folder of their own."""
    folder = tmp_path_factory.mktemp("postern-block")
    for name, text in files_of_the_page().items():
        (folder / name).write_text(text, "utf-8")
    return folder


@pytest.fixture(scope="module")
def installed(example: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example's package in it, as pip installs it; no network is used."""
    target = tmp_path_factory.mktemp("site-packages")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    command += ["--no-deps", "--no-build-isolation", "--target", str(target), str(example)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@pytest.fixture
def policies(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mapping[str, type[Policy]]]:
    """The registry of a gateway into whose environment the package was installed."""
    monkeypatch.syspath_prepend(str(installed))
    registry.policies.cache_clear()
    yield registry.policies()
    registry.policies.cache_clear()
    sys.modules.pop("postern_block", None)


def test_the_page_has_every_file() -> None:
    assert set(files_of_the_page()) == {"pyproject.toml", "postern_block.py", "test_block.py", "config.yaml"}


def test_it_is_registered_beside_ours(policies: Mapping[str, type[Policy]]) -> None:
    assert {"block", "acl", "auth", "cors"} <= set(policies)
    block = policies["block"]
    assert (block.__module__, block.name) == ("postern_block", "block")
    assert Phase.IP_RESTRICTION < block.phase < Phase.AUTH


@pytest.mark.usefixtures("policies")
@pytest.mark.parametrize(("client", "admitted"), [("127.0.0.1", True), ("10.0.0.1", False), ("8.8.8.8", False)])
def test_the_gateway_takes_it_and_asks_it(example: Path, client: str, admitted: bool) -> None:
    path = example / "config.yaml"
    snapshot = build(load_bytes(path.read_bytes(), path), Ports(Mock(), Mock(), Mock(), Mock()))
    match = snapshot.match("GET", "gateway.example.org", "/lessons", {})
    assert match is not None
    route = match[0]
    assert [policy.name for policy in route.policies] == ["block", "auth"]
    context = make_context(client=client)
    decision = pipeline.run(context, route)
    if admitted:
        assert decision is ALLOW
    else:
        assert isinstance(decision, Deny)
        assert decision.answer == Answer(403, "Your network is blocked", "blocked_network")
        assert context.decided_by == "block"


@pytest.mark.usefixtures("policies")
@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ("block: {privat: true}", r"config\.yaml:\d+:\d+: .*block\.privat.*private"),
        ("block: {private: maybe}", r"config\.yaml:\d+:\d+: .*block\.private"),
        ("blok: {}", r"config\.yaml:\d+:\d+: .*blok.*unknown policy.*block"),
    ],
)
def test_its_settings_are_as_strict_as_ours(example: Path, written: str, fault: str) -> None:
    path = example / "config.yaml"
    text = path.read_text("utf-8").replace("block: {private: true}", written)
    with pytest.raises(ConfigError, match=fault):
        load_bytes(text.encode(), path)


def test_without_the_package_the_name_means_nothing(example: Path) -> None:
    registry.policies.cache_clear()
    path = example / "config.yaml"
    with pytest.raises(ConfigError, match="unknown policy"):
        load_bytes(path.read_bytes(), path)


def test_the_pages_own_tests_pass(example: Path, installed: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), str(ROOT)])}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(example / "test_block.py")]
    done = subprocess.run(command, cwd=example, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout
