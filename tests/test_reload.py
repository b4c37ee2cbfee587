"""Reloading: what is read when, what is said about it, and that what was in force is let go of."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import structlog

from gateway import reload
from gateway.config.loader import Loaded, load
from gateway.core.errors import ConfigError
from gateway.reload import Reloader

BASE = 'listen: {proxy: "127.0.0.1:0"}\n'


class Part:
    """Something that was in force."""


@dataclass
class Bench:
    """A reloader over a file, what it told the metrics, and what was put in force."""

    file: Path
    told: list[str] = field(default_factory=list)
    swapped: list[str] = field(default_factory=list)
    replaced: list[object] = field(default_factory=list)
    collecting: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reloader = Reloader(self.file, load(self.file), self._compile, self._swap, self)

    def _compile(self, loaded: Loaded) -> object:
        self.collecting.append(gc.isenabled())
        return loaded.hash

    async def _swap(self, loaded: Loaded, compiled: object) -> list[object]:
        assert compiled == loaded.hash
        self.swapped.append(loaded.hash)
        replaced, self.replaced = self.replaced, []
        return replaced

    def config_loaded(self, config_hash: str) -> None:
        self.told.append(config_hash)

    def config_refused(self) -> None:
        self.told.append("refused")

    async def swaps(self, count: int) -> None:
        """Wait until so many configurations have been put in force."""
        async with asyncio.timeout(30):
            while len(self.swapped) < count:
                await asyncio.sleep(0.01)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(reload, "_WATCH_INTERVAL", 0.02)
    monkeypatch.setattr(reload, "_STILL", 0.01)
    monkeypatch.setattr(reload, "_LAST_REQUESTS", 0.01)
    file = tmp_path / "config.yaml"
    file.write_text(BASE, "utf-8")
    yield Bench(file)
    gc.unfreeze()


@pytest.mark.parametrize(
    ("texts", "settings"),
    [
        ([BASE.replace(":0", ":1")], [["listen"]]),
        # Still another than the one that runs, however often it is read.
        ([BASE.replace(":0", ":1"), BASE.replace(":0", ":1") + "# said\n"], [["listen"], ["listen"]]),
        # What runs again needs no restart.
        ([BASE.replace(":0", ":1"), BASE], [["listen"], None]),
        ([BASE + "store: sqlite:///other.db\n"], [["store"]]),
        ([BASE + "secret_key: " + "s" * 32], [["secret_key"]]),
        ([BASE + "drain: {delay: 1s}\n"], [None]),
    ],
)
async def test_what_needs_a_restart_is_said(bench: Bench, texts: list[str], settings: list[list[str] | None]) -> None:
    said: list[list[str] | None] = []
    for text in texts:
        bench.file.write_text(text, "utf-8")
        with structlog.testing.capture_logs() as events:
            await bench.reloader.reload("test")
        said.append(next((event["settings"] for event in events if event["event"] == "config_needs_restart"), None))
    assert said == settings


async def test_a_refused_file_keeps_what_stands(bench: Bench) -> None:
    standing = bench.reloader.current
    bench.file.write_text("lisen: {}\n", "utf-8")
    with pytest.raises(ConfigError, match="did you mean listen"):
        await bench.reloader.reload("test")
    assert bench.reloader.current is standing
    assert (bench.told, bench.swapped) == (["refused"], [])


@pytest.mark.parametrize("pipe", ["config.yaml", "key"])
async def test_a_pipe_is_not_waited_for(bench: Bench, pipe: str) -> None:
    bench.file.write_text(BASE + "secret_key: ${file:key}\n", "utf-8")
    bench.file.with_name(pipe).unlink(missing_ok=True)
    os.mkfifo(bench.file.with_name(pipe))
    with pytest.raises(ConfigError, match="it is not a regular file"):
        await asyncio.wait_for(bench.reloader.reload("test"), 30)
    assert bench.told == ["refused"]


async def test_the_collector_rests_and_threads_take_turns_as_before(bench: Bench) -> None:
    interval = sys.getswitchinterval()
    await bench.reloader.reload("one")
    await bench.reloader.reload("two")
    bench.file.write_text("lisen: {}\n", "utf-8")
    await bench.reloader.try_reload("three")
    assert bench.collecting == [False, False]
    async with asyncio.timeout(30):
        while not gc.isenabled() or sys.getswitchinterval() != interval:
            await asyncio.sleep(0.01)
    await bench.reloader.stop()


async def test_who_asks_while_one_is_under_way_is_served_by_one_more(bench: Bench) -> None:
    calls = [asyncio.create_task(bench.reloader.reload("first"))]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    calls += [asyncio.create_task(bench.reloader.reload("more")) for _ in range(20)]
    await asyncio.gather(*calls)
    assert len(bench.swapped) == 2
    bench.file.write_text("lisen: {}\n", "utf-8")
    assert await asyncio.gather(*(bench.reloader.try_reload("refused") for _ in range(3))) == [False] * 3
    assert bench.told[2:] == ["refused"]


async def test_what_was_in_force_is_freed(bench: Bench) -> None:
    bench.replaced = [Part(), Part()]
    watched = [weakref.ref(part) for part in bench.replaced]
    await bench.reloader.reload("test")
    async with asyncio.timeout(30):
        while any(each() for each in watched):
            await asyncio.sleep(0.01)
    await bench.reloader.stop()


# ── the watch ────────────────────────────────────────────────────────────────────────────────────


async def test_a_file_that_a_signal_had_read_is_not_read_again(bench: Bench) -> None:
    bench.reloader.watch()
    await asyncio.sleep(0.05)
    bench.file.write_text(BASE + "drain: {delay: 1s}\n", "utf-8")
    await bench.reloader.reload("SIGHUP")
    await asyncio.sleep(0.2)
    assert len(bench.swapped) == 1
    await bench.reloader.stop()


@pytest.mark.parametrize("moment", ["before the watch", "since the reading"])
async def test_a_change_that_nobody_watched_is_seen(bench: Bench, moment: str) -> None:
    seen = reload.marks(bench.file)
    bench.file.write_text(BASE + "drain: {delay: 1s}\n", "utf-8")
    if moment == "since the reading":
        bench.reloader = Reloader(bench.file, bench.reloader.current, bench._compile, bench._swap, bench, seen)
    bench.reloader.watch()
    await bench.swaps(1)
    await bench.reloader.stop()


async def test_a_mounted_folder_that_is_swapped_as_a_link(bench: Bench, tmp_path: Path) -> None:
    """A mounted ConfigMap: `config.yaml` -> `..data/config.yaml`, and `..data` is renamed over."""

    def version(number: int) -> None:
        folder = tmp_path / f"..{number}"
        folder.mkdir()
        (folder / "config.yaml").write_text(f"{BASE}drain: {{delay: {number}s}}\n", "utf-8")
        (tmp_path / "..data_tmp").symlink_to(folder.name)
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")

    version(1)
    bench.file.unlink()
    bench.file.symlink_to("..data/config.yaml")
    bench.reloader.watch()
    await bench.swaps(1)
    version(2)
    await bench.swaps(2)
    assert bench.reloader.current.config.drain.delay == 2
    await bench.reloader.stop()


async def test_a_file_that_was_missing_is_waited_for(bench: Bench, tmp_path: Path) -> None:
    bench.reloader.watch()
    bench.file.write_text(BASE + "secret_key: ${file:key}\n", "utf-8")
    async with asyncio.timeout(30):
        while bench.told != ["refused"]:
            await asyncio.sleep(0.01)
    (tmp_path / "key").write_text("k" * 32, "utf-8")
    await bench.swaps(1)
    (tmp_path / "key").write_text("l" * 32, "utf-8")
    await bench.swaps(2)
    await asyncio.sleep(0.1)
    assert len(bench.swapped) == 2
    await bench.reloader.stop()
