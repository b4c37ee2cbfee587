"""Starting programs on a core, and what `/proc` says of them: CPU time, memory and descriptors of a process tree.

Law: CPU is read from the kernel's own account (`utime` + `stime` of every process and its threads, dead
threads included), never sampled.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class BenchError(Exception):
    """The run broke: a program did not start, or answered wrongly."""


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU time in seconds."""

    user: float
    system: float

    def __sub__(self, other: Cpu) -> Cpu:
        return Cpu(self.user - other.user, self.system - other.system)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody holds now."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port: int = opened.getsockname()[1]
        return port


def tree(root: int) -> list[int]:
    """A process and all its descendants that live now."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            # A process may end while we look.
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], [root]
    while waiting:
        process = waiting.pop()
        found.append(process)
        waiting += children.get(process, [])
    return found


def cpu_of(processes: Sequence[int]) -> Cpu:
    """The CPU time that these processes have taken since they began, in seconds."""
    user = system = 0
    for process in processes:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            user += int(fields[11])
            system += int(fields[12])
    return Cpu(user / _TICK, system / _TICK)


def memory_of(processes: Sequence[int]) -> int:
    """The resident memory of these processes, in bytes."""
    pages = 0
    for process in processes:
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * _PAGE


def descriptors_of(processes: Sequence[int]) -> int:
    """How many file descriptors these processes hold."""
    found = 0
    for process in processes:
        with contextlib.suppress(OSError):
            found += sum(1 for _ in Path(f"/proc/{process}/fd").iterdir())
    return found


def raise_descriptors() -> int:
    """Allow ourselves, and what we start, as many file descriptors as the system lets us; returns how many."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def pinned(arguments: Sequence[str], core: int | None) -> list[str]:
    """A command line that keeps to one core, where `taskset` is there and the machine has a core to give."""
    if core is None or shutil.which("taskset") is None:
        return list(arguments)
    return ["taskset", "-c", str(core), *arguments]


@dataclass
class Program:
    """A running program with its output file."""

    process: subprocess.Popen[bytes]
    output: Path

    @classmethod
    def start(
        cls, arguments: Sequence[str], *, core: int | None, folder: Path, output: Path, environment: Mapping[str, str]
    ) -> Program:
        """Start a program on a core, in a session of its own, its output appended to a file."""
        with output.open("ab") as sink:
            process = subprocess.Popen(
                pinned(arguments, core),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=(output.parent / f"{output.name}.err").open("ab"),
                env={**os.environ, **environment},
                start_new_session=True,
            )
        return cls(process, output)

    def wait_for(self, port: int, seconds: float = 30) -> float:
        """Wait until it accepts connections on a port; returns after how many seconds.  Raises BenchError."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            if self.process.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
                return time.monotonic() - began
            time.sleep(0.02)
        raise BenchError(f"it does not serve its port; it said: {self.complaint()}")

    def complaint(self) -> str:
        """The end of what it printed."""
        said = ""
        for path in (self.output, self.output.parent / f"{self.output.name}.err"):
            if path.exists():
                said += path.read_text(errors="replace")[-1500:]
        return said.strip() or "nothing"

    @property
    def tree(self) -> list[int]:
        """The processes that it consists of now."""
        return tree(self.process.pid)

    def stop(self) -> None:
        """End it: SIGTERM, and SIGKILL to what remains of its session after five seconds."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
