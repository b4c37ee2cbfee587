"""`postern run --demo`: the stub LMS beside the gateway, and a curl line that answers 200.

The stub is a process of its own that ends with this one.  The request to show is the first of the
configuration's own `tests:` that a consumer is to get a 200 for.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gateway.analysis.judge import Carrier, Request
from gateway.analysis.offline import Rehearsal, carriers
from gateway.config.loader import Loaded
from gateway.config.model import Address, Config
from gateway.core.errors import StartError
from gateway.credentials.hashing import wait
from gateway.credentials.mint import mint_key
from gateway.store.keys import Keys

if TYPE_CHECKING:
    from gateway.app import App

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
#: Where a listener on every address is found from here.
_NEAR = {"0.0.0.0": "127.0.0.1", "::": "::1"}
#: How long the stub may take to start, and how long a demo's key lives, in seconds.
_PATIENCE = 15.0
_LIFE = 86400.0


class Demo:
    """Holds the stub's process for as long as the gateway runs."""

    def __init__(self) -> None:
        self._stub: asyncio.subprocess.Process | None = None
        self._output: asyncio.Task[None] | None = None

    async def start(self, app: App) -> None:
        """Start the stub and print the line.  Raises `StartError`."""
        await self._start_stub(app.config)
        found = await shown(app.loaded)
        if found is None:
            print("demo: no test of the configuration expects a 200 for a consumer, so there is no line to show")
            return
        username, target, carrier = found
        key = await _make_key(app, username)
        host = app.config.listen.proxy.host
        address = Address(_NEAR.get(host, host), app.port)
        line = curl(address, Request("GET", target).carrying(key.encode(), carrier))
        print(f"\nA key for {username}, good for a day. Try:\n\n  {line}\n", flush=True)

    async def _start_stub(self, config: Config) -> None:
        address = _stub_address(config)
        if address is None:
            print("demo: no service of the configuration is on this machine, so the stub LMS is not started")
            return
        host, port = address
        self._stub = stub = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "upstream_stub", "--host", host, "--port", str(port), "--exit-with-parent",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        assert stub.stdout is not None  # noqa: S101 - it was asked for
        try:
            line = await asyncio.wait_for(stub.stdout.readline(), _PATIENCE)
        except TimeoutError:
            line = b""
        if b"ready" not in line:
            raise StartError(f"the stub LMS did not start on {host}:{port}; is something else listening there?")
        print(line.decode(errors="replace").strip())
        self._output = asyncio.create_task(_discard(stub.stdout), name="stub output")


async def _discard(stream: asyncio.StreamReader) -> None:
    """Read what the stub says, so that it never waits for us."""
    while await stream.read(65536):
        continue


def _stub_address(config: Config) -> tuple[str, int] | None:
    for service in config.services:
        parts = urlsplit(service.address)
        if parts.scheme == "http" and parts.hostname in _LOOPBACK:
            return parts.hostname, parts.port or 80
    return None


async def shown(loaded: Loaded) -> tuple[str, str, Carrier] | None:
    """`(consumer, target, carrier)` of the request to show."""
    rehearsal, carrier_of = Rehearsal(loaded), carriers(loaded.config)
    for test in loaded.config.tests:
        if test.expect.status == 200 and test.as_ != "anonymous" and test.method == "GET":
            judgement = await rehearsal.judge(test.method, test.target, test.as_)
            if judgement.status == 200 and judgement.route is not None:
                return test.as_, test.target, carrier_of[judgement.route]
    return None


def curl(address: Address, request: Request) -> str:
    """The command that sends a request to the gateway at an address; a shell reads it as it is meant."""
    if "://" in request.target:
        # The URL that clients know: its host is said to the gateway, wherever that listens.
        parts = urlsplit(request.target)
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        request = replace(request, target=target, headers=((b"Host", parts.netloc.encode()), *request.headers))
    words = ["curl", "-i"]
    for name, value in request.headers:
        words += ["-H", f"{name.decode()}: {value.decode()}"]
    return shlex.join([*words, f"http://{address}{request.target}"])


async def _make_key(app: App, username: str) -> str:
    consumer = app.verifier.consumer(username)
    if consumer is None:
        raise StartError(f"the demo's consumer {username} is not declared")
    settings = app.verifier.rules
    minted = mint_key(settings.prefixes)
    hashed = await wait(app.hasher.hash(minted.secret, settings.bcrypt_rounds))
    keys: Keys = app.store.keys
    await keys.create(consumer, minted.public, hashed, name="demo", expires_at=time.time() + _LIFE)
    await app.store.changes.catch_up()
    return minted.key
