"""The gateway as a program: `postern run` in a process of its own, to be signalled, measured and ended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.integration.gateways import Client

ROOT = Path(__file__).resolve().parents[2]

#: How long a gateway may take to start or to end, in seconds.
PATIENCE = 30.0


class Program:
    """A running gateway."""

    def __init__(self, process: asyncio.subprocess.Process, config: Path, proxy: int, status: int) -> None:
        self.process = process
        self.config = config
        self.proxy = proxy
        self.status = status
        self.events: list[dict[str, object]] = []

    async def connect(self, *, limit: int = 1 << 16) -> Client:
        """A connection to the proxy."""
        return Client(*await asyncio.open_connection("127.0.0.1", self.proxy, limit=limit))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Its exit status."""
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()

    async def event(self, name: str, count: int = 1) -> dict[str, object]:
        """The `count`th event of this name, waited for."""
        async with asyncio.timeout(PATIENCE):
            while len(found := [event for event in self.events if event.get("event") == name]) < count:
                await asyncio.sleep(0.01)
        return found[count - 1]

    async def status_of(self, path: str) -> tuple[int, str]:
        """`(status, body)` of the status listener."""
        return await asyncio.to_thread(fetch, f"http://127.0.0.1:{self.status}{path}")

    async def workers(self) -> list[dict[str, Any]]:
        """What `/status` tells of the processes that serve."""
        _, text = await self.status_of("/status")
        found: list[dict[str, Any]] = json.loads(text)["workers"]
        return found

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a family's samples with these labels."""
        _, text = await self.status_of("/metrics")
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return sum(
            sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items()
        )

    def memory(self) -> int:
        """Its resident memory in bytes."""
        fields = Path(f"/proc/{self.process.pid}/statm").read_text("ascii").split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def fetch(url: str) -> tuple[int, str]:
    """One GET, whatever its status."""
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def launch(config: Path, access_log: str = "off", *, leader: bool = False) -> asyncio.subprocess.Process:
    """`postern run` with a configuration; its output is to be read.  A `leader` has a process group of its own."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "run", "--config", str(config), "--access-log", access_log,
        "--log-format", "json",
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        start_new_session=leader,
    )  # fmt: skip


@asynccontextmanager
async def running_program(
    folder: Path, text: str, access_log: str = "off", *, leader: bool = False
) -> AsyncIterator[Program]:
    """Run `text`, a configuration without `listen` and `store`, in a folder; ends the program in the end.

    A `leader` has a process group of its own.
    """
    config = folder / "config.yaml"
    config.write_text(settled(folder, text), "utf-8")
    process = await launch(config, access_log, leader=leader)
    program = Program(process, config, 0, 0)
    reading = asyncio.create_task(_read_events(process, program))
    try:
        ready = await program.event("ready")
        program.proxy = int(str(ready["proxy"]).rpartition(":")[2])
        program.status = int(str(ready["status"]).rpartition(":")[2])
        yield program
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await reading


def settled(folder: Path, text: str) -> str:
    """The configuration with free ports and a store of its own."""
    return f'{text}\nlisten: {{proxy: "127.0.0.1:0", status: "127.0.0.1:0"}}\nstore: "sqlite:///{folder}/data/postern.db"\n'


async def _read_events(process: asyncio.subprocess.Process, program: Program) -> None:
    assert process.stdout is not None
    async for line in process.stdout:
        try:
            program.events.append(json.loads(line))
        except ValueError:
            program.events.append({"event": "text", "text": line.decode("utf-8", "replace")})
