"""TLS in a running gateway: certificates renewed on disk, broken ones, drains; and what a process says of all that."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from tests.certificates import Issued, authority, client_context, stranger
from tests.integration.gateways import Client, Gateway, eventually, get, routed, running_gateway
from tests.integration.programs import PATIENCE, ROOT, Program, launch, running_program
from tests.integration.test_listener_tls import ok, shown, tls
from tests.integration.test_proxy_life import slow
from upstream_stub.raw import RawServer


async def secure(program: Program, context: ssl.SSLContext) -> Client:
    return Client(
        *await asyncio.open_connection("127.0.0.1", program.proxy, ssl=context, server_hostname="lms.example.org")
    )


@pytest.fixture
def issued(tmp_path: Path) -> Issued:
    return authority().issue(tmp_path, "lms.example.org")


def replaced(file: Path, content: bytes) -> None:
    """As careful writers do: another file takes its place at once."""
    new = file.with_suffix(".new")
    new.write_bytes(content)
    new.replace(file)


async def test_a_certificate_is_renewed_on_disk(tmp_path: Path, issued: Issued) -> None:
    context = client_context(tmp_path)
    async with (
        RawServer(ok) as upstream,
        running_program(tmp_path, routed(upstream.url, top=tls(issued))) as program,
        await secure(program, context) as standing,
    ):
        assert (await standing.request(get())).status == 200
        # First the certificate, whose key is not there yet: what is in force stays, and the log says what is wrong.
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        renewed = authority().issue(elsewhere, "lms.example.org")
        replaced(issued.certificate, renewed.certificate.read_bytes())
        refused = await program.event("config_refused")
        problems = str(refused["problems"])
        assert "tls.certificates[0].key: is not the key of this certificate" in problems
        assert problems.startswith(f"['{program.config}:")
        assert await program.metric("postern_config_last_reload_success") == 0
        async with await secure(program, context) as client:
            assert shown(client) == issued.serial
        # Then the key.
        replaced(issued.key, renewed.key.read_bytes())
        await program.event("config_loaded")
        assert await program.metric("postern_config_last_reload_success") == 1
        async with await secure(program, context) as client:
            assert shown(client) == renewed.serial
            assert (await client.request(get())).status == 200
        assert shown(standing) == issued.serial
        assert (await standing.request(get())).status == 200
        # And by hand, with a file that is gone.
        issued.key.unlink()
        program.signal(signal.SIGHUP)
        refused = await program.event("config_refused", 2)
        assert "tls.certificates[0].key: cannot be read: no such file" in str(refused["problems"])
        assert (await standing.request(get())).status == 200
        assert "PRIVATE KEY" not in str(program.events)


async def test_certificates_behind_a_symbolic_link(tmp_path: Path) -> None:
    """As Kubernetes mounts secrets: the folder behind a link is another one from one moment to the next."""
    folders = [tmp_path / "1", tmp_path / "2"]
    for folder in folders:
        folder.mkdir()
    serials = [authority().issue(folder, "lms.example.org").serial for folder in folders]
    link = tmp_path / "data"
    link.symlink_to(folders[0])
    # Relative paths start at the configuration's folder.
    linked = Issued(Path("data/leaf.crt"), Path("data/leaf.key"), 0)
    context = client_context(tmp_path)
    async with (
        RawServer(ok) as upstream,
        running_program(tmp_path, routed(upstream.url, top=tls(linked))) as program,
    ):
        async with await secure(program, context) as client:
            assert shown(client) == serials[0]
        new = tmp_path / "new"
        new.symlink_to(folders[1])
        new.replace(link)
        await program.event("config_loaded")
        async with await secure(program, context) as client:
            assert shown(client) == serials[1]


async def test_a_drain_finishes_what_is_under_way(tmp_path: Path, issued: Issued) -> None:
    context = client_context(tmp_path)
    async with (
        RawServer(lambda request: slow(request) if request.target == "/slow" else ok(request)) as upstream,
        running_program(tmp_path, routed(upstream.url, top=tls(issued))) as program,
    ):
        busy, idle = await secure(program, context), await secure(program, context)
        begun = Client(*await asyncio.open_connection("127.0.0.1", program.proxy))
        assert (await idle.request(get())).status == 200
        busy.send(get("/slow"))
        await busy.head()
        program.signal(signal.SIGTERM)
        assert await idle.ended() == "closed"
        assert await begun.ended() in ("closed", "reset")
        assert await busy.reader.readexactly(4) == b"abcd"
        assert await busy.ended() == "closed"
        assert await program.ended() == 0
        assert (await program.event("drained"))["clean"] is True


async def test_a_handshake_that_has_begun_comes_to_its_request(issued: Issued, tmp_path: Path) -> None:
    """And one that has said nothing is closed, however long its time for a handshake."""
    context = client_context(tmp_path)
    async with RawServer(ok) as upstream:
        text = routed(upstream.url, top=tls(issued), limits="{header_timeout: 1h}")
        async with running_gateway(text) as gateway:
            silent = Client(*await asyncio.open_connection("127.0.0.1", gateway.port))
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            hello = context.wrap_bio(incoming, outgoing, server_hostname="lms.example.org")
            with pytest.raises(ssl.SSLWantReadError):
                hello.do_handshake()
            first = outgoing.read()
            writer.write(first[:20])
            await eventually(lambda: gateway.listener.greeting == 2 and _begun(gateway) == 1)
            draining = asyncio.create_task(gateway.plane.drain(PATIENCE, idle=0.05))
            assert await silent.ended() == "closed"
            writer.write(first[20:])
            while True:
                try:
                    hello.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    writer.write(outgoing.read())
                    incoming.write(await reader.read(65536))
            hello.write(get())
            writer.write(outgoing.read())
            answer = b""
            while b"\r\n\r\n" not in answer:
                incoming.write(await reader.read(65536))
                with contextlib.suppress(ssl.SSLWantReadError):
                    while piece := hello.read(65536):
                        answer += piece
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b"\r\nConnection: close\r\n" in answer
            writer.close()
            assert await draining


def _begun(gateway: Gateway) -> int:
    return sum(greeting.begun for greeter in gateway.plane.greeters for greeting in greeter._pending)


async def test_handshakes_that_fail_are_not_talked_about(tmp_path: Path, issued: Issued) -> None:
    """Not even those that break in the middle of OpenSSL's question for a certificate."""
    other = stranger().issue(tmp_path, "other.example.org", file="other")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = client_context(tmp_path).wrap_bio(incoming, outgoing, server_hostname="other.example.org")
    with pytest.raises(ssl.SSLWantReadError):
        hello.do_handshake()
    said = outgoing.read().replace(b"other.example.org", b"other.example.or\xff")
    async with (
        RawServer(ok) as upstream,
        running_program(tmp_path, routed(upstream.url, top=tls(issued, other))) as program,
    ):
        for data in (said, said[:50], get(), b""):
            async with await program.connect() as client:
                client.send(data)
                client.writer.write_eof()
                await client.reader.read()
        async with await secure(program, client_context(tmp_path)) as client:
            assert (await client.request(get())).status == 200
        program.signal(signal.SIGTERM)
        assert await program.ended() == 0
        assert [event for event in program.events if event["event"] == "text" or event["level"] != "info"] == []


