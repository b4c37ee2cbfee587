"""The supervisor over workers that are no processes: who serves by what, who is waited for, and who is ended."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

import pytest

from gateway.control import slots
from gateway.control.messages import (
    Ack,
    Commit,
    Committed,
    Configure,
    Drain,
    Dropped,
    Failed,
    Feed,
    Forget,
    Invalidate,
    Prepare,
    Prepared,
    Ready,
    Report,
    ReportNow,
    Serve,
)
from gateway.control.slots import Duty, ProtocolError
from gateway.control.supervisor import Supervisor
from gateway.core.errors import ConfigError, PosternError, StartError
from gateway.core.ports import Redeclared
from tests.control.fakes import PATIENCE, World, eventually, package, supervised

NOTHING = Redeclared()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is waited for for long, is waited for shortly."""
    for duty, seconds in ((Duty.COMMIT, 0.3), (Duty.PREPARE, 0.3), (Duty.SPEAK, 0.5), (Duty.START, 0.5)):
        monkeypatch.setitem(slots.LIMITS, duty, seconds)


async def reload(supervisor: Supervisor, name: str) -> None:
    await supervisor.prepare(package(name))
    await supervisor.commit(NOTHING)


# ── starting ────────────────────────────────────────────────────────────────────────────────────


async def test_every_slot_serves_and_has_its_own() -> None:
    async with supervised(3) as (supervisor, world):
        assert [(member.slot, member.life.hash) for member in supervisor.serving()] == [(0, "a"), (1, "a"), (2, "a")]
        assert [worker.settings.slot for worker in world.workers] == [0, 1, 2]
        assert all({"link", "listen.0", "hub", "access"} == set(given) for given in world.spawned)
        assert len({given["listen.0"] for given in world.spawned}) == 3
        # What was made for a worker is not kept here.
        for given in world.spawned:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(given["hub"])


@pytest.mark.parametrize("config", [True, False])
async def test_a_start_that_cannot_be_is_given_up(config: bool) -> None:
    world = World(deaf={Configure})
    async with supervised(2, started=False, world=world) as (supervisor, _):
        starting = asyncio.create_task(supervisor.start())
        await eventually(lambda: len(world.workers) == 2)
        world.workers[0].say(Failed(("config.yaml:1:1: nothing is right", "nor left"), config))
        with pytest.raises(ConfigError if config else StartError, match="nothing is right\nnor left"):
            await starting


async def test_workers_that_end_as_they_start() -> None:
    async with supervised(1, started=False, world=World(barren=1000)) as (supervisor, _):
        with pytest.raises(StartError, match="they end as they start"):
            await supervisor.start()


async def test_a_spawn_that_fails_is_tried_again() -> None:
    async with supervised(2, world=World(barren=3)) as (supervisor, world):
        assert len(supervisor.serving()) == 2
        assert len(world.ended) == 3


# ── ends ────────────────────────────────────────────────────────────────────────────────────────


async def test_who_dies_is_replaced_and_inherits_the_sockets() -> None:
    async with supervised(2) as (supervisor, world):
        first = world.of(0)
        first.die()
        await eventually(lambda: world.of(0) is not first and world.of(0).serves)
        assert world.ended == [(0, "crashed")]
        assert world.spawned[2]["listen.0"] == world.spawned[0]["listen.0"]
        assert (supervisor.slots[0].restarts, supervisor.slots[1].restarts) == (1, 0)


async def test_who_says_nothing_is_replaced(short: None) -> None:
    async with supervised(2) as (_, world):
        silent, chatty = world.of(0), world.of(1)

        async def chat() -> None:
            while True:
                chatty.say(Report(0, {}))
                await asyncio.sleep(0.02)

        chatting = asyncio.create_task(chat())
        await eventually(lambda: world.of(0) is not silent and world.of(0).serves)
        assert world.ended[0] == (0, "silent")
        assert chatty.process.alive
        chatting.cancel()


@pytest.mark.parametrize("message", [Ready(1, "a"), Committed(1), "nonsense"], ids=repr)
async def test_what_a_worker_may_not_say_ends_it(message: object) -> None:
    async with supervised(1) as (_, world):
        worker = world.of(0)
        worker.say(message)
        await eventually(lambda: world.of(0) is not worker and world.of(0).serves)
        assert not worker.process.alive


async def test_a_lost_link_is_not_yet_the_end_of_a_process() -> None:
    """Without pidfds it is taken for it; with them the process is killed, and gone when it is dead."""
    async with supervised(1) as (supervisor, world):
        (member,) = supervisor.serving()
        worker = world.of(0)
        worker.channel.close()
        await eventually(lambda: world.of(0) is not worker and world.of(0).serves)
        assert member.life.state is slots.State.GONE


