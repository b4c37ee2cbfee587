"""Between gateway and upstream everything breaks: which answer the client gets, when, and that nothing is left over."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from gateway.proxy.states import RESPONDING
from tests.integration.chaos import Chaos
from tests.integration.gateways import MINUTE, PATIENCE, Client, Gateway, eventually, get, request, running_gateway
from upstream_stub.misbehaviours import chunk, head
from upstream_stub.raw import RawRequest, RawServer
from upstream_stub.steps import End, Script, Send, Step, Wait

BAD_GATEWAY = "An invalid response was received from the upstream server"
UNAVAILABLE = "The upstream server is currently unavailable"
TIMEOUT = "The upstream server is timing out"

#: The upstream's time-outs in these tests: they pass when a test says so, so what comes before them has all the time.
TIMES = "connect_timeout: 1m\nread_timeout: 1m\nwrite_timeout: 1m"


def answer(request: RawRequest, later: float = 0.3) -> Script:
    """Says the target back, so that an answer to somebody else's request would be seen.  Some take a while."""
    name = request.target.encode()
    sized = head(200, f"Content-Length: {len(name)}")
    if request.target.startswith("/late"):
        return Script([Wait(later), Send(sized + name)], End.KEEP)
    if request.target.startswith("/head"):
        return Script([Send(sized[:20]), Wait(later), Send(sized[20:] + name)], End.KEEP)
    if request.target.startswith("/length"):
        return Script([Send(head(200, "Content-Length: 200") + bytes(100)), Wait(later), Send(bytes(100))], End.KEEP)
    if request.target.startswith("/chunks"):
        steps: list[Step] = [
            Send(head(200, "Transfer-Encoding: chunked") + chunk(name)),
            Wait(later),
            Send(b"0\r\n\r\n"),
        ]
        return Script(steps, End.KEEP)
    if request.target.startswith("/close"):
        return Script([Send(head(200, "Connection: close") + bytes(100)), Wait(later), Send(bytes(100))], End.CLOSE)
    return Script([Send(sized + name)], End.KEEP)


def routed(*targets: Chaos, lines: str = "", top: str = "") -> str:
    """Everything goes to these."""
    urls = ", ".join(f"{{url: {target.url}}}" for target in targets)
    extra = "".join(f"    {line}\n" for line in f"{TIMES}\n{lines}".splitlines())
    return (
        f"version: 1\n{top}\nservices:\n  - name: lms\n    targets: [{urls}]\n{extra}"
        "    routes: [{name: all, paths: [/], policies: {auth: none}}]\n"
    )


async def outcome(client: Client, sent: bytes) -> str:
    """`STATUS`, `STATUS TEXT` of a refusal, or `STATUS cut` for a body that ends visibly too soon."""
    client.send(sent)
    begun = await client.head()
    try:
        whole = await client.body_of(begun)
    except (ConnectionResetError, asyncio.IncompleteReadError):
        return f"{begun.status} cut"
    text = whole.body.decode("latin-1")
    return next((f"{whole.status} {each}" for each in (BAD_GATEWAY, UNAVAILABLE, TIMEOUT) if each in text), "200")


async def left_over(gateway: Gateway) -> None:
    """Waits until no connection carries anything any more."""
    pools = gateway.plane.targets.pools.values()
    await eventually(lambda: not any(pool.busy for pool in pools))


Break = Callable[[Chaos], Awaitable[None]]


@pytest.mark.parametrize("warm", [False, True], ids=["fresh", "kept"])
@pytest.mark.parametrize(
    ("broken", "statuses"),
    [
        (Chaos.reset, {f"502 {BAD_GATEWAY}", f"503 {UNAVAILABLE}"}),
        (Chaos.refuse, {f"503 {UNAVAILABLE}"}),
        (Chaos.swallow, {f"504 {TIMEOUT}"}),
        (Chaos.cut, {f"502 {BAD_GATEWAY}", "200", "200 cut"}),
        (Chaos.slow, {f"504 {TIMEOUT}", "200", "200 cut"}),
    ],
)
async def test_before_a_request(broken: Break, statuses: set[str], warm: bool) -> None:
    async with RawServer(answer) as upstream, Chaos(upstream.port) as chaos, running_gateway(routed(chaos)) as gateway:
        if warm:
            assert (await gateway.get()).status == 200
        await broken(chaos)
        for sent in (get("/a"), request("POST", "/b", body=b"x"), request("PUT", "/c", body=b"x")):
            async with await gateway.connect() as client:
                asking = asyncio.create_task(outcome(client, sent))
                while f"504 {TIMEOUT}" in statuses and not asking.done():
                    await asyncio.sleep(0.1)
                    gateway.deadlines(time.monotonic_ns() + MINUTE)
                assert await asking in statuses
        assert max(Counter(seen.target for seen in upstream.requests if seen.method == "POST").values(), default=0) <= 1
        await chaos.heal()
        await left_over(gateway)
        assert (await gateway.get("/again")).body == b"/again"


