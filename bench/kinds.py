"""The kinds of mixed traffic: what a client says, and what it must be told.  One function a kind, `KINDS` is the table.

What is served is compared byte by byte with what was asked for; what is refused, with the contract's status; a client
that goes away judges nothing: what it leaves behind is the run's to judge.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from bench.client import Answer, Connection, Kept, Unexpected, chunked, frame, read_frame, request
from bench.contestant import PATH

Kind = Callable[["Mix"], Awaitable[None]]

_PERIOD = 251
_SALT = "c2FsdCBvZiB0aGUgc29haw=="
ORIGIN = "https://learn.example.org"


def pattern(size: int) -> bytes:
    """The bytes of the stub's downloads: byte `i` is `i mod 251`."""
    return (bytes(range(_PERIOD)) * (size // _PERIOD + 1))[:size]


def expect(answer: Answer, *statuses: int) -> Answer:
    """The answer, if its status is one of these; raises Unexpected."""
    if answer.status not in statuses:
        raise Unexpected(f"{answer.status} in place of {'/'.join(map(str, statuses))}: {answer.body[:200]!r}")
    return answer


class Mix:
    """What the kinds of traffic share: the gateway's port, keys, kept connections, chance."""

    def __init__(self, port: int, tokens: Sequence[str], outsider: str, limited: str, seed: int) -> None:
        self.port = port
        self.outsider = f"Authorization: Bearer {outsider}"
        self.limited = f"Authorization: Bearer {limited}"
        self.chance = random.Random(seed)
        self.kept = Kept(port)
        self._tokens = tokens

    @property
    def key(self) -> str:
        """A header line with some good key."""
        return f"Authorization: Bearer {self.chance.choice(self._tokens)}"

    def body(self, most: int) -> bytes:
        """Some bytes, at least one."""
        return self.chance.randbytes(self.chance.randint(1, most))

    async def open(self, limit: int = 1 << 16) -> Connection:
        """A fresh connection."""
        return await Connection.open(self.port, limit)


# ── what is served ───────────────────────────────────────────────────────────────────────────


async def _get(mix: Mix) -> None:
    answer = expect(await mix.kept.ask(request("GET", PATH, mix.key)), 200)
    if b"api.content.read" not in answer.body or "ratelimit" not in answer.headers:
        raise Unexpected(f"not the content: {answer!r}"[:300])


async def _get_on_a_fresh_connection(mix: Mix) -> None:
    connection = await mix.open()
    expect(await connection.ask(request("GET", PATH, mix.key, "Connection: close")), 200)
    if await connection.reader.read():
        raise Unexpected("more than the answer")
    connection.close()


async def _head(mix: Mix) -> None:
    expect(await mix.kept.ask(request("HEAD", PATH, mix.key), "HEAD"), 200)


def _received(answer: Answer, body: bytes) -> None:
    expect(answer, 201)
    if json.loads(answer.body) != {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}:
        raise Unexpected(f"another body arrived: {answer.body[:200]!r}")


async def _upload(mix: Mix) -> None:
    body = mix.body(64 << 10)
    _received(await mix.kept.ask(request("POST", "/api/upload", mix.key, body=body)), body)


async def _upload_a_lot(mix: Mix) -> None:
    body = mix.chance.randbytes(1 << 20)
    _received(await mix.kept.ask(request("POST", "/api/upload", mix.key, body=body)), body)


async def _upload_in_chunks(mix: Mix) -> None:
    body = mix.body(128 << 10)
    said = request("PUT", "/api/upload", mix.key, "Transfer-Encoding: chunked")
    _received(await mix.kept.ask(said + chunked(body, mix.chance.randint(1000, 70000))), body)


async def _upload_when_told_to(mix: Mix) -> None:
    body, connection = mix.body(10_000), await mix.open()
    lines = (mix.key, "Expect: 100-continue", f"Content-Length: {len(body)}")
    expect(await connection.ask(request("POST", "/api/upload", *lines)), 100)
    _received(await connection.ask(body), body)
    connection.close()


async def _download_in_chunks(mix: Mix) -> None:
    size = mix.chance.randint(1, 400_000)
    answer = expect(await mix.kept.ask(request("GET", f"/api/download/{size}?chunked", mix.key)), 200)
    if answer.body != pattern(size):
        raise Unexpected(f"{len(answer.body)} of {size} bytes, or others")


async def _download_slowly(mix: Mix) -> None:
    size, connection = 1 << 20, await mix.open(16 << 10)
    connection.writer.write(request("GET", f"/api/download/{size}", mix.key))
    expect(await connection.head(), 200)
    read = bytearray()
    while len(read) < size and (more := await connection.reader.read(64 << 10)):
        read += more
        await asyncio.sleep(0.03)
    if read != pattern(size):
        raise Unexpected(f"{len(read)} of {size} bytes, or others")
    connection.close()


async def _part(mix: Mix) -> None:
    answer = expect(await mix.kept.ask(request("GET", "/api/files/handbook", mix.key, "Range: bytes=100-1099")), 206)
    if answer.body != pattern(1100)[100:]:
        raise Unexpected("another part")


async def _not_modified(mix: Mix) -> None:
    expect(await mix.kept.ask(request("GET", "/api/files/handbook", mix.key, 'If-None-Match: "100000"')), 304)


async def _cached(mix: Mix) -> None:
    answer = expect(await mix.kept.ask(request("GET", f"/api/courses?n={mix.chance.randrange(20)}", mix.key)), 200)
    if "x-cache-status" not in answer.headers:
        raise Unexpected("the cache was not asked")


async def _pipelined(mix: Mix) -> None:
    connection, sizes = await mix.open(), [mix.chance.randint(1, 5000) for _ in range(4)]
    connection.writer.write(b"".join(request("GET", f"/api/download/{size}", mix.key) for size in sizes))
    for size in sizes:
        if expect(await connection.answer(), 200).body != pattern(size):
            raise Unexpected("answers out of order")
    connection.close()


async def _events(mix: Mix) -> None:
    connection = await mix.open()
    answer = expect(await connection.ask(request("GET", "/events?count=4&interval=0.2", mix.key)), 200)
    if answer.body.count(b"event: tick") != 4:
        raise Unexpected(f"other events: {answer.body[:200]!r}")
    connection.close()


async def _web_socket(mix: Mix) -> None:
    connection = await mix.open()
    lines = ("Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {_SALT}", "Sec-WebSocket-Version: 13")
    connection.writer.write(request("GET", "/ws", mix.key, *lines))
    expect(await connection.head(), 101)
    for size in (5, 300, 70_000):
        payload = mix.chance.randbytes(size)
        connection.writer.write(frame(2, payload))
        if await read_frame(connection.reader) != (2, payload):
            raise Unexpected("another message")
    connection.writer.write(frame(8, b"\x03\xe8"))
    if (await read_frame(connection.reader))[0] != 8:
        raise Unexpected("not closed")
    connection.close()


# ── what is refused, or answered by the gateway ──────────────────────────────────────────────


async def _without_a_key(mix: Mix) -> None:
    expect(await mix.kept.ask(request("GET", PATH)), 401)


async def _with_a_wrong_secret(mix: Mix) -> None:
    expect(await mix.kept.ask(request("GET", PATH, mix.key + mix.chance.randbytes(4).hex())), 401)


async def _of_another_group(mix: Mix) -> None:
    expect(await mix.kept.ask(request("GET", PATH, mix.outsider)), 403)


async def _of_another_organization(mix: Mix) -> None:
    expect(await mix.kept.ask(request("GET", "/echo/schools/shelbyville", mix.key)), 403)


async def _of_its_organization(mix: Mix) -> None:
    expect(await mix.kept.ask(request("GET", "/echo/schools/springfield", mix.key)), 200)


async def _of_nothing(mix: Mix) -> None:
    expect(await mix.kept.ask(request("GET", f"/nothing/{mix.chance.randrange(1000)}", mix.key)), 404)


async def _past_its_limit(mix: Mix) -> None:
    answer = expect(await mix.kept.ask(request("GET", "/echo/limited", mix.limited)), 200, 429)
    if answer.status == 429 and "retry-after" not in answer.headers:
        raise Unexpected("429 without Retry-After")


async def _too_large(mix: Mix) -> None:
    connection = await mix.open()
    connection.writer.write(request("POST", "/api/upload", mix.key, "Content-Length: 99999999"))
    expect(await connection.answer(), 413)
    connection.close()


async def _malformed(mix: Mix) -> None:
    connection = await mix.open()
    expect(await connection.ask(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), 400)
    connection.close()


async def _preflight(mix: Mix) -> None:
    lines = (f"Origin: {ORIGIN}", "Access-Control-Request-Method: GET")
    answer = expect(await mix.kept.ask(request("OPTIONS", PATH, *lines)), 200, 204)
    if answer.headers.get("access-control-allow-origin") != ORIGIN:
        raise Unexpected("a preflight without its answer")


async def _ping(mix: Mix) -> None:
    if expect(await mix.kept.ask(request("GET", "/ping")), 200).body != b"pong":
        raise Unexpected("another body")


# ── clients that go away ─────────────────────────────────────────────────────────────────────


async def _gone_in_its_head(mix: Mix) -> None:
    connection = await mix.open()
    connection.writer.write(request("GET", PATH, mix.key)[:-7])
    await asyncio.sleep(0.01)
    connection.close()


async def _gone_in_its_body(mix: Mix) -> None:
    connection = await mix.open()
    connection.writer.write(request("POST", "/api/upload", mix.key, "Content-Length: 50000") + bytes(20_000))
    await asyncio.sleep(mix.chance.random() * 0.02)
    if mix.chance.random() < 0.5:
        connection.vanish()
    else:
        connection.close()


async def _gone_before_its_answer(mix: Mix) -> None:
    connection = await mix.open()
    connection.writer.write(request("GET", "/echo?delay=0.2", mix.key))
    await asyncio.sleep(mix.chance.random() * 0.05)
    connection.vanish()


async def _gone_in_its_answer(mix: Mix) -> None:
    connection = await mix.open()
    connection.writer.write(request("GET", "/api/download/3000000?chunked", mix.key))
    expect(await connection.head(), 200)
    await connection.reader.readexactly(mix.chance.randint(1, 100_000))
    connection.vanish()


#: How often each comes, as weights.
KINDS: Final[dict[Kind, int]] = {
    _get: 24, _get_on_a_fresh_connection: 10, _head: 3, _upload: 10, _upload_a_lot: 1, _upload_in_chunks: 6,
    _upload_when_told_to: 2, _download_in_chunks: 5, _download_slowly: 1, _part: 2, _not_modified: 2, _cached: 5,
    _pipelined: 2, _events: 1, _web_socket: 2, _without_a_key: 3, _with_a_wrong_secret: 1, _of_another_group: 3,
    _of_another_organization: 1, _of_its_organization: 2, _of_nothing: 3, _past_its_limit: 2, _too_large: 1,
    _malformed: 1, _preflight: 2, _ping: 2, _gone_in_its_head: 1, _gone_in_its_body: 2, _gone_before_its_answer: 1,
    _gone_in_its_answer: 2,
}  # fmt: skip
