"""The corpus of requests over real sockets: what is illegal is refused and reaches nobody, what is legal arrives once.

The upstream reads with the strict reference of `tests/proxy/strict.py`, and so does the expectation: the gateway's own
parsers judge nothing here.  The named cases are all played, of the spoiled ones every third (all of them pass
through the parsers in `tests/proxy/test_request_corpus.py`).
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import cast
from urllib.parse import unquote_to_bytes

import pytest

from gateway.core import answers
from tests.integration.gateways import PATIENCE, Gateway, routed, running_gateway
from tests.proxy import strict
from tests.proxy.corpus import Case, named, numbered, spoiled

#: What the gateway may answer by itself to a request that is illegal (contract §4).
CONTRACT = {answer.status: answer.text for answer in vars(answers).values() if isinstance(answer, answers.Answer)}

#: Written by the gateway or meant for it alone: not compared.
OWN = re.compile(
    rb"(?i)(?:connection|keep.alive|proxy.connection|proxy.authenticate|proxy.authorization|te|trailer|upgrade|proxy"
    rb"|http2.settings|host|content.length|transfer.encoding|expect|x.request.id|traceparent|via|x.real.ip"
    rb"|x.forwarded.(?:for|proto|host|port))"
)
#: Must never come from a client, in any spelling.
FORGED = re.compile(
    rb"(?i)[^a-z0-9]?x[^a-z0-9](?:consumer.(?:id|username|custom.id|groups)|credential.identifier|anonymous.consumer"
    rb"|organization.id|authenticated.(?:scope|userid))[^a-z0-9]?"
)
#: Mean nothing behind a body.
NO_TRAILERS = re.compile(OWN.pattern + rb"|(?i:authorization|x.original.url|x.forwarded.*)")


#: Another corpus of the kind, if the machine has one.
CORPUS = Path("../shared/cases/http1/corpus.jsonl")


@dataclass(frozen=True)
class Seen:
    """What matters of a request, whoever wrote it down."""

    method: bytes
    target: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes
    trailers: tuple[tuple[bytes, bytes], ...]


def as_seen(request: strict.Request) -> Seen:
    """A request without what belongs to a hop, its path in one spelling."""
    path, question, query = request.target.partition(b"?")
    target = re.sub(rb"/+", b"/", unquote_to_bytes(path)) + question + query

    def kept(fields: Sequence[tuple[bytes, bytes]], dropped: re.Pattern[bytes]) -> tuple[tuple[bytes, bytes], ...]:
        return tuple(
            (name.lower(), value)
            for name, value in fields
            if not dropped.fullmatch(name) and not is_forged(name) and name.lower() not in request.options
        )

    return Seen(request.method, target, kept(request.fields, OWN), request.body, kept(request.trailers, NO_TRAILERS))


def is_forged(name: bytes) -> bool:
    """Would a CGI server read this as one of the names of contract §3?"""
    return FORGED.fullmatch(name) is not None and not name.startswith(b"-") and not name.endswith(b"_")


def own_answer(request: strict.Request) -> bool:
    """Is it for the gateway to answer?"""
    return request.target == b"*"


def number_of(begun: bytes) -> bytes:
    """The number of the case that a request belongs to, where it bears one."""
    found = re.search(rb"X-Case: (.*)\r\n", begun)
    return found[1] if found is not None else b""


class Upstream(asyncio.Protocol):
    """Reads with the reference, and answers each whole request with its case's number."""

    def __init__(self, seen: list[strict.Request], wrong: list[str], cut: list[bytes]) -> None:
        self.seen, self.wrong, self.cut = seen, wrong, cut
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        found, malformed, self.buffer = strict.read_all(self.buffer, fields=200)  # ours come on top
        for request in found:
            self.seen.append(request)
            number = b"".join(request.values(b"x-case")) or b"none"
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-Case: %b\r\n\r\n" % (len(number), number)
            self.transport.write(answer if request.method == b"HEAD" else answer + number)
        if malformed is not None:
            self.wrong.append(f"{malformed}: {data[:300]!r}")
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.buffer:
            self.cut.append(number_of(self.buffer))


@dataclass(frozen=True)
class Answer:
    """One response as the client sees it."""

    status: int
    number: bytes
    text: str
    closes: bool