# ── revocations ─────────────────────────────────────────────────────────────────────────────────


async def test_confirm_waits_for_all() -> None:
    async with supervised(3) as (supervisor, world):
        supervisor.invalidate("key", "k1")
        supervisor.invalidate("consumer", "c1")
        await supervisor.confirm()
        for worker in world.workers:
            assert worker.told(Invalidate) == [Invalidate(1, (("key", "k1"), ("consumer", "c1")))]
        await supervisor.confirm()
        assert len(world.workers) == 3


async def test_both_of_two_wait_for_what_is_outstanding() -> None:
    async with supervised(2) as (supervisor, world):
        slow = world.of(0)
        slow.deaf.add(Invalidate)
        supervisor.invalidate("key", "k1")
        first = asyncio.create_task(supervisor.confirm())
        await eventually(lambda: bool(slow.told(Invalidate)))
        # Nothing new: but what another one told is still unanswered.
        second = asyncio.create_task(supervisor.confirm())
        await asyncio.sleep(0.01)
        assert not first.done()
        assert not second.done()
        slow.say(Ack(1))
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(first, second)
        assert slow.process.alive


async def test_who_does_not_acknowledge_is_dead_before_the_answer() -> None:
    async with supervised(2) as (supervisor, world):
        stopped = world.of(1)
        stopped.deaf.add(Invalidate)
        stopped.process.immortal = True
        supervisor.invalidate("key", "k1")
        confirming = asyncio.create_task(supervisor.confirm())
        await eventually(lambda: supervisor.slots[1].current is not None and supervisor.slots[1].current.doom != "")
        assert not confirming.done()
        stopped.process.immortal = False
        stopped.die()
        async with asyncio.timeout(PATIENCE):
            await confirming
        assert not stopped.process.alive
        assert (1, "silent") in world.ended


async def test_who_stood_still_himself_judges_nobody() -> None:
    """The acknowledgement has been lying here while this process did not run."""
    async with supervised(1) as (supervisor, world):
        worker = world.of(0)
        supervisor.invalidate("key", "k1")
        confirming = asyncio.create_task(supervisor.confirm())
        await eventually(lambda: bool(worker.told(Invalidate)))
        loop = asyncio.get_running_loop()
        until = loop.time() + 1.2
        while loop.time() < until:
            pass  # no turn of the loop
        async with asyncio.timeout(PATIENCE):
            await confirming
        assert worker.process.alive


async def test_who_does_not_serve_yet_owes_nothing() -> None:
    world = World()
    async with supervised(2, world=world) as (supervisor, _):
        world.deaf.add(Configure)
        world.of(0).die()
        await eventually(lambda: len(world.workers) == 3 and bool(world.of(0).told(Configure)))
        supervisor.invalidate("key", "k1")
        async with asyncio.timeout(PATIENCE):
            await supervisor.confirm()
        assert not world.of(0).told(Invalidate)


# ── reloads ─────────────────────────────────────────────────────────────────────────────────────


async def test_a_reload_is_prepared_by_all_then_committed_by_all() -> None:
    async with supervised(2) as (supervisor, world):
        await supervisor.prepare(package("b"))
        assert world.hashes == ["a", "a"]
        await supervisor.commit(Redeclared(frozenset({"u"}), frozenset({"o"}), everything=True))
        assert world.hashes == ["b", "b"]
        assert supervisor.hash == "b"
        assert [member.life.hash for member in supervisor.serving()] == ["b", "b"]
        for worker in world.workers:
            assert worker.told(Commit) == [Commit(1, frozenset({"u"}), frozenset({"o"}), True)]
        world.of(0).die()
        await eventually(lambda: world.hashes == ["b", "b"])


async def test_what_one_cannot_prepare_none_serves_by() -> None:
    async with supervised(3) as (supervisor, world):
        world.of(1).problems = ("config.yaml:3:1: no such file",)
        with pytest.raises(ConfigError, match="no such file"):
            await supervisor.prepare(package("b"))
        await eventually(lambda: all(worker.told(Forget) for worker in world.workers))
        assert world.hashes == ["a", "a", "a"]
        world.of(1).problems = ()
        await reload(supervisor, "c")
        assert world.hashes == ["c", "c", "c"]
        assert len(world.workers) == 3