@pytest.mark.parametrize("broken", [Chaos.reset, Chaos.refuse, Chaos.swallow])
@pytest.mark.parametrize(
    ("sent", "began"),
    [
        (get("/late"), False),
        (request("POST", "/late", body=b"x"), False),
        (get("/head"), False),
        (request("POST", "/head", body=b"x"), False),
        (get("/length"), True),
        (get("/chunks"), True),
        (get("/close"), True),
    ],
    ids=["idle", "idle-post", "in-head", "in-head-post", "in-length", "in-chunks", "until-close"],
)
async def test_in_the_middle(broken: Break, sent: bytes, began: bool) -> None:
    """Before the response's head it is one of our answers; after it, an end that no client takes for the whole."""

    def slowly(request: RawRequest) -> Script:
        return answer(request, later=PATIENCE)

    async with RawServer(slowly) as upstream, Chaos(upstream.port) as chaos, running_gateway(routed(chaos)) as gateway:
        assert (await gateway.get()).status == 200
        async with await gateway.connect() as client:
            asking = asyncio.create_task(outcome(client, sent))
            await eventually(lambda: len(upstream.requests) > 1)
            if began:
                await eventually(lambda: gateway.exchanges(RESPONDING))
            await broken(chaos)
            if broken is Chaos.swallow:
                gateway.deadlines(time.monotonic_ns() + MINUTE)
            found = await asking
        if began:
            assert found == "200 cut"
        else:
            assert found in {f"502 {BAD_GATEWAY}", f"503 {UNAVAILABLE}", f"504 {TIMEOUT}"}
            assert ("504" in found) == (broken is Chaos.swallow)
        assert sum(seen.method == "POST" for seen in upstream.requests) <= 1
        await chaos.heal()
        await left_over(gateway)
        assert (await gateway.get("/again")).body == b"/again"


async def test_storms_leave_nothing_behind() -> None:
    """Two targets that break at random under load, with everything on: each answer is one's own, no POST goes twice,
    nobody waits for ever; then all is as before."""
    lines = (
        "total_timeout: 1s\nmax_connections: 3\n"
        "health: {passive: {failures: 3, cooldown: 200ms}, active: {path: /up, interval: 100ms, timeout: 200ms}}"
    )
    dice = random.Random(7)
    ways: list[Break] = [Chaos.heal, Chaos.heal, Chaos.reset, Chaos.refuse, Chaos.swallow, Chaos.cut]
    async with (
        RawServer(answer) as one,
        RawServer(answer) as other,
        Chaos(one.port) as first,
        Chaos(other.port) as second,
        running_gateway(routed(first, second, lines=lines, top="overload: {max_wait: 300ms}")) as gateway,
    ):
        over = time.monotonic() + 3
        seen: Counter[int] = Counter()

        async def ask(number: int) -> None:
            turn = 0
            while time.monotonic() < over:
                turn += 1
                target = f"/{dice.choice(['', 'late-'])}{number}-{turn}"
                sent = dice.choice([get(target), request("POST", target, body=b"x"), request("PUT", target, body=b"x")])
                async with await gateway.connect() as client:
                    client.send(sent)
                    if dice.random() < 0.1:
                        await asyncio.sleep(0.05)
                        client.reset()
                        continue
                    try:
                        response = await client.response()
                    except (ConnectionResetError, asyncio.IncompleteReadError):
                        continue
                    seen[response.status] += 1
                    assert response.status != 200 or response.body == target.encode()
                await asyncio.sleep(0.01)

        async def storm() -> None:
            while time.monotonic() < over:
                await dice.choice(ways)(dice.choice([first, second]))
                await asyncio.sleep(0.1)
            await first.heal()
            await second.heal()

        await asyncio.gather(storm(), *(ask(number) for number in range(12)))
        assert seen.keys() <= {200, 502, 503, 504}
        posts = Counter(each.target for server in (one, other) for each in server.requests if each.method == "POST")
        assert max(posts.values()) == 1
        async with asyncio.timeout(30):
            while not all(state.healthy for state in gateway.plane.targets.states()):
                await gateway.get()  # a half-open circuit waits for one
                await asyncio.sleep(0.02)
        await left_over(gateway)
        assert [(await gateway.get(f"/{turn}")).body for turn in range(9)] == [b"/%d" % turn for turn in range(9)]