async def test_the_proxy_protocol_is_read_by_the_program(tmp_path: Path) -> None:
    async with RawServer(ok) as upstream:
        listen = 'proxy: "127.0.0.1:0", status: "127.0.0.1:0", proxy_protocol: on, proxy_protocol_from: [127.0.0.1]'
        config = tmp_path / "config.yaml"
        text = routed(upstream.url, top=f"listen: {{{listen}}}\nstore: sqlite:///{tmp_path}/data/postern.db")
        config.write_text(text, "utf-8")
        process = await launch(config)
        try:
            assert process.stdout is not None
            async for line in process.stdout:
                if b'"ready"' in line:
                    break
            port = int(line.split(b'"proxy": "127.0.0.1:')[1].split(b'"')[0])
            async with Client(*await asyncio.open_connection("127.0.0.1", port)) as client:
                assert (await client.request(b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n" + get())).status == 200
            assert upstream.requests[0].header("X-Forwarded-For") == "2001:db8::7"
        finally:
            process.terminate()
            await process.communicate()


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_file_that_cannot_be_used_is_bad_input(tmp_path: Path, command: str, issued: Issued) -> None:
    issued.key.write_bytes(b"hunter2")
    config = tmp_path / "config.yaml"
    config.write_text(tls(issued), "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "gateway", command, "--config", str(config)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 2
    assert f"{config}:2:" in done.stderr
    assert "tls.certificates[0].key: holds no private key in PEM form" in done.stderr
    assert "hunter2" not in done.stderr
