"""`proxy/overload.py`: first come, first served; what has waited too long is shed; gates close and open again."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from gateway.proxy.overload import Overload


class Held:
    """Stands for a connection whose request waits."""

    def __init__(self, told: list[tuple[str, int]], number: int, work: float = 0.0) -> None:
        self.told = told
        self.number = number
        self.work = work

    def take_turn(self, now: int) -> None:
        time.sleep(self.work)
        self.told.append(("begun", self.number))

    def shed(self, now: int) -> None:
        self.told.append(("shed", self.number))


class Door:
    """A gate that says what happened to it."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def pause(self) -> None:
        self.said.append("paused")

    def resume(self) -> None:
        self.said.append("resumed")


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


async def test_first_come_first_served_and_the_loop_goes_on_in_between() -> None:
    overload, told = Overload(asyncio.get_running_loop(), 10_000_000_000), list[tuple[str, int]]()
    for number in range(50):
        overload.hold(Held(told, number, 0.001))
    turns = 0
    while len(told) < 50:
        await asyncio.sleep(0)
        turns += 1
    assert told == [("begun", number) for number in range(50)]
    assert turns >= 5  # what fits into a slice, not all at once


async def test_what_has_waited_too_long_is_shed() -> None:
    overload, told = Overload(asyncio.get_running_loop(), 20_000_000), list[tuple[str, int]]()
    for number in range(40):
        overload.hold(Held(told, number, 0.002))
    await until(lambda: len(told) == 40)
    kinds = [kind for kind, _ in told]
    assert [number for _, number in told] == list(range(40))
    assert kinds[0] == "begun"
    assert kinds == sorted(kinds)  # begun ones first, then all that were too late
    assert "shed" in kinds


class Broken(Held):
    """A defect of ours."""

    def take_turn(self, now: int) -> None:
        raise RuntimeError("a defect of ours")


async def test_one_that_breaks_holds_up_nobody() -> None:
    loop = asyncio.get_running_loop()
    faults: list[object] = []
    loop.set_exception_handler(lambda _, context: faults.append(context.get("exception")))
    overload, told = Overload(loop, 10_000_000_000), list[tuple[str, int]]()
    for held in (Broken(told, 0), Held(told, 1), Held(told, 2)):
        overload.hold(held)
    await until(lambda: told == [("begun", 1), ("begun", 2)])
    assert [type(fault) for fault in faults] == [RuntimeError]
    overload.hold(Held(told, 3))
    await until(lambda: len(told) == 3)


async def test_a_late_loop_crowds_and_recovers() -> None:
    loop = asyncio.get_running_loop()
    overload, door = Overload(loop, 100_000_000), Door()
    overload.gates.append(door)
    overload.start()
    try:
        await until(lambda: not overload.crowded)
        time.sleep(0.15)
        await until(lambda: overload.crowded)
        told = list[tuple[str, int]]()
        for number in range(120):
            overload.hold(Held(told, number, 0.001))
        await until(lambda: door.said == ["paused", "resumed"])
        await until(lambda: not overload.crowded)
        assert len(told) == 120
    finally:
        overload.stop()
