"""Malformed and hostile upstream responses: what the client sees, and that all others get their own.

While each is played another request waits on the same upstream for its answer; afterwards requests on another
connection, through the same pool, and on the client's own connection get theirs.
"""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from tests.integration.gateways import Client, Response, eventually, get, proxied, request
from tests.integration.malformed_responses import ROWS, Row, Sees
from upstream_stub.misbehaviours import head
from upstream_stub.raw import RawRequest
from upstream_stub.steps import End, Script, Send, Step, Until, Wait

TEXT = "An invalid response was received from the upstream server"
#: Between two pieces of a response, in seconds.
PAUSE = Wait(0.02)


def in_pieces(data: bytes) -> list[bytes]:
    """A response cut where a reader that looks at one piece alone would go wrong: at each end of a line, and inside."""
    if len(data) > 1000:
        return [data]
    pieces, rest = [], data
    while rest:
        end = rest.find(b"\r\n", 3)
        size = end + 1 if end >= 0 else max(1, len(rest) // 2)
        pieces.append(rest[:size])
        rest = rest[size:]
    return pieces


def own(request: RawRequest) -> list[Step]:
    """The answer that belongs to a request and to no other."""
    body = request.target.encode()
    return [Send(head(200, f"Content-Length: {len(body)}", f"X-For: {request.target}") + body)]


def test_the_table_is_a_table() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names) >= 60


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_a_malformed_response(row: Row, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    await played(row, dribbled=False)
    assert [record.getMessage() for record in caplog.records if record.name.startswith("postern")] == []


async def test_a_malformed_response_that_comes_in_pieces() -> None:
    """The whole table again, each row cut at the ends of its lines: in one test, because it is mostly waiting."""
    some = asyncio.Semaphore(16)

    async def one(row: Row) -> None:
        async with some:
            try:
                await played(row, dribbled=True)
            except Exception as error:
                error.add_note(f"the row: {row.name}")
                raise

    async with asyncio.TaskGroup() as group:
        for row in ROWS:
            group.create_task(one(row))


async def played(row: Row, *, dribbled: bool) -> None:
    """Play a row to a client, with a bystander, a neighbour and a successor on the same upstream."""
    released = asyncio.Event()

    def scripted(request: RawRequest) -> Script:
        if request.target == "/held":
            return Script([Until(released), *own(request)], End.KEEP)
        if request.target != "/malformed":
            return Script(own(request), End.KEEP)
        steps: list[Step] = []
        for piece in row.pieces:
            if steps:
                steps.append(PAUSE)
            for part in in_pieces(piece) if dribbled else [piece]:
                steps += [Send(part), Wait(0.002 if dribbled else 0)]
        return Script([*steps, PAUSE] if row.end is End.RESET else steps, row.end)

    async with (
        proxied(scripted, service="read_timeout: 5s") as (upstream, gateway),
        await gateway.connect() as bystander,
        await gateway.connect() as client,
        await gateway.connect() as other,
    ):
        bystander.send(get("/held"))
        await eventually(lambda: len(upstream.requests) == 1)

        still_open = await observe(row, client)
        if not row.kept:
            await eventually(lambda: len(upstream.open) == 1)
        asked = upstream.requests[1].connection

        assert own_answer(await other.request(get("/next")), "/next")
        assert (upstream.requests[-1].connection == asked) is row.kept
        if still_open:
            assert own_answer(await client.request(get("/again")), "/again")
        released.set()
        assert own_answer(await bystander.response(), "/held")
        assert own_answer(await gateway.get("/last"), "/last")
        await eventually(lambda: not gateway.plane.counts()["upstream", "active"])


def own_answer(response: Response, target: str) -> bool:
    return (response.status, response.headers.get("x-for"), response.body) == (200, target, target.encode())


async def observe(row: Row, client: Client) -> bool:
    """Ask, and look at what comes as the row says; True if the connection may carry another request."""
    client.send(request(row.method, "/malformed"))
    for _ in range(row.interims):
        interim = await client.response(row.method)
        assert 100 <= interim.status < 200
        assert not {"content-length", "transfer-encoding"} & interim.headers.keys()
    begun = await client.head()
    if row.sees is Sees.RELAYED:
        response = await client.body_of(begun, row.method)
        assert (response.status, response.body) == (row.status, row.body)
        assert "x-poisoned" not in response.headers
        if row.lines is not None:
            ours = {"via", "date", "content-length", "transfer-encoding"}
            given = [line for line in response.lines if line.partition(b":")[0].decode().lower() not in ours]
            assert given == list(row.lines)
        return True
    if begun.status == 502:
        response = await client.body_of(begun, row.method)
        assert row.method == "HEAD" or json.loads(response.body)["error"] == TEXT
        return True
    assert row.sees is Sees.CUT
    assert begun.status == 200
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await client.body_of(begun, row.method)
    return False


async def test_a_pool_survives_all_of_them_at_once() -> None:
    """Every row at the same time on one pool, good requests between them: no answer goes astray."""

    def scripted(request: RawRequest) -> Script:
        number = request.header("X-Row")
        if number is None:
            return Script(own(request), End.KEEP)
        row = ROWS[int(number)]
        return Script([Send(b"".join(row.pieces))], row.end)

    async with proxied(scripted, service="read_timeout: 2s") as (_, gateway):

        async def bad(number: int) -> None:
            async with await gateway.connect(limit=1 << 20) as client:
                client.send(request(ROWS[number].method, "/malformed", f"X-Row: {number}"))
                try:
                    async with asyncio.timeout(0.3):
                        seen = await client.reader.read(-1)
                except (TimeoutError, ConnectionResetError):
                    return
                assert b"X-Poisoned" not in seen.partition(b"\r\n\r\n")[0]

        async def good(name: str) -> None:
            async with await gateway.connect() as client:
                for time in range(8):
                    assert own_answer(await client.request(get(f"/{name}/{time}")), f"/{name}/{time}")

        async with asyncio.timeout(30):
            for first in range(0, len(ROWS), 40):
                numbers = range(first, min(first + 40, len(ROWS)))
                await asyncio.gather(*(bad(number) for number in numbers), *(good(f"{n}") for n in numbers))
