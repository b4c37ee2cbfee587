"""The status listener (contract §1): `/metrics`, `/status` and `/status/ready`, on aiohttp.

It shows and never changes anything, needs no credential, and therefore listens on loopback by default.  What it
tells comes from a `StatusSource`; it decides nothing itself.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Protocol

from aiohttp import hdrs, web

import gateway
from gateway.core.answers import METHOD_NOT_ALLOWED, Answer, reason_phrase
from gateway.core.errors import cannot_listen
from gateway.telemetry.exposition import render
from gateway.telemetry.metrics import Reading
from gateway.telemetry.states import TargetStatus, WorkerStatus

#: A reading of more lines than this is rendered in a thread: it would hold up the event loop for milliseconds.
_INLINE_LINES = 500

#: How long a scraper may keep an idle connection, in seconds.
_KEEPALIVE = 75.0

#: How long an answer under way is waited for when the listener stops, in seconds.
_SHUTDOWN = 1.0

_NOT_FOUND = Answer(404, "Not found", "not_found")
_METHODS = frozenset({hdrs.METH_GET, hdrs.METH_HEAD})
_HEADERS = {"Cache-Control": "no-store", "Server": "postern", "X-Content-Type-Options": "nosniff"}


class Readings(Protocol):
    """Where `/metrics` comes from: the counts of this process (`Metrics`), or of all of the node (`NodeMetrics`)."""

    async def fresh(self) -> None:
        """Return when what `read` and the `StatusSource` tell is as of now, or cannot be had soon."""
        ...

    def read(self) -> Reading:
        """Everything at this moment."""
        ...


class StatusSource(Protocol):
    """What the status listener asks; every answer is known at once."""

    def not_ready(self) -> str | None:
        """Why no request should be sent here ("starting", "draining", ...), or None once they should."""
        ...

    def uptime(self) -> float:
        """Seconds since the gateway was started."""
        ...

    def config_hash(self) -> str:
        """The hash of the configuration in force, or "" where there is none yet."""
        ...

    def workers(self) -> Sequence[WorkerStatus]:
        """The processes that serve."""
        ...

    def targets(self) -> Sequence[TargetStatus]:
        """Every target of every service."""
        ...


class StatusServer:
    """The listener.  `start` it before the gateway is ready and `stop` it after the last request has drained."""

    def __init__(self, host: str, port: int, readings: Readings, state: StatusSource) -> None:
        """`host` and `port` as in `listen.status`; port 0 takes any free one."""
        self._host = host
        self._port = port
        self._readings = readings
        self._state = state
        self._runner: web.ServerRunner | None = None
        self._pages: dict[str, Callable[[web.BaseRequest], Awaitable[web.Response]]] = {
            "/metrics": self._show_metrics,
            "/status": self._show_status,
            "/status/ready": self._show_readiness,
        }

    @property
    def port(self) -> int:
        """The port that it listens on: the bound one, once started."""
        return self._port

    async def start(self) -> None:
        """Listen.  Raises `StartError` when the address cannot be had."""
        server = web.Server(self._answer, access_log=None, keepalive_timeout=_KEEPALIVE)
        runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except OSError as error:
            await runner.cleanup()
            raise cannot_listen("listen.status", self._host, self._port, error) from error
        self._runner = runner
        self._port = int(runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening; answers under way get a second to end."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        page = self._pages.get(request.path)
        if page is None:
            response = _refusal(_NOT_FOUND)
        elif request.method not in _METHODS:
            response = _refusal(METHOD_NOT_ALLOWED)
            response.headers["Allow"] = "GET, HEAD"
        else:
            response = await page(request)
        response.headers.update(_HEADERS)
        return response

    async def _show_metrics(self, request: web.BaseRequest) -> web.Response:
        await self._readings.fresh()
        reading = self._readings.read()
        accept = ",".join(request.headers.getall("Accept", ()))
        if reading.size > _INLINE_LINES:
            body, content_type = await asyncio.to_thread(render, reading, accept)
        else:
            body, content_type = render(reading, accept)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _show_status(self, _request: web.BaseRequest) -> web.Response:
        await self._readings.fresh()
        state = self._state
        return web.json_response(
            {
                "status": "ok",
                "version": gateway.__version__,
                "pid": os.getpid(),
                "uptime_seconds": round(state.uptime(), 3),
                "config_hash": state.config_hash(),
                "workers": [asdict(worker) for worker in state.workers()],
                "targets": [asdict(target) for target in state.targets()],
            }
        )

    async def _show_readiness(self, _request: web.BaseRequest) -> web.Response:
        reason = self._state.not_ready()
        if reason is None:
            return web.json_response({"ready": True})
        return web.json_response({"ready": False, "reason": reason}, status=503)


def _refusal(answer: Answer) -> web.Response:
    return web.json_response(
        {"error": answer.text, "status_code": answer.status, "reason": reason_phrase(answer.status)},
        status=answer.status,
    )
