"""The upstream side as it lives: reloads, names that change, probes that fall due; over a clock and names made up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import cast

import pytest

from gateway.proxy.balancer import UNIT, Balancer
from gateway.proxy.resolver import Resolved, ResolveError, Resolver
from gateway.proxy.targets import RETIREMENT, Targets
from gateway.snapshot import SECOND, UNWATCHED, ActiveHealth, Health, Origin, PassiveHealth, Service, Target

PASSIVE = Health(passive=PassiveHealth(1, 10 * SECOND))
ACTIVE = Health(active=ActiveHealth(b"/health", 5 * SECOND, SECOND, 1, 1))


class Names:
    """A resolver to be told what to say; while `held` is clear it says nothing."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[str, ...]] = {}
        self.lifetime = 60
        self.asked: list[str] = []
        self.held = asyncio.Event()
        self.held.set()
        self.closed = False

    async def resolve(self, host: str) -> Resolved:
        self.asked.append(host)
        await self.held.wait()
        if host not in self.answers:
            raise ResolveError("Domain name not found")
        return Resolved(self.answers[host], self.lifetime)

    def close(self) -> None:
        self.closed = True


@dataclass
class World:
    targets: Targets
    names: Names
    time: list[int] = field(default_factory=lambda: [0])

    def at(self, seconds: float) -> None:
        """The clock's new time, and a sweep."""
        self.time[0] = int(seconds * SECOND)
        self.targets.sweep(self.time[0])

    def addresses(self, service: Service) -> list[str]:
        return [endpoint.address for endpoint in self.targets.balancer(service).endpoints]

    def states(self) -> list[tuple[str, bool, list[tuple[str, str]]]]:
        return [
            (state.target, state.healthy, [(each.address, each.state) for each in state.addresses])
            for state in self.targets.states()
        ]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    names = Names()
    time = [0]
    found = Targets(asyncio.get_running_loop(), cast(Resolver, names), lambda: time[0], lambda bound: bound // 2)
    yield World(found, names, time)
    found.close()
    await turns()


async def turns(until: Callable[[], bool] | None = None) -> None:
    """A few turns of the loop, or as many as something takes."""
    for _ in range(5):
        await asyncio.sleep(0)
    async with asyncio.timeout(30):
        while until is not None and not until():
            await asyncio.sleep(0.005)


def service(*hosts: str, name: str = "lms", health: Health = UNWATCHED, weights: tuple[int, ...] = ()) -> Service:
    given = weights or (1,) * len(hosts)
    made = tuple(
        Target(f"http://{host}", Origin(path=host) if host.startswith("/") else Origin(host, 80), b"lms", weight)
        for host, weight in zip(hosts, given, strict=True)
    )
    return Service(name, made, health=health)


# ── reloads ─────────────────────────────────────────────────────────────────────────────────────


async def test_a_reload_keeps_endpoints_with_their_pools_and_health(world: World) -> None:
    before = service("192.0.2.1", "192.0.2.2", health=PASSIVE)
    world.targets.adopt([before])
    one, other = world.targets.balancer(before).endpoints
    pool = one.pool
    one.failed(0, "it broke")
    after = service("192.0.2.2", "192.0.2.1", "192.0.2.3", health=PASSIVE, weights=(3, 2, 1))
    world.targets.adopt([after])
    found = world.targets.balancer(after)
    assert found.endpoints[:2] == (other, one)
    assert one.pool is pool
    assert [endpoint.weight for endpoint in found.endpoints] == [3 * UNIT, 2 * UNIT, UNIT]
    assert world.states() == [
        ("http://192.0.2.2", True, [("192.0.2.2:80", "healthy")]),
        ("http://192.0.2.1", False, [("192.0.2.1:80", "ejected")]),
        ("http://192.0.2.3", True, [("192.0.2.3:80", "healthy")]),
    ]


async def test_what_is_dropped_is_closed_and_requests_of_before_go_on(world: World) -> None:
    before = service("192.0.2.1")
    world.targets.adopt([before])
    endpoint = world.targets.balancer(before).only
    after = service("192.0.2.2")
    world.targets.adopt([after])
    assert [str(origin) for origin in world.targets.pools] == ["192.0.2.2:80"]
    assert world.targets.balancer(before).only is endpoint, "a request that was decided before"
    assert world.addresses(after) == ["192.0.2.2:80"]
    world.targets.adopt([])
    assert world.addresses(after) == ["192.0.2.2:80"]
    assert world.states() == []


async def test_one_that_comes_back_gets_a_pool_that_keeps_connections(world: World) -> None:
    first, second = service("192.0.2.1"), service("192.0.2.2")
    world.targets.adopt([first])
    closed = world.targets.balancer(first).endpoints[0].pool
    world.targets.adopt([second])
    world.targets.adopt([first])
    assert world.targets.balancer(first).endpoints[0].pool is not closed


async def test_an_equal_service_of_another_snapshot_has_the_same_balancer(world: World) -> None:
    before, after = service("192.0.2.1"), service("192.0.2.1")
    world.targets.adopt([before])
    found = world.targets.balancer(before)
    world.targets.adopt([after])
    assert world.targets.balancer(after) is found
    assert world.targets.balancer(before) is found
    assert found.service is after


async def test_the_retired_are_forgotten_in_time(world: World) -> None:
    before = service("192.0.2.1")
    world.targets.adopt([before])
    found = world.targets.balancer(before)
    world.targets.adopt([])
    world.targets.start()
    assert world.targets.balancer(before) is found
    world.at(RETIREMENT / SECOND)
    again = world.targets.balancer(before)
    assert again is not found
    assert again.only is not None, "even then a request gets where it was to go"


async def test_services_share_a_pool_and_not_their_health(world: World) -> None:
    one, other = service("192.0.2.1", name="one", health=PASSIVE), service("192.0.2.1", name="other", health=PASSIVE)
    world.targets.adopt([one, other])
    (first,), (second,) = world.targets.balancer(one).endpoints, world.targets.balancer(other).endpoints
    assert first.pool is second.pool
    first.failed(0, "it broke")
    assert [healthy for _, healthy, _ in world.states()] == [False, True]


async def test_a_new_target_begins_slowly_and_the_first_ones_do_not(world: World) -> None:
    slow = Health(slow_start=10 * SECOND)
    world.targets.adopt([service("192.0.2.1", health=slow)])
    world.targets.adopt([service("192.0.2.1", "192.0.2.2", health=slow)])
    assert [addresses[0][1] for _, _, addresses in world.states()] == ["healthy", "slow-start"]
    world.time[0] = 10 * SECOND
    assert [addresses[0][1] for _, _, addresses in world.states()] == ["healthy", "healthy"]


# ── names ───────────────────────────────────────────────────────────────────────────────────────


async def test_literals_sockets_and_localhost_are_not_resolved(world: World) -> None:
    plain = service("127.0.0.1", "::1", "localhost", "/run/lms.sock")
    world.targets.adopt([plain])
    world.targets.start()
    world.at(1000)
    await turns()
    assert world.names.asked == []
    assert world.addresses(plain) == ["127.0.0.1:80", "[::1]:80", "localhost:80", "unix:/run/lms.sock"]


async def test_a_name_is_resolved_again_when_its_lifetime_ends(world: World) -> None:
    named = service("lms.test", "192.0.2.9", health=Health(slow_start=10 * SECOND), weights=(3, 1))
    world.names.answers["lms.test"] = ("192.0.2.1", "192.0.2.2")
    world.targets.adopt([named])
    world.targets.start()
    await turns()
    assert world.addresses(named) == ["192.0.2.1:80", "192.0.2.2:80", "192.0.2.9:80"]
    assert [each.weight for each in world.targets.balancer(named).endpoints] == [3 * UNIT // 2, 3 * UNIT // 2, UNIT]
    kept, gone, _ = world.targets.balancer(named).endpoints
    world.names.answers["lms.test"] = ("192.0.2.1", "192.0.2.3")
    world.at(59.9)
    await turns()
    assert world.names.asked == ["lms.test"]
    world.at(60)
    world.at(60.1)
    await turns()
    assert world.names.asked == ["lms.test"] * 2, "one question at a time"
    assert world.addresses(named) == ["192.0.2.1:80", "192.0.2.3:80", "192.0.2.9:80"]
    assert world.targets.balancer(named).endpoints[0] is kept
    assert gone.pool.origin not in world.targets.pools
    assert world.states() == [
        ("http://lms.test", True, [("192.0.2.1:80", "healthy"), ("192.0.2.3:80", "slow-start")]),
        ("http://192.0.2.9", True, [("192.0.2.9:80", "healthy")]),
    ]


async def test_a_failure_keeps_the_last_answer_and_is_logged_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "postern.proxy")
    named = service("lms.test")
    world.names.answers["lms.test"] = ("192.0.2.1",)
    world.targets.adopt([named])
    world.targets.start()
    await turns()
    del world.names.answers["lms.test"]
    for second in range(60, 71):
        world.at(second)
        await turns()
    assert len(world.names.asked) == 5, "at 0, 60, 61, 63, 67"
    assert world.addresses(named) == ["192.0.2.1:80"]
    world.names.answers["lms.test"] = ("192.0.2.1",)
    world.at(75)
    await turns()
    assert [record.getMessage() for record in caplog.records] == [
        "lms.test does not resolve: Domain name not found; its last addresses go on to hold",
        "lms.test resolves again",
    ]


async def wait(balancer: Balancer) -> list[str]:
    told: list[str] = []
    balancer.wait().then(lambda _: told.append("told"), lambda error: told.append(str(error)))
    return told


@pytest.mark.parametrize("known", [True, False])
async def test_requests_wait_for_the_first_answer_alone(world: World, known: bool) -> None:
    named = service("lms.test")
    world.names.held.clear()
    world.targets.adopt([named])
    balancer = world.targets.balancer(named)
    assert (balancer.resolving, balancer.pick("", 0)) == (True, None), "even before anything was started"
    told = await wait(balancer)
    world.targets.start()
    await turns()
    assert told == []
    assert world.states() == [("http://lms.test", False, [])]
    assert world.targets.states()[0].reason == "lms.test is being resolved"
    if known:
        world.names.answers["lms.test"] = ("192.0.2.1",)
    world.names.held.set()
    await turns()
    assert told == ["told"]
    assert (balancer.only is not None) is known
    assert balancer.resolving is False
    assert world.targets.states()[0].reason == ("" if known else "lms.test does not resolve: Domain name not found")


async def test_a_name_that_comes_with_a_reload_is_resolved_at_once(world: World) -> None:
    world.targets.adopt([])
    world.targets.start()
    named = service("lms.test")
    world.names.answers["lms.test"] = ("192.0.2.1",)
    world.targets.adopt([named])
    await turns()
    assert world.addresses(named) == ["192.0.2.1:80"]
    world.targets.adopt([service("lms.test", health=PASSIVE)])
    await turns()
    assert world.names.asked == ["lms.test"], "the answer outlives a reload"


async def test_a_name_that_is_dropped_while_it_is_asked_for(world: World) -> None:
    world.targets.adopt([service("lms.test")])
    world.names.held.clear()
    world.targets.start()
    await turns()
    world.targets.adopt([])
    world.names.held.set()
    await turns()
    world.at(1000)
    await turns()
    assert world.names.asked == ["lms.test"]


# ── probes ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[asyncio.Future[str]]:
    """Every probe that was begun, to be answered by the test."""
    begun: list[asyncio.Future[str]] = []

    async def probe(*_: object) -> str:
        begun.append(asyncio.get_running_loop().create_future())
        return await begun[-1]

    monkeypatch.setattr("gateway.proxy.targets.probe", probe)
    return begun


async def test_probes_fall_due_one_at_a_time(world: World, probes: list[asyncio.Future[str]]) -> None:
    watched = service("192.0.2.1", health=ACTIVE)
    world.targets.adopt([watched])
    world.targets.start()
    for seconds, count in [(0, 0), (2.4, 0), (2.5, 1), (7.5, 1), (30, 1)]:
        world.at(seconds)
        await turns()
        assert len(probes) == count, seconds
    probes[0].set_result("it answered 500")
    await turns()
    assert world.states() == [("http://192.0.2.1", False, [("192.0.2.1:80", "ejected")])]
    assert world.targets.states()[0].reason == "it answered 500"
    assert world.targets.balancer(watched).pick("", world.time[0]) is None
    world.at(30)
    await turns()
    probes[1].set_result("")
    await turns()
    assert world.targets.balancer(watched).pick("", world.time[0]) is not None
    world.at(34.9)
    await turns()
    assert len(probes) == 2
    world.at(35)
    await turns()
    assert len(probes) == 3


async def test_probes_end_with_their_service(
    world: World, probes: list[asyncio.Future[str]], caplog: pytest.LogCaptureFixture
) -> None:
    watched = service("192.0.2.1", health=ACTIVE)
    world.targets.adopt([watched])
    world.targets.start()
    world.at(2.5)
    await turns()
    world.targets.adopt([])
    probes[0].set_result("it answered 500")
    await turns()
    world.at(100)
    await turns()
    assert len(probes) == 1
    assert caplog.records == [], "of a service that is no more nobody wants to hear"


async def test_a_shorter_interval_and_new_probes_hold_at_once(world: World, probes: list[asyncio.Future[str]]) -> None:
    world.targets.adopt([service("192.0.2.1")])
    world.targets.start()
    world.at(100)
    await turns()
    assert probes == []
    world.targets.adopt([service("192.0.2.1", health=ACTIVE)])
    world.at(102.5)
    await turns()
    probes[0].set_result("")
    quick = Health(active=ActiveHealth(b"/health", SECOND, SECOND, 1, 1))
    await turns()
    world.targets.adopt([service("192.0.2.1", health=quick)])
    world.at(103.5)
    await turns()
    assert len(probes) == 2


async def test_a_defect_is_logged_and_the_next_probe_comes(
    world: World, probes: list[asyncio.Future[str]], caplog: pytest.LogCaptureFixture
) -> None:
    world.targets.adopt([service("192.0.2.1", health=ACTIVE)])
    world.targets.start()
    world.at(2.5)
    await turns()
    probes[0].set_exception(RuntimeError("a defect"))
    await turns()
    assert [record.getMessage() for record in caplog.records] == ["watching upstream targets failed"]
    world.at(7.5)
    await turns()
    assert len(probes) == 2


async def test_closing_ends_everything(world: World, probes: list[asyncio.Future[str]]) -> None:
    world.names.held.clear()
    world.targets.adopt([service("192.0.2.1", "lms.test", health=ACTIVE)])
    world.targets.start()
    world.at(2.5)
    await turns()
    world.targets.close()
    await turns()
    assert (probes[0].cancelled(), world.names.closed) == (True, True)
    world.at(100)
    await turns()
    assert (len(probes), world.names.asked) == (1, ["lms.test"])
