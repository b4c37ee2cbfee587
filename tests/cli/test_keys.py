"""`postern keys` and `postern migrate`: while a gateway runs and while none does; forms of output, exit statuses."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import keys, migrate
from gateway.cli.main import main
from gateway.core.decision import Deny
from gateway.core.identity import Identity
from gateway.core.units import parse_rate
from gateway.credentials.hashing import Hasher, wait
from gateway.credentials.parse import Prefixes
from gateway.credentials.secrets import SecretKey
from gateway.credentials.verify import Rules, Verifier

CONFIG = """
version: 1
store: sqlite:///{folder}/data/postern.db
credentials: {{bcrypt_rounds: 4}}
organizations: [{{name: springfield}}]
consumers: [{{username: mobile_app, organization: springfield, groups: [contentUser]}}]
"""

Command = Callable[..., tuple[int, str, str]]


class Clock:
    monotonic_ns = staticmethod(time.monotonic_ns)
    time = staticmethod(time.time)


class RunningGateway:
    """A store, a verifier and a control socket on a loop of their own."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(20)

    async def _serve(self) -> None:
        from gateway.admin.app import ControlServer
        from gateway.config.loader import load
        from gateway.store.store import Store

        config = load(self._config).config
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        store = await Store.open(config.store)
        rules = Rules(Prefixes(), 4, parse_rate("20/minute"))
        hasher = Hasher(self._loop)
        self._verifier = Verifier(store, hasher, Clock(), SecretKey("x" * 32), rules)
        self._verifier.declare(config.consumers, config.organizations)
        server = ControlServer(store.folder / "control.sock", store, self._verifier)
        await server.start()
        self._ready.set()
        await self._stop.wait()
        await server.stop()
        hasher.close()
        await store.close()

    def verify(self, key: str) -> Identity | Deny:
        return asyncio.run_coroutine_threadsafe(self._verify(key), self._loop).result(10)

    async def _verify(self, key: str) -> Identity | Deny:
        outcome = self._verifier.verify_key(key.encode(), "192.0.2.1", time.time())
        return outcome if isinstance(outcome, Identity | Deny) else await wait(outcome)

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(folder=tmp_path))
    return path


@pytest.fixture
def postern(config: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs a command: its exit status, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main([*arguments, "--config", str(config)], (keys, migrate))
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(params=["running", "stopped"])
def gateway(request: pytest.FixtureRequest, config: Path) -> Iterator[RunningGateway | None]:
    running = RunningGateway(config) if request.param == "running" else None
    yield running
    if running is not None:
        running.end()


def create(postern: Command, *more: str) -> Any:
    status, out, _ = postern("keys", "create", "--consumer", "mobile_app", "--name", "sync", "--output", "json", *more)
    assert status == 0
    return json.loads(out)


def test_a_key_from_its_making_to_its_end(postern: Command, gateway: RunningGateway | None) -> None:
    made = create(postern, "--read-only", "--scope", "courses:read", "--scope", "b", "--expires", "90d")
    assert (made["name"], made["status"], made["read_only"], made["scopes"]) == (
        "sync",
        "active",
        True,
        ["courses:read", "b"],
    )
    assert made["key"].startswith(made["public"] + ".")
    assert made["expires_at"].endswith("Z")
    if gateway is not None:
        assert isinstance(gateway.verify(made["key"]), Identity)

    status, out, _ = postern("keys", "list", "--output", "json")
    (listed,) = json.loads(out)
    assert (status, listed) == (0, {name: value for name, value in made.items() if name != "key"})

    status, out, _ = postern("keys", "revoke", made["id"], "--output", "json")
    assert (status, json.loads(out)["status"]) == (0, "revoked")
    if gateway is not None:
        refused = gateway.verify(made["key"])
        assert isinstance(refused, Deny)
        assert refused.answer.text == "API token has been revoked"


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["create", "--consumer", "mobile_ap", "--name", "x"], "did you mean mobile_app?"),
        (["create", "--consumer", "mobile_app", "--name", ""], "name: "),
        (["create", "--consumer", "mobile_app", "--name", "x", "--scope", "a b"], "scopes.0: "),
        (["create", "--consumer", "mobile_app", "--name", "x", "--expires", "soon"], "--expires: "),
        (["create", "--consumer", "mobile_app", "--name", "x", "--expires", "99999999999d"], "--expires: "),
        (["create", "--consumer", "mobile_app"], "--name"),
        (["list", "--consumer", "nobody"], "there is no consumer 'nobody'"),
        (["revoke", "unknown"], "there is no key 'unknown'"),
        (["revoke", "a/../b?c"], "there is no key"),
    ],
)
def test_bad_input(postern: Command, gateway: RunningGateway | None, arguments: list[str], wanted: str) -> None:
    status, out, error = postern("keys", *arguments)
    assert (status, out) == (2, "")
    assert wanted in error
    assert "Traceback" not in error


def test_forms_of_output(postern: Command) -> None:
    made = create(postern)
    status, out, error = postern("keys", "create", "--consumer", "mobile_app", "--name", "other")
    assert status == 0
    assert "pnsec_" in out
    assert "not shown again" in error
    status, out, _ = postern("keys", "list")
    assert out.splitlines()[0].split()[:4] == ["ID", "CONSUMER", "NAME", "PUBLIC"]
    assert made["public"] in out
    assert "pnsec_" not in out
    status, out, _ = postern("keys", "list", "--output", "csv", "--consumer", "mobile_app")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["name"] for row in rows] == ["sync", "other"]


def test_lists_longer_than_a_page(postern: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        create(postern)
    from gateway.admin.service import IdentityService

    whole = IdentityService.keys

    async def short(
        self: IdentityService, username: str | None = None, limit: int = 2, cursor: str | None = None
    ) -> Any:
        return await whole(self, username, 2, cursor)

    monkeypatch.setattr(IdentityService, "keys", short)
    _, out, _ = postern("keys", "list", "--output", "json")
    assert len(json.loads(out)) == 3


def test_a_key_made_while_none_ran_is_known_to_the_next(postern: Command, config: Path) -> None:
    made = create(postern)
    running = RunningGateway(config)
    assert isinstance(running.verify(made["key"]), Identity)
    running.end()


def test_migrate(postern: Command, tmp_path: Path) -> None:
    from gateway.store.migrations import HEAD

    status, out, _ = postern("migrate", "--output", "json")
    assert (status, json.loads(out)) == (0, {"from": None, "to": HEAD})
    status, out, _ = postern("migrate", "--output", "json")
    assert (status, json.loads(out)) == (0, {"from": HEAD, "to": HEAD})


@pytest.mark.parametrize("arguments", [["migrate"], ["keys", "list"]])
def test_a_store_that_cannot_be_used(postern: Command, tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "data").write_text("a file")
    status, _, error = postern(*arguments)
    assert (status, "Traceback" in error) == (3, False)
    assert "cannot make the data folder" in error


def test_a_configuration_that_cannot_be_used(postern: Command, config: Path) -> None:
    config.write_text("version: 1\nstoer: x\n")
    status, _, error = postern("keys", "list")
    assert status == 2
    assert f"{config}:2:1" in error
