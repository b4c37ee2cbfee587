"""Redis over TLS: whom it believes, by which name, and what is said of a certificate that is no use."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import uvloop

from gateway.core.errors import CountersError
from tests.certificates import Issued, authority, server_context, stranger
from tests.counters.redis.servers import PROGRAM, counting, demand, needs_redis, take
from tests.redis_server import running_redis

pytestmark = needs_redis

LIMIT = demand("k", "3/minute")


@asynccontextmanager
async def terminated(target: int, context: ssl.SSLContext) -> AsyncIterator[int]:
    """A port on which TLS is spoken for the server on `target`, which speaks none."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
        writer.close()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, ahead = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(pump(reader, ahead), pump(behind, writer))

    server = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize(
    ("names", "host", "query", "reason"),
    [
        (("127.0.0.1",), "127.0.0.1", "ssl_ca_certs={ca}", ""),
        (("redis.example",), "127.0.0.1", "ssl_ca_certs={ca}&ssl_server_name=redis.example", ""),
        (("redis.example",), "127.0.0.1", "ssl_ca_certs={ca}&ssl_check_hostname=false", ""),
        (("other.example",), "127.0.0.1", "ssl_cert_reqs=none", ""),
        (("redis.example",), "127.0.0.1", "ssl_ca_certs={ca}", "shows a certificate that is not believed"),
        (("127.0.0.1",), "127.0.0.1", "", "shows a certificate that is not believed"),
        (("127.0.0.1",), "127.0.0.1", "ssl_ca_certs={strangers}", "shows a certificate that is not believed"),
        (("127.0.0.1",), "127.0.0.1", "ssl_ca_certs=/no/such.pem", "there is no file /no/such.pem"),
        (("127.0.0.1",), "127.0.0.1", "ssl_ca_certs={key}", "the files for TLS are of no use"),
    ],
)
async def test_who_is_believed(tmp_path: Path, names: tuple[str, ...], host: str, query: str, reason: str) -> None:
    (tmp_path / "strangers").mkdir()
    own = authority().issue(tmp_path, *names)
    files = {"ca": authority().file(tmp_path), "strangers": stranger().file(tmp_path / "strangers"), "key": own.key}
    async with (
        running_redis(PROGRAM, tmp_path) as server,
        terminated(server.port, server_context(tmp_path, own)) as port,
        counting(f"rediss://{host}:{port}/2?{query.format(**files)}") as counters,
    ):
        if reason:
            with pytest.raises(CountersError, match=reason):
                await take(counters, LIMIT)
        else:
            verdicts = await asyncio.gather(*(take(counters, LIMIT) for _ in range(50)))
            assert sum(verdict.admitted for verdict in verdicts) == 3
            assert "db2:keys=2" in await server.say("INFO", "keyspace")


@pytest.mark.parametrize("shown", [True, False])
async def test_a_certificate_of_our_own(tmp_path: Path, shown: bool) -> None:
    own = authority().issue(tmp_path, "127.0.0.1")
    ours: Issued = authority().issue(tmp_path, "gateway.example", file="ours")
    context = server_context(tmp_path, own, client_certificates=True)
    query = f"ssl_ca_certs={authority().file(tmp_path)}"
    if shown:
        query += f"&ssl_certfile={ours.certificate}&ssl_keyfile={ours.key}"
    async with (
        running_redis(PROGRAM, tmp_path) as server,
        terminated(server.port, context) as port,
        counting(f"rediss://127.0.0.1:{port}?{query}") as counters,
    ):
        assert counters.up is shown
        if shown:
            assert (await take(counters, LIMIT)).admitted


async def test_a_server_that_speaks_no_tls(tmp_path: Path) -> None:
    async with (
        running_redis(PROGRAM, tmp_path) as server,
        counting(f"rediss://127.0.0.1:{server.port}?socket_connect_timeout=0.5", patient=False) as counters,
    ):
        assert not counters.up
        with pytest.raises(CountersError, match=r"cannot be (spoken to over TLS|reached)"):
            await take(counters, LIMIT)


@pytest.mark.parametrize("secure", [True, False])
def test_on_the_loop_that_serves(tmp_path: Path, secure: bool) -> None:
    """Connections are handed over by uvloop as they are by asyncio."""

    async def count() -> None:
        own = authority().issue(tmp_path, "127.0.0.1")
        async with (
            running_redis(PROGRAM, tmp_path) as server,
            terminated(server.port, server_context(tmp_path, own)) as port,
            counting(f"rediss://127.0.0.1:{port}?ssl_ca_certs={authority().file(tmp_path)}" if secure else server.url)
            as counters,
        ):  # fmt: skip
            verdicts = await asyncio.gather(*(take(counters, LIMIT) for _ in range(1000)))
            assert sum(verdict.admitted for verdict in verdicts) == 3

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(count())
