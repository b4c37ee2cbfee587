"""One target for a number of inputs, in a process of its own: `python -m tests.fuzz.one NAME RUNS ENGINE FOLDER`.

`atheris` is guided by coverage of the sources, which are read even where compiled modules lie beside them; `random`
edits seeds.  The input that broke an invariant is left in the folder as `crash-…`, the figures in `figures.json`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

#: How much the process may grow after the first fifth of its inputs, in bytes: memories are bounded, so it must end.
MAX_GROWTH = 48 << 20
_LOOK_EVERY = 1000


class Growth(AssertionError):
    """The process grows with the number of inputs."""


def resident() -> int:
    """The resident memory of this process in bytes."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Watch:
    """Counts inputs, looks at the memory now and then, and writes the figures down."""

    def __init__(self, run: Callable[[bytes], None], runs: int, folder: Path) -> None:
        self._run = run
        self._runs = runs
        self._folder = folder
        self._began = time.monotonic()
        self._base = 0
        self.inputs = 0

    def __call__(self, data: bytes) -> None:
        """Try one input.  Raises what the target raises, and `Growth`."""
        self._run(data)
        self.inputs += 1
        if self.inputs == self._runs // 5:
            self._base = resident()
        if self.inputs % _LOOK_EVERY == 0 or self.inputs == self._runs:
            self.look()

    def look(self) -> None:
        """Write the figures; raises `Growth`."""
        now = resident()
        figures = {
            "inputs": self.inputs,
            "seconds": round(time.monotonic() - self._began, 2),
            "resident": now,
            "growth": now - self._base if self._base else 0,
        }
        (self._folder / "figures.json").write_text(json.dumps(figures), "ascii")
        if self._base and now - self._base > MAX_GROWTH:
            raise Growth(f"{(now - self._base) >> 20} MiB more after {self.inputs} inputs")


def by_chance(name: str, runs: int, folder: Path, seed: int) -> None:
    """Random edits of the seeds; raises what the target raises, and leaves the input behind."""
    from tests.fuzz.mutate import mutated
    from tests.fuzz.targets import TARGETS_BY_NAME

    target = TARGETS_BY_NAME[name]
    watch = Watch(target.run, runs, folder)
    chance = random.Random(seed)
    for _ in range(runs):
        data = mutated(chance, target.seeds, target.words)
        try:
            watch(data)
        except BaseException:
            (folder / f"crash-{hashlib.sha1(data, usedforsecurity=False).hexdigest()}").write_bytes(data)
            raise


def by_coverage(name: str, runs: int, folder: Path, seed: int) -> None:
    """libFuzzer, by way of atheris; ends the process."""
    _read_sources()
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["gateway", "policies"]):
        from tests.fuzz.targets import TARGETS_BY_NAME
    target = TARGETS_BY_NAME[name]
    seeds = folder / "seeds"
    seeds.mkdir(exist_ok=True)
    for data in target.seeds:
        (seeds / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)
    words = folder / "words.txt"
    words.write_text("".join([f'"{_escaped(word)}"\n' for word in target.words]), "ascii")
    watch = Watch(target.run, runs, folder)
    flags = [f"-runs={runs}", f"-seed={seed}", "-max_len=4096", "-len_control=0", "-timeout=20", "-rss_limit_mb=1024"]
    flags += [f"-dict={words}"] if target.words else []
    atheris.Setup([sys.argv[0], *flags, f"-artifact_prefix={folder}/", str(seeds)], watch)
    atheris.Fuzz()


def _escaped(word: bytes) -> str:
    """A word as libFuzzer's dictionaries spell it."""
    return "".join([f"\\x{octet:02x}" for octet in word[:60]])


def _read_sources() -> None:
    """Import our packages from their sources: what mypyc compiled shows no coverage."""
    loader = (importlib.machinery.SourceFileLoader, importlib.machinery.SOURCE_SUFFIXES)
    hook = importlib.machinery.FileFinder.path_hook(loader)

    def ours(path: str) -> Any:
        if not any(Path(path).is_relative_to(ROOT / top) for top in ("gateway", "policies")):
            raise ImportError("not ours")
        return hook(path)

    sys.path_hooks.insert(0, ours)
    sys.path_importer_cache.clear()


def main() -> None:
    name, runs, engine, folder, seed = sys.argv[1:6]
    run = by_coverage if engine == "atheris" else by_chance
    run(name, int(runs), Path(folder), int(seed))


if __name__ == "__main__":
    main()