async def test_a_late_word_of_a_reload_that_was_given_up_is_no_consent() -> None:
    async with supervised(2) as (supervisor, world):
        slow = world.of(0)
        slow.deaf.add(Prepare)
        world.of(1).problems = ("no",)
        with pytest.raises(ConfigError):
            await supervisor.prepare(package("b"))
        world.of(1).problems = ()
        preparing = asyncio.create_task(supervisor.prepare(package("c")))
        await eventually(lambda: len(slow.told(Prepare)) == 2)
        slow.say(Prepared(1))
        slow.say(Report(0, "after"))
        await eventually(lambda: (0, Report(0, "after")) in world.heard)
        assert not preparing.done()
        slow.building = "c"
        slow.say(Prepared(2))
        await preparing
        await supervisor.commit(NOTHING)
        assert world.hashes == ["c", "c"]


async def test_who_dies_while_it_prepares_holds_nobody_up() -> None:
    world = World()
    async with supervised(2, world=world) as (supervisor, _):
        dying = world.of(0)
        dying.deaf.add(Prepare)
        preparing = asyncio.create_task(supervisor.prepare(package("b")))
        await eventually(lambda: bool(dying.told(Prepare)))
        dying.die()
        await preparing
        await supervisor.commit(NOTHING)
        await eventually(lambda: world.hashes == ["b", "b"])


async def test_where_all_die_of_it_it_is_refused() -> None:
    async with supervised(2) as (supervisor, world):
        for worker in world.workers:
            worker.deaf.add(Prepare)
        preparing = asyncio.create_task(supervisor.prepare(package("b")))
        await eventually(lambda: all(worker.told(Prepare) for worker in world.workers))
        world.gate.clear()
        for worker in list(world.workers):
            worker.die()
        with pytest.raises(PosternError, match="no worker lived"):
            await preparing
        world.gate.set()
        await eventually(lambda: world.hashes == ["a", "a"])


async def test_who_misses_the_commit_is_replaced_by_one_that_serves_by_it(short: None) -> None:
    async with supervised(2) as (supervisor, world):
        late = world.of(1)
        late.deaf.add(Commit)

        async def chat() -> None:
            while True:
                for worker in world.living:
                    worker.say(Report(0, {}))
                await asyncio.sleep(0.02)

        chatting = asyncio.create_task(chat())
        await reload(supervisor, "b")
        assert not late.process.alive
        assert world.of(0).hash == "b"
        await eventually(lambda: world.hashes == ["b", "b"])
        assert world.ended == [(1, "silent")]
        chatting.cancel()


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "given up"])
@pytest.mark.parametrize("moment", ["while it is prepared", "when it has been prepared"])
async def test_who_comes_up_meanwhile_ends_on_what_is_committed(moment: str, committed: bool) -> None:
    world = World()
    async with supervised(2, world=world) as (supervisor, _):
        world.gate.clear()
        world.of(0).die()
        slow = world.of(1)
        slow.deaf.add(Prepare)
        preparing = asyncio.create_task(supervisor.prepare(package("b")))
        await eventually(lambda: bool(slow.told(Prepare)))
        if moment == "while it is prepared":
            world.gate.set()
            await eventually(lambda: bool(world.of(0).told(Prepare)))
        slow.building = "b"
        slow.say(Prepared(1))
        await preparing
        if moment == "when it has been prepared":
            world.gate.set()
            await eventually(lambda: bool(world.of(0).told(Configure)))
            await asyncio.sleep(0.02)
            # It is held back until it is known what it is to serve by.
            assert not world.of(0).told(Serve)
        if committed:
            await supervisor.commit(NOTHING)
        else:
            supervisor.forget()
        expected = "b" if committed else "a"
        await eventually(lambda: world.hashes == [expected, expected])
        assert len(world.workers) == 3


async def test_one_reload_at_a_time() -> None:
    async with supervised(1) as (supervisor, _):
        with pytest.raises(ProtocolError):
            await supervisor.commit(NOTHING)
        await supervisor.prepare(package("b"))
        with pytest.raises(ProtocolError):
            await supervisor.prepare(package("c"))
        supervisor.forget()
        supervisor.forget()
        await reload(supervisor, "c")


# ── restarts and drains ─────────────────────────────────────────────────────────────────────────


async def test_a_restart_replaces_one_after_another() -> None:
    async with supervised(2) as (supervisor, world):
        before = list(world.workers)
        await supervisor.restart(7.0)
        await eventually(lambda: [worker.told(Drain) for worker in before] == [[Drain(7.0)], [Drain(7.0)]])
        assert world.hashes == ["a", "a"]
        await eventually(lambda: world.ended == [(0, "restarted"), (1, "restarted")])
        assert [member.pid for member in supervisor.serving()] == [worker.process.pid for worker in world.workers[2:]]
        assert [slot.restarts for slot in supervisor.slots] == [0, 0]