def answers_in(data: bytes, methods: Sequence[bytes]) -> list[Answer]:
    """The responses on a connection, each framed by its length; fails on anything else."""
    found = []
    for at in range(64):
        if not data:
            break
        head, ended, data = data.partition(b"\r\n\r\n")
        assert ended, head
        first, *lines = head.split(b"\r\n")
        assert re.fullmatch(rb"HTTP/1\.1 [1-9][0-9][0-9] [ -~]*", first), first
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        status = int(first[9:12])
        bodiless = status < 200 or status == 204 or (at < len(methods) and methods[at] == b"HEAD")
        size = 0 if bodiless else int(fields[b"content-length"])
        body, data = data[:size], data[size:]
        assert len(body) == size or (not body and at == len(methods))  # the refusal of a HEAD
        if status >= 200:
            found.append(
                Answer(
                    status, fields.get(b"x-case", b""), body.decode("latin-1"), fields.get(b"connection") == b"close"
                )
            )
    return found


async def say(gateway: Gateway, raw: bytes, *, half_close: bool) -> bytes:
    """Everything that the gateway says to these bytes, to the end of the connection."""
    async with await gateway.connect() as client:
        client.send(raw)
        if half_close:
            client.writer.write_eof()
        async with asyncio.timeout(PATIENCE):
            return await client.reader.read()


async def check(gateway: Gateway, case: Case, wanted: list[Seen], unfinished: list[bytes]) -> None:
    """Play one case; what the upstream must see of it is added to `wanted`, what has no end to `unfinished`."""
    found, malformed, left = strict.read_all(case.raw)
    if b"\r\n\r\n" in left:
        unfinished.append(number_of(left))
    forwarded = [request for request in found if not own_answer(request)]
    wanted += [as_seen(request) for request in forwarded]
    # A refusal closes by itself; whoever has said everything legal says so.
    said = await say(gateway, case.raw, half_close=malformed is None)
    seen = answers_in(said, [request.method for request in found])
    relayed = [answer.number for answer in seen if answer.number]
    assert relayed == [b"".join(request.values(b"x-case")) or b"none" for request in forwarded]
    refusals = [answer for answer in seen[len(found) :] if not answer.number]
    if malformed is not None:
        (refusal,) = refusals
        assert refusal.status in (malformed.status, *((414, 431, 501, 505) if malformed.status == 400 else ()))
        assert refusal.closes
        assert CONTRACT[refusal.status] in refusal.text or (not refusal.text and b"HEAD" in case.raw)
    else:
        assert all(refusal.status == 400 for refusal in refusals)


def foreign(before: bytes = b"") -> list[Case]:
    """A corpus that others have gathered, where there is one: `{"id": …, "raw_hex": …}` a line."""
    if not CORPUS.exists():
        return []
    rows = [json.loads(line) for line in CORPUS.read_text("ascii").splitlines()]
    return [Case(row["id"], before + bytes.fromhex(row["raw_hex"])) for row in rows]


FIRST = b"POST /first HTTP/1.1\r\nHost: lms\r\nX-Case: 000000\r\nContent-Length: 5\r\n\r\nhello"


@pytest.mark.parametrize(
    "cases",
    [
        numbered(named()),
        list(islice(iter(numbered(spoiled())), 0, None, 3)),
        pytest.param(foreign(), marks=pytest.mark.skipif(not CORPUS.exists(), reason=f"{CORPUS} is not here")),
        pytest.param(foreign(FIRST), marks=pytest.mark.skipif(not CORPUS.exists(), reason=f"{CORPUS} is not here")),
    ],
    ids=["named", "spoiled", "foreign", "foreign-on-a-kept-connection"],
)
async def test_the_corpus(cases: list[Case]) -> None:
    seen: list[strict.Request] = []
    violations: list[str] = []
    wanted: list[Seen] = []
    unfinished: list[bytes] = []
    cut: list[bytes] = []
    failures: list[str] = []
    server = await asyncio.get_running_loop().create_server(lambda: Upstream(seen, violations, cut), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    queue = iter(cases)
    async with server, running_gateway(routed(url)) as gateway:

        async def player() -> None:
            for case in queue:
                try:
                    await check(gateway, case, wanted, unfinished)
                except (AssertionError, OSError, ValueError, TimeoutError) as error:
                    failures.append(f"{case.name}: {error!r} {case.raw[:200]!r}")

        await asyncio.gather(*(player() for _ in range(16)))
    assert not failures, f"{len(failures)} of {len(cases)}\n" + "\n".join(failures[:20])
    assert violations == []
    # A request whose client went away in the middle of its body is cut; one that was refused has not even begun.
    assert not Counter(cut) - Counter(unfinished)
    arrived = [as_seen(request) for request in seen]
    assert [name for request in seen for name, _ in (*request.fields, *request.trailers) if is_forged(name)] == []
    assert Counter(arrived) == Counter(wanted)
