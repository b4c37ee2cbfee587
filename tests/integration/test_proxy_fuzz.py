"""Nonsense from both sides at once: nothing breaks inside, nothing is left behind, and good requests still pass.

The choices come from a seed, so that a failure can be looked at again; what arrives when is the kernel's affair.
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress

import pytest

from tests.integration.gateways import Gateway, chunked, eventually, get, request, routed, running_gateway
from upstream_stub.misbehaviours import BAD_FRAMING, chunk, head
from upstream_stub.raw import RawRequest, RawServer
from upstream_stub.steps import End, Script, Send, Step, Wait

REQUESTS = (
    get("/a"),
    get("/b", "Connection: close"),
    get("/c", version="1.0"),
    get("/%00"),
    request("HEAD", "/d"),
    request("DELETE", "/e"),
    request("POST", "/f", body=b"hello"),
    request("POST", "/g", "Transfer-Encoding: chunked") + chunked(b"abc", b"def"),
    request("PUT", "/h", "Expect: 100-continue", body=b"12345"),
    request("PUT", "/i", body=b"z" * 200_000),
)

RESPONSES = (
    head(200, "Content-Length: 2") + b"ok",
    head(200, "Transfer-Encoding: chunked") + chunk(b"abc") + b"0\r\n\r\n",
    head(200) + b"until close",
    head(200, "Connection: close", "Content-Length: 3") + b"abc",
    head(103) + head(200, "Content-Length: 0"),
    head(204),
    head(304),
    *BAD_FRAMING.values(),
)

SCRAPS = (b"\r\n", b"\n", b"\x00", b" ", b"5", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n",
          b"Connection: close\r\n", b"HTTP/1.1 100 Continue\r\n\r\n")  # fmt: skip

QUICK = "{header_timeout: 500ms, body_timeout: 500ms, idle_timeout: 700ms}"


def spoiled(chance: random.Random, data: bytes) -> bytes:
    """The bytes with up to three faults in them."""
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(data) + 1)
        data = chance.choice(
            [
                data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :],
                data[:at] + chance.choice(SCRAPS) + data[at:],
                data[:at] + data[at + chance.randrange(1, 5) :],
                data[:at],
                data + data[:1000],
            ]
        )
    return data


def in_pieces(chance: random.Random, data: bytes) -> list[bytes]:
    pieces = []
    while data:
        size = chance.randrange(1, len(data) + 1)
        pieces.append(data[:size])
        data = data[size:]
    return pieces


async def client(gateway: Gateway, chance: random.Random, rounds: int) -> None:
    for _ in range(rounds):
        # RuntimeError is what uvloop says of writing to a connection that is gone.
        with suppress(ConnectionError, TimeoutError, RuntimeError):
            async with await gateway.connect() as connection:
                data = b"".join(chance.choice(REQUESTS) for _ in range(chance.randrange(1, 6)))
                for piece in in_pieces(chance, spoiled(chance, data)):
                    connection.send(piece)
                    await asyncio.sleep(chance.choice([0, 0, 0.002]))
                manner = chance.random()
                if manner < 0.2:
                    connection.reset()
                    continue
                if manner < 0.4:
                    connection.writer.write_eof()
                async with asyncio.timeout(0.2 * chance.random()):
                    await connection.reader.read()


@pytest.mark.parametrize("seed", [1, 2])
async def test_nonsense_from_both_sides(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    chance = random.Random(seed)
    broken: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: broken.append(repr(context)))

    def scripted(request: RawRequest) -> Script:
        if request.target == "/good":
            return Script([Send(RESPONSES[0])], End.KEEP)
        steps: list[Step] = []
        for piece in in_pieces(chance, spoiled(chance, chance.choice(RESPONSES))):
            steps += [Send(piece), Wait(chance.choice([0, 0, 0.005]))]
        return Script(steps, chance.choice([End.KEEP, End.KEEP, End.KEEP, End.CLOSE, End.RESET, End.HANG]))

    caplog.set_level(logging.ERROR)
    async with RawServer(scripted) as upstream:
        text = routed(upstream.url, limits=QUICK, service="read_timeout: 500ms\nwrite_timeout: 500ms")
        async with running_gateway(text) as gateway:
            await asyncio.gather(*(client(gateway, chance, 60) for _ in range(8)))
            for _ in range(3):
                assert (await gateway.get("/good")).body == b"ok"
            await eventually(lambda: not gateway.plane.downstreams)
            await eventually(lambda: not gateway.plane.counts()["upstream", "active"])
    assert broken == []
    assert [record.getMessage() for record in caplog.records if record.name.startswith("postern")] == []
