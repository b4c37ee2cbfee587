"""`make fuzz`: a million inputs over all targets, each target in a process of its own, and a table of what was tried.

`python -m tests.fuzz [--runs N] [--engine atheris|random] [--seed N] [--output DIR] [TARGET …]`.  Exit status 1 when
an invariant broke, a process ended otherwise, or one grew; the input is left in `DIR/TARGET/crash-…`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

from tests.fuzz.targets import TARGETS_BY_NAME

ROOT = Path(__file__).resolve().parents[2]
#: What costs more gets fewer inputs: shares of the whole.
SHARES = {"request": 2.0, "response": 1.5, "forwarded-request": 1.5, "chunked": 2.0, "path": 2.0}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz every parser of Postern.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"all, or of: {', '.join(TARGETS_BY_NAME)}")
    parser.add_argument("--runs", type=int, default=1_000_000, help="inputs over all targets [1000000]")
    parser.add_argument(
        "--engine", choices=["atheris", "random"], help="what makes inputs [atheris where it is installed]"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the chances [1]")
    parser.add_argument("--output", type=Path, default=ROOT / ".hypothesis" / "fuzz", help="[.hypothesis/fuzz]")
    parser.add_argument("--once", type=Path, metavar="FILE", help="try one input, such as a crash that was left behind")
    given = parser.parse_args()
    names = given.targets or list(TARGETS_BY_NAME)
    unknown = [name for name in names if name not in TARGETS_BY_NAME]
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}")
    if given.once:
        for name in names:
            TARGETS_BY_NAME[name].run(given.once.read_bytes())
        return 0
    engine = given.engine or ("atheris" if importlib.util.find_spec("atheris") else "random")
    print(
        f"{given.runs:,} inputs by {engine}\n\n{'target':20} {'inputs':>9} {'seconds':>8} {'MiB':>6} {'grown':>6}",
        flush=True,
    )
    shares = [SHARES.get(name, 1.0) for name in names]
    failed, total = [], 0
    for name, share in zip(names, shares, strict=True):
        runs = round(given.runs * share / sum(shares))
        inputs, good = fuzz(name, runs, engine, given.output / name, given.seed)
        total += inputs
        if not good:
            failed.append(name)
    print(f"\n{total:,} inputs" + (f"; broken: {', '.join(failed)}" if failed else ", nothing broken"))
    return 1 if failed else 0


def fuzz(name: str, runs: int, engine: str, folder: Path, seed: int) -> tuple[int, bool]:
    """`(inputs tried, all well)` of one target."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "figures.json").unlink(missing_ok=True)
    log = folder / "log.txt"
    with log.open("wb") as output:
        arguments = [sys.executable, "-m", "tests.fuzz.one", name, str(runs), engine, str(folder), str(seed)]
        status = subprocess.run(arguments, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
    figures = folder / "figures.json"
    read = json.loads(figures.read_text("ascii")) if figures.exists() else {}
    inputs = int(read.get("inputs", 0))
    good = status == 0 and inputs >= runs
    mebibytes, grown = read.get("resident", 0) / 2**20, read.get("growth", 0) / 2**20
    print(f"{name:20} {inputs:9,} {read.get('seconds', 0):8.1f} {mebibytes:6.0f} {grown:6.1f}"
          + ("" if good else f"   BROKEN (status {status}): {log}"), flush=True)  # fmt: skip
    if not good:
        print("\n".join(log.read_text("utf-8", "replace").splitlines()[-25:]), flush=True)
    return inputs, good


if __name__ == "__main__":
    sys.exit(main())
