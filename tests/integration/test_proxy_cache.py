"""`proxy-cache` over real sockets: what the client is told, and how often the upstream is asked."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.cache.opening import ResponseCaches
from tests.integration.gateways import (
    Client,
    Gateway,
    Keys,
    Response,
    chunked,
    eventually,
    get,
    proxied,
    request,
    routed,
    running_gateway,
)
from tests.integration.programs import running_program, settled
from tests.policies.helpers import make_identity
from tests.redis_server import executable, running_redis
from upstream_stub.misbehaviours import head
from upstream_stub.raw import RawRequest, RawServer
from upstream_stub.steps import End, Script, Send, Until, Wait

KEYS = Keys(
    {
        b"pnpub_a.pnsec_a": make_identity("teacher", username="ann", organization="springfield"),
        b"pnpub_b.pnsec_b": make_identity("teacher", username="bob", organization="springfield"),
        b"pnpub_c.pnsec_c": make_identity("pupil", username="cid", organization="shelbyville"),
    }
)

REDIS = executable()
CACHED = "{proxy-cache: {}}"


def bearer(name: str) -> str:
    return f"Authorization: Bearer pnpub_{name}.pnsec_{name}"


class Origin:
    """An upstream whose bodies count the requests; `lines` are its header lines, `before` what it does first."""

    def __init__(self, *lines: str, status: int = 200, before: tuple[Wait | Until, ...] = ()) -> None:
        self.lines = lines
        self.status = status
        self.before = before
        self.asked = 0

    def __call__(self, asked: RawRequest) -> Script:
        self.asked += 1
        body = b"answer %d" % self.asked
        said = head(self.status, f"Content-Length: {len(body)}", *self.lines)
        return Script([*self.before, Send(said + (b"" if asked.method == "HEAD" else body))], End.KEEP)


def told(response: Response) -> tuple[str, bytes]:
    return response.headers.get("x-cache-status", ""), response.body


async def twice(client: Client, first: bytes, second: bytes | None = None, method: str = "GET") -> list[str]:
    """What two requests are told of the cache."""
    answers = [await client.request(first, method), await client.request(second or first, method)]
    return [told(answer)[0] for answer in answers]


# ── hits ─────────────────────────────────────────────────────────────────────────────────────────


async def test_a_hit_is_the_same_response() -> None:
    origin = Origin(
        "Date: Sat, 01 Jan 2000 00:00:00 GMT",
        "Server: lms/1",
        "Cache-Control: max-age=1000000000",
        'ETag: "v1"',
        "Content-Type: text/plain",
        "Link: </a>; rel=next",
        "Link: </b>; rel=prev",
        "X-Request-ID: from-the-lms",
        "X-Cache-Status: Hit",
        "RateLimit-Limit: 1",
        "Connection: X-Hop",
        "X-Hop: 1",
        "Via: 1.1 lms-proxy",
    )
    policies = "{proxy-cache: {}, rate-limiting: {limits: [5/minute], by: ip}, correlation-id: {}}"
    async with proxied(origin, policies=policies) as (_, gateway), await gateway.connect() as client:
        missed, hit = await client.request(get("/a?x=1")), await client.request(get("/a?x=1"))
        assert (told(missed), told(hit)) == (("Miss", b"answer 1"), ("Hit", b"answer 1"))
        assert origin.asked == 1
        for name in ("date", "server", "etag", "content-type", "content-length", "cache-control", "via"):
            assert hit.headers[name] == missed.headers[name], name
        assert hit.headers["link"] == "</a>; rel=next, </b>; rel=prev"
        assert int(hit.headers["age"]) > 800_000_000
        assert "x-hop" not in hit.headers
        # What the gateway says of this very answer stands once.
        assert [answer.headers["ratelimit-remaining"] for answer in (missed, hit)] == ["4", "3"]
        assert hit.headers["x-request-id"] not in ("from-the-lms", missed.headers["x-request-id"])
        names = [line.partition(b":")[0].lower() for line in hit.lines]
        assert [names.count(name) for name in (b"date", b"server", b"x-cache-status", b"x-request-id")] == [1] * 4
        records = await gateway.recorded(2)
        assert [record.decision for record in records] == ["proxied", "replied"]
        assert told(await client.request(get("/a?x=2"))) == ("Miss", b"answer 2")


async def test_head_and_conditions_are_answered_from_a_get() -> None:
    origin = Origin('ETag: W/"v1"', "Last-Modified: Sat, 01 Jan 2000 00:00:00 GMT")
    async with proxied(origin, policies=CACHED) as (_, gateway), await gateway.connect() as client:
        assert told(await client.request(request("HEAD", "/"), "HEAD")) == ("Miss", b"")
        assert told(await client.request(get("/", 'If-None-Match: "v0"'))) == ("Miss", b"answer 2")
        answer = await client.request(request("HEAD", "/"), "HEAD")
        assert (told(answer), answer.headers["content-length"]) == (("Hit", b""), "8")
        for line, status in (
            ('If-None-Match: "v0", "v1"', 304),
            ("If-None-Match: *", 304),
            ('If-None-Match: "v2"', 200),
            ("If-Modified-Since: Sat, 01 Jan 2000 00:00:00 GMT", 304),
            ("If-Modified-Since: Fri, 31 Dec 1999 23:59:59 GMT", 200),
        ):
            answer = await client.request(get("/", line))
            assert (answer.status, told(answer)[0]) == (status, "Hit"), line
            assert answer.headers["etag"] == 'W/"v1"'
            assert ("content-length" in answer.headers) is (status == 200)
        assert origin.asked == 2


@pytest.mark.parametrize(
    ("answer", "stored"),
    [
        (head(200, "Transfer-Encoding: chunked") + chunked(b"answer", b" 1"), True),
        (head(200, "Transfer-Encoding: chunked") + chunked(b"answer 1", end=b"0\r\nX-Sum: 1\r\n\r\n"), True),
        (head(301, "Location: /b", "Content-Length: 0"), True),
        (head(404, "Content-Length: 1") + b"-", True),
        (head(302, "Location: /b", "Content-Length: 0", "Cache-Control: max-age=60"), False),
        (head(500, "Content-Length: 1") + b"-", False),
        (head(200, "Content-Length: 1048577") + b"x" * 1048577, False),
        (head(200, "Transfer-Encoding: chunked") + chunked(b"x" * 1048577), False),
        (head(200, "Content-Length: 1000000") + b"x" * 1000000, True),
    ],
    ids=["chunked", "trailers", "301", "404", "302", "500", "large", "large chunked", "just right"],
)
async def test_what_is_stored(answer: bytes, stored: bool) -> None:
    async with proxied(lambda _: Script([Send(answer)], End.KEEP), policies=CACHED) as (upstream, gateway):
        async with await gateway.connect(limit=1 << 22) as client:
            first, second = await client.request(get()), await client.request(get())
        assert told(second) == ("Hit" if stored else "Miss", first.body)
        assert second.status == first.status
        assert len(upstream.requests) == (1 if stored else 2)


@pytest.mark.parametrize(
    "script",
    [
        Script([Send(head(200, "Content-Length: 100") + b"half")], End.CLOSE),
        Script([Send(head(200, "Transfer-Encoding: chunked") + b"4\r\nhalf\r\n")], End.CLOSE),
        Script([Send(head(200, "Transfer-Encoding: chunked") + b"4\r\nhalf\r\n"), Wait(0.05), Send(b"zz")], End.CLOSE),
    ],
)
async def test_a_response_that_was_cut_is_never_stored(script: Script) -> None:
    origin = Origin()
    cut = [True]

    def scripted(asked: RawRequest) -> Script:
        return script if cut.pop() else origin(asked)

    cut.insert(0, False)
    async with proxied(scripted, policies=CACHED) as (_, gateway):
        async with await gateway.connect() as client:
            client.send(get())
            assert (await client.head()).status == 200
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await client.reader.readexactly(100)
        assert told(await gateway.get()) == ("Miss", b"answer 1")


async def test_a_body_that_ends_with_its_connection_is_not_stored() -> None:
    async with proxied(lambda _: Script([Send(head(200) + b"all")], End.CLOSE), policies=CACHED) as (upstream, gateway):
        assert [told(await gateway.get()) for _ in range(2)] == [("Miss", b"all")] * 2
        assert len(upstream.requests) == 2


async def test_what_does_not_say_how_long_is_fresh_for_the_ttl() -> None:
    origin = Origin()
    async with proxied(origin, policies="{proxy-cache: {ttl: 1s}}") as (_, gateway):
        assert [told(await gateway.get())[0] for _ in range(2)] == ["Miss", "Hit"]
        await asyncio.sleep(1.05)
        assert [told(await gateway.get()) for _ in range(2)] == [("Refresh", b"answer 2"), ("Hit", b"answer 2")]


@pytest.mark.parametrize(
    ("method", "status", "lines", "dropped"),
    [
        ("POST", 201, (), {"/a"}),
        ("PUT", 204, (), {"/a"}),
        ("DELETE", 302, ("Location: /b?y=2",), {"/a", "/b"}),
        ("PATCH", 200, ("Content-Location: http://gateway.example.org/x/../b",), {"/a", "/b"}),
        ("PATCH", 200, ("Content-Location: http://elsewhere.example.org/b",), {"/a"}),
        ("PURGE", 200, (), {"/a"}),
        ("POST", 409, ("Location: /b",), set()),
        ("OPTIONS", 200, (), set()),
    ],
)
async def test_a_change_drops_what_is_stored(
    method: str, status: int, lines: tuple[str, ...], dropped: set[str]
) -> None:
    def scripted(asked: RawRequest) -> Script:
        if asked.method == "GET":
            return Script([Send(head(200, "Content-Length: 2") + b"ok")], End.KEEP)
        return Script([Send(head(status, *lines, *(("Content-Length: 0",) if status != 204 else ())))], End.KEEP)

    targets = ("/a?x=1", "/b", "/c")
    async with proxied(scripted, policies=CACHED) as (_, gateway), await gateway.connect() as client:
        for target in targets:
            assert await twice(client, get(target)) == ["Miss", "Hit"]
        changed = await client.request(request(method, "/a", body=b"x" if method == "POST" else b""))
        assert told(changed)[0] == "Bypass"
        found = {target for target in targets if told(await client.request(get(target)))[0] == "Miss"}
        assert {target.partition("?")[0] for target in found} == dropped


@pytest.mark.parametrize(
    "asked",
    [
        get("/", "Range: bytes=0-1"),
        get("/", "Cache-Control: no-store"),
        get("/", 'If-Match: "v1"'),
        request("POST", "/", body=b"x"),
        request("GET", "/", body=b"x"),
        request("OPTIONS", "/"),
    ],
)
async def test_bypassed(asked: bytes) -> None:
    origin = Origin()
    async with proxied(origin, policies=CACHED) as (_, gateway), await gateway.connect() as client:
        assert await twice(client, asked) == ["Bypass", "Bypass"]
        assert told(await client.request(get("/"))) == ("Miss", b"answer 3")


async def test_only_if_cached() -> None:
    origin = Origin()
    async with proxied(origin, policies=CACHED) as (_, gateway), await gateway.connect() as client:
        refused = await client.request(get("/", "Cache-Control: only-if-cached"))
        assert (refused.status, b"No stored response fits the request" in refused.body) == (504, True)
        await client.request(get("/"))
        assert told(await client.request(get("/", "Cache-Control: only-if-cached"))) == ("Hit", b"answer 1")
        assert origin.asked == 1


# ── whose ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("vary_by", "sharing"),
    [
        ("credential", {"a": "a", "b": "b", "c": "c"}),
        ("consumer", {"a": "a", "b": "b", "c": "c"}),
        ("header.X-Page", {"a": "a", "b": "b", "c": "c"}),
        ("groups", {"a": "a", "b": "a", "c": "c"}),
        ("organization", {"a": "a", "b": "a", "c": "c"}),
        ("none", {"a": "a", "b": "a", "c": "a"}),
    ],
)
async def test_whose_answer_is_whose(vary_by: str, sharing: dict[str, str]) -> None:
    def scripted(asked: RawRequest) -> Script:
        body = (asked.header("X-Consumer-Username") or "").encode()
        return Script([Send(head(200, f"Content-Length: {len(body)}") + body)], End.KEEP)

    policies = f"{{auth: {{any_of: [api-key]}}, proxy-cache: {{vary_by: [{vary_by}]}}}}"
    names = {"a": b"ann", "b": b"bob", "c": b"cid"}
    async with proxied(scripted, KEYS, policies=policies) as (upstream, gateway), await gateway.connect() as client:
        for _ in range(2):
            for name, whose in sharing.items():
                assert (await client.request(get("/me", bearer(name)))).body == names[whose]
        assert len(upstream.requests) == len(set(sharing.values()))
        assert (await client.request(get("/me"))).status == 401
        assert (await client.request(get("/me", bearer("x")))).status == 401


@pytest.mark.parametrize(
    ("line", "said", "statuses"),
    [
        ("Authorization: Bearer someone", "Cache-Control: max-age=60", ["Miss", "Miss"]),
        ("Authorization: Bearer someone", "Cache-Control: max-age=60, public", ["Miss", "Hit"]),
        ("Authorization: Bearer someone", "Cache-Control: s-maxage=60", ["Miss", "Hit"]),
        ("Authorization: Bearer someone", "Cache-Control: max-age=60, must-revalidate", ["Miss", "Hit"]),
        ("Cookie: session=1", "X-A: 1", ["Miss", "Miss"]),
        ("Cookie: session=1", "Cache-Control: public", ["Miss", "Hit"]),
        ("X-Authenticated-User-Token: t", "Cache-Control: max-age=60", ["Miss", "Miss"]),
        ("X-Other: 1", "Cache-Control: private", ["Miss", "Miss"]),
    ],
)
async def test_on_a_public_route_what_is_somebodys_is_not_shared(line: str, said: str, statuses: list[str]) -> None:
    async with proxied(Origin(said), policies=CACHED) as (_, gateway), await gateway.connect() as client:
        assert await twice(client, get("/", line)) == statuses
        # And what nobody in particular was answered is not given to somebody unless it says so.
        assert await twice(client, get("/other"), get("/other", line)) == ["Miss", statuses[1]]


async def test_a_key_by_an_outside_name_is_its_own() -> None:
    """The upstream writes links by X-Forwarded-Host, so a port that a client made up must not reach others."""
    origin = Origin()
    async with proxied(origin, policies=CACHED) as (_, gateway), await gateway.connect() as client:
        poisoned = b"GET / HTTP/1.1\r\nHost: gateway.example.org:1337\r\n\r\n"
        absolute = b"GET http://gateway.example.org:1338/ HTTP/1.1\r\nHost: gateway.example.org\r\n\r\n"
        answers = [await client.request(asked) for asked in (poisoned, absolute, get("/"))]
        assert [told(answer) for answer in answers] == [("Miss", b"answer %d" % number) for number in (1, 2, 3)]


# ── together ─────────────────────────────────────────────────────────────────────────────────────


async def all_at_once(
    gateway: Gateway, number: int, asked: Callable[[int], bytes] = lambda _: get("/")
) -> list[Response]:
    clients = [await gateway.connect() for _ in range(number)]
    try:
        return await asyncio.gather(*(client.request(asked(at)) for at, client in enumerate(clients)))
    finally:
        for client in clients:
            client.writer.close()


async def test_a_hundred_misses_are_one_request() -> None:
    origin = Origin(before=(Wait(0.2),))
    async with proxied(origin, policies=CACHED) as (_, gateway):
        answers = await all_at_once(gateway, 100)
        assert {answer.body for answer in answers} == {b"answer 1"}
        assert sorted(told(answer)[0] for answer in answers) == ["Hit"] * 99 + ["Miss"]
        assert origin.asked == 1


async def test_variants_are_fetched_once_each() -> None:
    def scripted(asked: RawRequest) -> Script:
        body = (asked.header("Accept-Language") or "").encode()
        return Script(
            [Wait(0.1), Send(head(200, f"Content-Length: {len(body)}", "Vary: Accept-Language") + body)], End.KEEP
        )

    async with proxied(scripted, policies=CACHED) as (upstream, gateway):
        languages = ["de", "en", "fr", "hi"]
        answers = await all_at_once(gateway, 40, lambda at: get("/", f"Accept-Language: {languages[at % 4]}"))
        assert [answer.body.decode() for answer in answers] == [languages[at % 4] for at in range(40)]
        assert len(upstream.requests) == 4


@pytest.mark.parametrize("said", ["Cache-Control: no-store", "Set-Cookie: a=1", "Vary: *"])
async def test_what_cannot_be_shared_is_waited_for_once(said: str) -> None:
    gate = asyncio.Event()
    origin = Origin(said, before=(Until(gate),))
    async with proxied(origin, policies=CACHED) as (_, gateway):
        work = asyncio.create_task(all_at_once(gateway, 10))
        await eventually(lambda: origin.asked == 1)
        await asyncio.sleep(0.05)
        assert origin.asked == 1
        gate.set()
        answers = await work
        assert {told(answer)[0] for answer in answers} == {"Miss"}
        assert sorted(answer.body for answer in answers) == sorted(b"answer %d" % at for at in range(1, 11))
        # From now on nobody waits, so all arrive at once.
        gate.clear()
        work = asyncio.create_task(all_at_once(gateway, 5))
        await eventually(lambda: origin.asked == 15)
        gate.set()
        await work


@pytest.mark.parametrize("ending", [End.CLOSE, End.RESET])
async def test_a_leader_whose_upstream_fails_holds_nobody(ending: End) -> None:
    gate = asyncio.Event()
    asked = [0]

    def scripted(_: RawRequest) -> Script:
        asked[0] += 1
        return Script([Until(gate)], ending)

    async with proxied(scripted, policies=CACHED) as (_, gateway):
        work = asyncio.create_task(all_at_once(gateway, 5))
        await eventually(lambda: asked[0] == 1)
        gate.set()
        assert {answer.status for answer in await work} == {502}


@pytest.mark.parametrize("after", [b"", head(200, "Content-Length: 8") + b"answ"])
async def test_a_leader_that_leaves_is_followed_by_another(after: bytes) -> None:
    gate = asyncio.Event()
    origin = Origin()
    first = [True]

    def scripted(asked: RawRequest) -> Script:
        if first.pop():
            return Script([*([Send(after)] if after else []), Until(gate)], End.KEEP)
        first.append(False)
        return origin(asked)

    first.insert(0, False)
    async with proxied(scripted, policies=CACHED) as (upstream, gateway):
        leader = await gateway.connect()
        leader.send(get("/"))
        await eventually(lambda: len(upstream.requests) == 1)
        if after:
            await leader.head()
        work = asyncio.create_task(all_at_once(gateway, 20))
        leaver = await gateway.connect()
        leaver.send(get("/"))
        await asyncio.sleep(0.1)
        assert len(upstream.requests) == 1
        leaver.reset()
        leader.reset()
        answers = await work
        assert sorted(told(answer) for answer in answers) == [("Hit", b"answer 1")] * 19 + [("Miss", b"answer 1")]
        assert len(upstream.requests) == 2


async def test_nobody_waits_longer_than_told() -> None:
    gate = asyncio.Event()
    origin = Origin(before=(Until(gate),))
    async with proxied(origin, policies="{proxy-cache: {lock_timeout: 100ms}}") as (_, gateway):
        work = asyncio.create_task(all_at_once(gateway, 3))
        await eventually(lambda: origin.asked == 3)
        gate.set()
        assert {told(answer)[0] for answer in await work} == {"Miss"}


async def test_a_change_while_a_response_is_coming_leaves_nothing_old_behind() -> None:
    gate = asyncio.Event()
    values = ["old"]

    def scripted(asked: RawRequest) -> Script:
        if asked.method == "PUT":
            values[0] = "new"
            return Script([Send(head(204))], End.KEEP)
        body = values[0].encode()
        return Script(
            [*([Until(gate)] if body == b"old" else []), Send(head(200, "Content-Length: 3") + body)], End.KEEP
        )

    async with proxied(scripted, policies=CACHED) as (upstream, gateway):
        work = asyncio.create_task(all_at_once(gateway, 2))
        await eventually(lambda: len(upstream.requests) == 1)
        async with await gateway.connect() as client:
            assert (await client.request(request("PUT", "/"))).status == 204
            # Who asks after the change does not wait for the old one, and does not get it.
            assert told(await client.request(get("/"))) == ("Miss", b"new")
            gate.set()
            assert {answer.body for answer in await work} == {b"old"}
            assert told(await client.request(get("/"))) == ("Hit", b"new")


async def test_it_outlives_a_reload() -> None:
    origin = Origin()
    async with RawServer(origin) as upstream:
        text = routed(upstream.url, policies=CACHED)
        async with running_gateway(text) as gateway:
            assert told(await gateway.get())[0] == "Miss"
            gateway.swap(text)
            assert told(await gateway.get())[0] == "Hit"


# ── in Redis ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(REDIS is None, reason="there is no redis-server")
async def test_two_gateways_share_a_redis(tmp_path: Path) -> None:
    assert REDIS is not None
    origin = Origin(before=(Wait(0.1),))

    def scripted(asked: RawRequest) -> Script:
        return origin(asked) if asked.method == "GET" else Script([Send(head(204))], End.KEEP)

    async with running_redis(REDIS, tmp_path) as redis, RawServer(scripted) as upstream:
        caches = [ResponseCaches(redis.url, 1 << 20, 1 << 18) for _ in range(2)]
        text = routed(upstream.url, policies=CACHED)
        async with (
            running_gateway(text, response_cache=caches[0].open) as one,
            running_gateway(text, response_cache=caches[1].open) as other,
        ):
            answers = await all_at_once(one, 100)
            assert sorted(told(answer)[0] for answer in answers) == ["Hit"] * 99 + ["Miss"]
            assert {told(answer) for answer in await all_at_once(other, 20)} == {("Hit", b"answer 1")}
            assert origin.asked == 1
            async with await one.connect() as client:
                await client.request(request("DELETE", "/"))
                assert told(await client.request(get("/"))) == ("Miss", b"answer 2")
            # The other may ask before the new one is written, but never finds the old one.
            assert (await other.get()).body in (b"answer 2", b"answer 3")
            await redis.stop()
            # A Redis that has gone is a cache that has nothing.
            before = origin.asked
            assert told(await one.get())[0] == "Miss"
            assert origin.asked == before + 1
            assert {told(answer)[0] for answer in await all_at_once(one, 20)} <= {"Miss", "Hit"}
        for cache in caches:
            await cache.close()


# ── the whole gateway ────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(REDIS is None, reason="there is no redis-server")
async def test_a_gateway_in_front_of_a_redis(tmp_path: Path) -> None:
    assert REDIS is not None
    origin = Origin()
    async with running_redis(REDIS, tmp_path) as redis, RawServer(origin) as upstream:
        text = routed(upstream.url, policies=CACHED, top=f"cache: {redis.url}")
        for expected in (["Miss", "Hit"], ["Hit", "Hit"]):
            async with running_program(tmp_path, text) as program:
                async with await program.connect() as client:
                    assert await twice(client, get("/")) == expected
                program.signal(signal.SIGTERM)
                assert await program.ended() == 0
        assert origin.asked == 1


async def test_a_reload_may_bring_the_first_cache(tmp_path: Path) -> None:
    origin = Origin()
    async with RawServer(origin) as upstream, running_program(tmp_path, routed(upstream.url)) as program:
        async with await program.connect() as client:
            assert told(await client.request(get("/"))) == ("", b"answer 1")
        text = settled(tmp_path, routed(upstream.url, policies=CACHED))
        program.config.write_text(text, "utf-8")
        program.signal(signal.SIGHUP)
        await program.event("config_loaded")
        async with await program.connect() as client:
            assert await twice(client, get("/")) == ["Miss", "Hit"]
        assert [
            await program.metric("postern_cache_total", route="all", result=result) for result in ("miss", "hit")
        ] == [
            1,
            1,
        ]
        program.config.write_text(text + "cache: {size: 8MiB}\n", "utf-8")
        program.signal(signal.SIGHUP)
        assert (await program.event("config_needs_restart"))["settings"] == ["cache"]
        async with await program.connect() as client:
            assert told(await client.request(get("/"))) == ("Hit", b"answer 2")
