"""The control socket over a real store and verifier: contract §6's shapes, errors, and who may use it."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from gateway.admin import sockets
from gateway.admin.app import ControlServer
from gateway.core.decision import Deny
from gateway.core.errors import StartError
from gateway.core.identity import Identity, declared_id
from gateway.core.units import parse_rate
from gateway.credentials.hashing import Hasher, wait
from gateway.credentials.parse import Prefixes
from gateway.credentials.secrets import SecretKey
from gateway.credentials.verify import Rules, Verifier
from gateway.store.store import Store


class Clock:
    monotonic_ns = staticmethod(time.monotonic_ns)
    time = staticmethod(time.time)


@dataclass
class Gateway:
    """A store, a verifier and a control socket, and a client on it."""

    path: Path
    store: Store
    verifier: Verifier
    client: aiohttp.ClientSession

    async def call(self, method: str, target: str, body: Any = None) -> tuple[int, Any]:
        async with self.client.request(method, f"http://postern{target}", json=body) as response:
            return response.status, await response.json()

    async def verify(self, key: str) -> Identity | Deny:
        outcome = self.verifier.verify_key(key.encode(), "192.0.2.1", time.time())
        return outcome if isinstance(outcome, Identity | Deny) else await wait(outcome)


def declared_consumer(username: str, *keys: Any, **fields: Any) -> Any:
    base = {"username": username, "custom_id": None, "organization": None, "groups": (), "keys": keys}
    return SimpleNamespace(**(base | fields))


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    store = await Store.open(f"sqlite:///{tmp_path}/postern.db")
    hasher = Hasher(asyncio.get_running_loop())
    rules = Rules(Prefixes(), 4, parse_rate("20/minute"))
    verifier = Verifier(store, hasher, Clock(), SecretKey("x" * 32), rules)
    key = SimpleNamespace(
        name="sync",
        public="pnpub_declared",
        legacy=None,
        secret_hash=await wait(hasher.hash(b"pnsec_declared", 4)),
        read_only=False,
        scopes=(),
    )
    organization = SimpleNamespace(name="springfield", grantable_groups=("contentUser",))
    verifier.declare([declared_consumer("mobile_app", key, groups=("contentUser",))], [organization])
    path = tmp_path / "control.sock"
    server = ControlServer(path, store, verifier)
    await server.start()
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as client:
        yield Gateway(path, store, verifier, client)
    await server.stop()
    assert not path.exists()
    hasher.close()
    await store.close()


# ── keys ────────────────────────────────────────────────────────────────────────────────────────


async def test_a_key_is_made_works_is_listed_and_is_revoked(gateway: Gateway) -> None:
    body = {"name": "warehouse", "scopes": ["courses:read"], "read_only": True, "expires_at": "2999-01-31T00:00:00Z"}
    status, made = await gateway.call("POST", "/consumers/mobile_app/keys", body)
    assert status == 201
    key = made.pop("key")
    assert key.startswith(made["public"] + ".pnsec_")
    wanted = {"name", "public", "status", "scopes", "read_only", "created_at", "expires_at", "last_used_at", "id"}
    assert wanted <= made.keys()
    assert {name: made[name] for name in ("name", "status", "scopes", "read_only", "expires_at", "last_used_at")} == {
        "name": "warehouse",
        "status": "active",
        "scopes": ["courses:read"],
        "read_only": True,
        "expires_at": "2999-01-31T00:00:00Z",
        "last_used_at": None,
    }
    identity = await gateway.verify(key)
    assert isinstance(identity, Identity)
    assert identity.consumer.username == "mobile_app"

    assert await gateway.call("GET", f"/keys/{made['id']}") == (200, made)
    _, page = await gateway.call("GET", "/keys")
    assert page["next"] is None
    assert made in page["data"]
    assert key.partition(".")[2] not in str(page)

    status, revoked = await gateway.call("POST", f"/keys/{made['id']}/revoke")
    assert (status, revoked["status"]) == (200, "revoked")
    refused = await gateway.verify(key)
    assert isinstance(refused, Deny)
    assert refused.answer.text == "API token has been revoked"
    assert await gateway.call("POST", f"/keys/{made['id']}/revoke") == (200, revoked), "again changes nothing"


async def test_an_answer_with_a_key_may_not_be_kept(gateway: Gateway) -> None:
    async with gateway.client.post("http://postern/consumers/mobile_app/keys", json={"name": "x"}) as response:
        assert response.headers["Cache-Control"] == "no-store"


async def test_a_declared_key_can_be_revoked_too(gateway: Gateway) -> None:
    key_id = declared_id("key", "pnpub_declared")
    assert isinstance(await gateway.verify("pnpub_declared.pnsec_declared"), Identity)
    _, shown = await gateway.call("GET", f"/keys/{key_id}")
    assert (shown["status"], shown["declared"], shown["consumer"]) == ("active", True, "mobile_app")
    _, revoked = await gateway.call("POST", f"/keys/{key_id}/revoke")
    assert revoked["status"] == "revoked"
    refused = await gateway.verify("pnpub_declared.pnsec_declared")
    assert isinstance(refused, Deny)
    assert refused.answer.text == "API token has been revoked"
    _, page = await gateway.call("GET", "/consumers/mobile_app/keys")
    assert [(item["public"], item["status"]) for item in page["data"]] == [("pnpub_declared", "revoked")]


async def test_lists_are_cut_into_pages(gateway: Gateway) -> None:
    for number in range(4):
        await gateway.call("POST", "/consumers/mobile_app/keys", {"name": f"k{number}"})
    names: list[str] = []
    cursor = ""
    while True:
        _, page = await gateway.call("GET", f"/consumers/mobile_app/keys?limit=2&cursor={cursor}")
        assert len(page["data"]) <= 2
        names += [item["name"] for item in page["data"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert names == ["sync", "k0", "k1", "k2", "k3"]


# ── consumers and organizations ─────────────────────────────────────────────────────────────────


async def test_consumers_and_organizations(gateway: Gateway) -> None:
    status, made = await gateway.call("POST", "/organizations", {"name": "shelbyville", "rate_limits": ["60/minute"]})
    assert (status, made["rate_limits"], made["declared"]) == (201, ["60/minute"], False)
    assert (await gateway.call("GET", "/organizations/shelbyville"))[1] == made
    _, page = await gateway.call("GET", "/organizations")
    assert [item["name"] for item in page["data"]] == ["shelbyville", "springfield"]

    body = {"username": "school", "organization": "springfield", "groups": ["contentUser"], "custom_id": "s-1"}
    status, consumer = await gateway.call("POST", "/consumers", body)
    assert status == 201
    assert body.items() <= consumer.items()
    assert (await gateway.call("GET", "/consumers/school"))[1] == consumer
    _, page = await gateway.call("GET", "/consumers")
    assert [item["username"] for item in page["data"]] == ["mobile_app", "school"]

    _, key = await gateway.call("POST", "/consumers/school/keys", {"name": "x"})
    identity = await gateway.verify(key["key"])
    assert isinstance(identity, Identity)
    assert identity.consumer.organization is not None
    assert identity.consumer.organization.grantable_groups == ("contentUser",), "the file's"


# ── errors ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "wanted"),
    [
        ("GET", "/nowhere", None, 404, "Not Found"),
        ("DELETE", "/keys", None, 405, "Method Not Allowed"),
        ("GET", "/keys/unknown", None, 404, "there is no key 'unknown'"),
        ("POST", "/keys/unknown/revoke", None, 404, "there is no key"),
        ("GET", "/consumers/mobile_ap", None, 404, "did you mean mobile_app?"),
        ("GET", "/consumers/mobile_ap/keys", None, 404, "there is no consumer"),
        ("POST", "/consumers/nobody/keys", {"name": "x"}, 404, "there is no consumer 'nobody'"),
        ("GET", "/organizations/nowhere", None, 404, "there is no organization"),
        ("POST", "/consumers", {"username": "mobile_app"}, 409, "declares a consumer"),
        ("POST", "/organizations", {"name": "springfield"}, 409, "declares an organization"),
        ("POST", "/consumers", {"username": "x", "organization": "nowhere"}, 404, "there is no organization"),
    ],
)
async def test_refusals(gateway: Gateway, method: str, target: str, body: Any, status: int, wanted: str) -> None:
    answered, answer = await gateway.call(method, target, body)
    assert (answered, answer["status_code"]) == (status, status)
    assert wanted in answer["error"]
    assert answer.keys() == {"error", "status_code", "reason", "request_id"}


@pytest.mark.parametrize(
    ("target", "body", "fields"),
    [
        ("/consumers/mobile_app/keys", {}, {"name"}),
        ("/consumers/mobile_app/keys", {"name": ""}, {"name"}),
        ("/consumers/mobile_app/keys", {"name": "a\r\nX-Evil: 1"}, {"name"}),
        ("/consumers/mobile_app/keys", {"name": "x", "read_only": "yes", "unknown": 1}, {"read_only", "unknown"}),
        ("/consumers/mobile_app/keys", {"name": "x", "scopes": ["a b"]}, {"scopes.0"}),
        ("/consumers/mobile_app/keys", {"name": "x", "scopes": ["a", "a"]}, {"scopes"}),
        ("/consumers/mobile_app/keys", {"name": "x", "expires_at": "tomorrow"}, {"expires_at"}),
        ("/consumers/mobile_app/keys", {"name": "x", "expires_at": "2027-01-01T00:00:00"}, {"expires_at"}),
        ("/consumers/mobile_app/keys", {"name": "x", "rate_limits": ["many"]}, {"rate_limits.0"}),
        ("/consumers", {"username": "a/b"}, {"username"}),
        ("/consumers", {"username": "x", "groups": ["a, b"]}, {"groups.0"}),
        ("/consumers", {"username": "x", "groups": ["a\r\nb"]}, {"groups.0"}),
        ("/organizations", {"name": "x" * 129}, {"name"}),
        ("/organizations", [], set()),
    ],
)
async def test_bad_input(gateway: Gateway, target: str, body: Any, fields: set[str]) -> None:
    status, answer = await gateway.call("POST", target, body)
    assert status == 422
    assert answer["fields"].keys() == fields


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "limit=1001", "limit=9999999999999999", "cursor=%00", "cursor=a"]
)
async def test_bad_paging(gateway: Gateway, query: str) -> None:
    status, answer = await gateway.call("GET", f"/keys?{query}")
    assert (status, list(answer["fields"])) == (422, [query.partition("=")[0]])


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 10_000])
async def test_a_body_that_is_no_json(gateway: Gateway, content: bytes) -> None:
    async with gateway.client.post("http://postern/consumers", data=content) as response:
        assert response.status == 400
        assert (await response.json())["error"] == "The body is not valid JSON"


async def test_a_body_too_large(gateway: Gateway) -> None:
    async with gateway.client.post("http://postern/consumers", data=b" " * 70_000) as response:
        assert response.status == 413


async def test_a_store_that_fails(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    async with gateway.store._database.write() as connection:
        await connection.exec_driver_sql("DROP TABLE keys")
    status, answer = await gateway.call("GET", "/keys")
    assert (status, answer["error"]) == (500, "The identity store cannot be asked")


async def test_an_unexpected_fault_shows_nothing(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(gateway.store.keys, "get", broken)
    status, answer = await gateway.call("GET", "/keys/x")
    assert (status, answer["error"]) == (500, "An unexpected error occurred")


# ── the socket ──────────────────────────────────────────────────────────────────────────────────


async def test_the_socket_is_private(gateway: Gateway) -> None:
    assert stat.S_IMODE(gateway.path.stat().st_mode) == 0o600


async def test_another_user_is_refused(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.admin.app.peer_is_trusted", lambda _: False)
    status, answer = await gateway.call("GET", "/keys")
    assert (status, answer["error"]) == (403, "The control socket is for the gateway's own user")


@pytest.mark.parametrize(("user", "trusted"), [(0, True), (1000, True), (1001, False)])
def test_who_is_trusted(user: int, trusted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Connection:
        def getsockopt(self, *_: int) -> bytes:
            return sockets._CREDENTIALS.pack(1, user, user)

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    connection: Any = Connection()
    assert sockets.peer_is_trusted(connection) is trusted


async def test_a_live_socket_is_refused_and_stays(gateway: Gateway) -> None:
    with pytest.raises(StartError, match="another gateway runs"):
        await ControlServer(gateway.path, gateway.store, gateway.verifier).start()
    assert (await gateway.call("GET", "/keys"))[0] == 200


async def test_a_dead_socket_is_replaced(gateway: Gateway, tmp_path: Path) -> None:
    path = tmp_path / "dead.sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    assert sockets.reach(path) is None
    server = ControlServer(path, gateway.store, gateway.verifier)
    await server.start()
    found = sockets.reach(path)
    assert found is not None
    found.close()
    await server.stop()


async def test_stopping_leaves_a_socket_alone_that_is_not_ours(gateway: Gateway, tmp_path: Path) -> None:
    path = tmp_path / "other.sock"
    server = ControlServer(path, gateway.store, gateway.verifier)
    await server.start()
    path.rename(tmp_path / "moved.sock")
    path.write_text("somebody else's")
    await server.stop()
    assert path.exists()


async def test_a_deep_folder_is_no_obstacle(gateway: Gateway, tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 100) / ("e" * 100)
    folder.mkdir(parents=True)
    server = ControlServer(folder / "control.sock", gateway.store, gateway.verifier)
    await server.start()
    found = sockets.reach(folder / "control.sock")
    assert found is not None
    found.close()
    await server.stop()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert sockets.reach(tmp_path / "nowhere" / "control.sock") is None
    with pytest.raises(StartError, match="cannot make the control socket"):
        sockets.take(tmp_path / "nowhere" / "control.sock")