async def test_who_asks_while_one_is_under_way_is_served_by_one_more() -> None:
    async with supervised(2) as (supervisor, world):
        await asyncio.gather(*(supervisor.restart(1.0) for _ in range(20)))
        assert len(world.workers) == 2 + 2 * 2
        await supervisor.restart(1.0)
        assert len(world.workers) == 2 + 3 * 2


async def test_the_old_one_goes_on_where_the_new_one_does_not_come_up() -> None:
    world = World()
    async with supervised(2, world=world) as (supervisor, _):
        before = list(world.workers)
        world.barren = 1
        with pytest.raises(PosternError, match="slot 0 did not come to serve: the old one goes on"):
            await supervisor.restart(1.0)
        assert all(worker.serves for worker in before)
        assert not before[0].told(Drain)


async def test_the_old_one_dies_while_the_new_one_comes_up() -> None:
    world = World()
    async with supervised(1, world=world) as (supervisor, _):
        world.gate.clear()
        restarting = asyncio.create_task(supervisor.restart(1.0))
        await asyncio.sleep(0.01)
        world.of(0).die()
        await eventually(lambda: bool(world.ended))
        world.gate.set()
        async with asyncio.timeout(PATIENCE):
            await restarting
        await eventually(lambda: world.hashes == ["a"])
        assert len(world.workers) == 2


async def test_those_that_drain_hear_of_revocations_and_reloads() -> None:
    async with supervised(1) as (supervisor, world):
        old = world.of(0)
        old.deaf.add(Drain)
        await supervisor.restart(30.0)
        supervisor.invalidate("key", "k")
        await supervisor.confirm()
        await reload(supervisor, "b")
        assert old.told(Invalidate)
        assert old.hash == "b"
        assert len(supervisor.serving()) == 1


async def test_a_drain_waits_for_all_and_nobody_comes_after() -> None:
    async with supervised(3) as (supervisor, world):
        supervisor.stop_accepting()
        assert await supervisor.drain(5.0)
        assert not world.living
        assert {reason for _, reason in world.ended} == {"stopped"}
        assert len(world.workers) == 3


async def test_a_drain_is_not_clean_where_one_had_to_be_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "AFTER_DRAIN", 0.2)
    async with supervised(2) as (supervisor, world):
        world.of(0).deaf.add(Drain)
        assert not await supervisor.drain(0.1)
        assert not world.living


async def test_a_drain_that_is_cut_short() -> None:
    async with supervised(2) as (supervisor, world):
        for worker in world.workers:
            worker.deaf.add(Drain)
        draining = asyncio.create_task(supervisor.drain(3600.0))
        await eventually(lambda: all(worker.told(Drain) for worker in world.workers))
        supervisor.cut()
        async with asyncio.timeout(PATIENCE):
            assert await draining


@pytest.mark.parametrize(
    "moment", [lambda world: world.gate.clear(), lambda world: world.deaf.add(Configure)], ids=["unborn", "configuring"]
)
async def test_stop_ends_whoever_is_on_the_way(moment: Callable[[World], Awaitable[None] | None]) -> None:
    world = World()
    async with supervised(2, world=world) as (supervisor, _):
        moment(world)
        world.of(0).die()
        await eventually(lambda: bool(world.ended))
        async with asyncio.timeout(PATIENCE):
            await supervisor.stop()
        world.gate.set()
        await asyncio.sleep(0.01)
        assert world.closed
        assert not any(worker.serves for worker in world.workers)


# ── everybody ───────────────────────────────────────────────────────────────────────────────────


async def test_fresh_reports() -> None:
    async with supervised(2) as (supervisor, world):
        await supervisor.reports()
        assert sorted(world.heard, key=lambda it: it[0]) == [(0, Report(1, {"slot": 0})), (1, Report(1, {"slot": 1}))]
        world.of(0).deaf.add(ReportNow)
        await supervisor.reports()
        assert world.heard[2:] == [(1, Report(2, {"slot": 1}))]
        world.of(0).die()
        await supervisor.reports()


async def test_broadcast() -> None:
    async with supervised(3) as (supervisor, world):
        supervisor.broadcast(Feed(0.5))
        supervisor.broadcast(Dropped("r"), but=supervisor.serving()[1])
        await eventually(lambda: all(worker.told(Feed) == [Feed(0.5)] for worker in world.workers))
        await eventually(lambda: bool(world.of(0).told(Dropped)) and bool(world.of(2).told(Dropped)))
        assert not world.of(1).told(Dropped)
