"""The status listener over a real socket: what Kubernetes, Prometheus and an operator get."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

import gateway
from gateway.core.errors import StartError
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.states import AddressStatus, TargetStatus, WorkerStatus
from gateway.telemetry.status import StatusServer


@dataclass
class State:
    """A `StatusSource` to be told what to say."""

    reason: str | None = None
    targets_now: list[TargetStatus] = field(default_factory=list)

    def not_ready(self) -> str | None:
        return self.reason

    def uptime(self) -> float:
        return 12.3456

    def config_hash(self) -> str:
        return "abc123"

    def workers(self) -> Sequence[WorkerStatus]:
        return [WorkerStatus(os.getpid(), "abc123", 1, 3.5, 2, 40)]

    def targets(self) -> Sequence[TargetStatus]:
        return self.targets_now


@dataclass
class Listener:
    """A started listener with its parts, and a client."""

    metrics: Metrics
    state: State
    server: StatusServer
    client: aiohttp.ClientSession

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.port}{path}"


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    metrics, state = Metrics(), State()
    server = StatusServer("127.0.0.1", 0, metrics, state)
    await server.start()
    async with aiohttp.ClientSession() as client:
        yield Listener(metrics, state, server, client)
    await server.stop()


async def test_status_tells_what_runs(listener: Listener) -> None:
    why = "it answered 500"
    addresses = (AddressStatus("192.0.2.1:80", "ejected", why, 0), AddressStatus("192.0.2.2:80", "healthy", "", 3))
    listener.state.targets_now = [
        TargetStatus("lms", "http://127.0.0.1:9000", True),
        TargetStatus("lms", "http://lms.internal", True, 2, "", addresses),
    ]
    async with listener.client.get(listener.url("/status")) as response:
        assert response.status == 200
        assert await response.json() == {
            "status": "ok",
            "version": gateway.__version__,
            "pid": os.getpid(),
            "uptime_seconds": 12.346,
            "config_hash": "abc123",
            "workers": [
                {
                    "pid": os.getpid(),
                    "config_hash": "abc123",
                    "slot": 1,
                    "uptime_seconds": 3.5,
                    "restarts": 2,
                    "connections": 40,
                }
            ],
            "targets": [
                {
                    "service": "lms",
                    "target": "http://127.0.0.1:9000",
                    "healthy": True,
                    "weight": 1,
                    "reason": "",
                    "addresses": [],
                },
                {
                    "service": "lms",
                    "target": "http://lms.internal",
                    "healthy": True,
                    "weight": 2,
                    "reason": "",
                    "addresses": [
                        {"address": "192.0.2.1:80", "state": "ejected", "reason": why, "active": 0},
                        {"address": "192.0.2.2:80", "state": "healthy", "reason": "", "active": 3},
                    ],
                },
            ],
        }


@pytest.mark.parametrize(
    ("reason", "status", "body"),
    [
        (None, 200, {"ready": True}),
        ("starting", 503, {"ready": False, "reason": "starting"}),
        ("draining", 503, {"ready": False, "reason": "draining"}),
    ],
)
async def test_readiness(listener: Listener, reason: str | None, status: int, body: dict[str, object]) -> None:
    listener.state.reason = reason
    async with listener.client.get(listener.url("/status/ready")) as response:
        assert (response.status, await response.json()) == (status, body)
    async with listener.client.get(listener.url("/status")) as response:
        assert response.status == 200, "alive, whether ready or not"


@pytest.mark.parametrize("routes", [1, 40], ids=["inline", "in a thread"])
async def test_metrics_in_either_format(listener: Listener, routes: int) -> None:
    for number in range(routes):
        listener.metrics.route("lms", f"route-{number}").observe("GET", 200, 0.01, 0.01)
    async with listener.client.get(listener.url("/metrics")) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        text = {family.name: family for family in parse_text(await response.text())}
    headers = {"Accept": "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.3"}
    async with listener.client.get(listener.url("/metrics"), headers=headers) as response:
        assert response.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
        openmetrics = {family.name: family for family in parse_openmetrics(await response.text())}  # type: ignore[no-untyped-call]  # the library lacks types
    for families in (text, openmetrics):
        assert len(families["postern_http_requests"].samples) == routes


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/metrics/", 404),
        ("GET", "/status/ready/x", 404),
        ("POST", "/nothing", 404),
        ("POST", "/metrics", 405),
        ("DELETE", "/status", 405),
        ("OPTIONS", "/status/ready", 405),
        ("GET", "/status?verbose=1", 200),
    ],
)
async def test_refusals_are_json(listener: Listener, method: str, path: str, status: int) -> None:
    async with listener.client.request(method, listener.url(path)) as response:
        assert response.status == status
        body = await response.json()
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers.get("Allow") == ("GET, HEAD" if status == 405 else None)
        if status != 200:
            assert body["status_code"] == status


@pytest.mark.parametrize("path", ["/metrics", "/status", "/status/ready"])
async def test_head_is_get_without_the_body(listener: Listener, path: str) -> None:
    async with listener.client.head(listener.url(path)) as response:
        assert response.status == 200
        assert int(response.headers["Content-Length"]) > 0
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Server"] == "postern"
        assert await response.read() == b""


async def test_a_port_in_use_is_told_plainly(listener: Listener) -> None:
    second = StatusServer("127.0.0.1", listener.server.port, Metrics(), State())
    with pytest.raises(StartError) as caught:
        await second.start()
    assert str(caught.value) == (
        f"listen.status: cannot listen on 127.0.0.1:{listener.server.port}: address already in use "
        "(is another gateway running?)"
    )
    await second.stop()


@pytest.mark.parametrize("host", ["203.0.113.1", "2001:db8::1"])
async def test_an_address_that_is_not_ours_is_told_plainly(host: str) -> None:
    with pytest.raises(StartError, match=r"listen\.status: cannot listen on .+:8007: \w+"):
        await StatusServer(host, 8007, Metrics(), State()).start()


async def test_stopping_ends_idle_connections_and_frees_the_port() -> None:
    server = StatusServer("127.0.0.1", 0, Metrics(), State())
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /status/ready HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    await asyncio.wait_for(server.stop(), 30)
    await asyncio.wait_for(reader.read(), 30)
    writer.close()
    again = StatusServer("127.0.0.1", server.port, Metrics(), State())
    await again.start()
    await again.stop()
