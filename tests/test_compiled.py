"""The compiled build: what it was made from is known, and its list is the Makefile's."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from gateway.compiled import MANIFEST, stale, write_manifest

ROOT = Path(__file__).parent.parent


def compiled_sources() -> list[str]:
    return re.findall(r'^    "(.*\.py)",$', (ROOT / "setup.py").read_text(), re.MULTILINE)


def test_every_source_of_the_list_exists() -> None:
    sources = compiled_sources()
    assert "gateway/proxy/exchange.py" in sources
    assert sources == sorted(sources)
    assert [source for source in sources if not (ROOT / source).is_file()] == []


def make_tree(folder: Path) -> list[str]:
    sources = ["gateway/fast.py", "gateway/core/fast.py"]
    for source in sources:
        (folder / source).parent.mkdir(parents=True, exist_ok=True)
        (folder / source).write_text("x = 1\n")
        (folder / source).with_name("fast.cpython-311-x86_64-linux-gnu.so").write_bytes(b"")
    return sources


def test_a_changed_source_makes_its_compiled_module_stale(tmp_path: Path) -> None:
    sources = make_tree(tmp_path)
    assert stale(tmp_path) == []
    write_manifest(tmp_path, sources)
    assert stale(tmp_path) == []
    (tmp_path / sources[1]).write_text("x = 2\n")
    assert stale(tmp_path) == [sources[1]]


def test_what_is_not_compiled_is_never_stale(tmp_path: Path) -> None:
    sources = make_tree(tmp_path)
    write_manifest(tmp_path, sources)
    (tmp_path / sources[0]).write_text("x = 2\n")
    (tmp_path / "gateway/fast.cpython-311-x86_64-linux-gnu.so").unlink()
    assert stale(tmp_path) == []


def test_the_manifest_holds_digests_alone(tmp_path: Path) -> None:
    sources = make_tree(tmp_path)
    write_manifest(tmp_path, sources)
    made_from = json.loads((tmp_path / MANIFEST).read_text())
    assert list(made_from) == sources
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in made_from.values())


def test_the_version_says_which_build_runs() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "gateway", "version", "--output", "json"], capture_output=True, check=True, cwd=ROOT
    )
    assert json.loads(answer.stdout)["hot_path"] in ("compiled", "interpreted")
