"""`--profile`: a flame graph of Postern under load by py-spy, where it is installed."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

from bench.measure import Cores, Running, warm_up

_SECONDS = 8


def record(running: Running, tokens: Path, folder: Path, cores: Cores) -> str:
    """Load the contestant while py-spy watches; returns a line that says what came of it."""
    spy = shutil.which("py-spy", path=sysconfig.get_path("scripts")) or shutil.which("py-spy")
    if spy is None:
        return "no profile: py-spy is not installed"
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / f"{running.contestant.name}.profile.svg"
    # Threads that wait count as running to py-spy, so only those that hold the interpreter are asked.
    arguments = [spy, "record", "--gil", "--subprocesses", "-r", "500", "-d", str(_SECONDS), "-o", str(output)]
    watching = subprocess.Popen(
        [*arguments, "--pid", str(running.program.process.pid)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    warm_up(running, tokens, _SECONDS + 1, cores)
    _, complaint = watching.communicate(timeout=60)
    return f"profile of {running.contestant.name}: {output}" if watching.returncode == 0 else complaint[-500:]
