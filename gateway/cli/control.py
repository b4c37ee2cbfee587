"""Talking to the identities: through the control socket of the gateway that runs here, or in the store itself.

While a gateway runs it alone writes, so that it has taken note before a command returns.  Without one, the command
opens the store and does the same by the same code.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn
from urllib.parse import quote, urlencode

import typer

from gateway.core.errors import ConflictError, InvalidInputError, NotFoundError, OverloadError, StoreError

#: The type of every command's parameter `config`.
ConfigOption = Annotated[Path, typer.Option("--config", help="The configuration file.")]
DEFAULT_CONFIG = Path("config.yaml")
#: Of a command that tells the same whatever the file says: taken, so that all commands take the same options.
UnreadConfigOption = Annotated[Path, typer.Option("--config", help="Not read: the same for every file.")]

_PATIENCE = 30.0


class _Connection(http.client.HTTPConnection):
    """HTTP over a connection that stands already."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__("localhost", timeout=_PATIENCE)
        connection.settimeout(_PATIENCE)
        self.sock = connection


class Control:
    """The operations of a running gateway, over its control socket; one connection an operation."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def create_key(self, username: str, body: dict[str, Any]) -> dict[str, Any]:
        """Make a key of a consumer."""
        return self._call("POST", f"/consumers/{quote(username, safe='')}/keys", body)

    def keys(self, username: str | None, cursor: str | None) -> dict[str, Any]:
        """One page of keys."""
        target = "/keys" if username is None else f"/consumers/{quote(username, safe='')}/keys"
        return self._call("GET", f"{target}?{urlencode({'cursor': cursor or ''})}")

    def revoke_key(self, key_id: str) -> dict[str, Any]:
        """End a key."""
        return self._call("POST", f"/keys/{quote(key_id, safe='')}/revoke")

    def _call(self, method: str, target: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        from gateway.admin.sockets import reach

        connection = reach(self._path)
        if connection is None:
            raise StoreError("the gateway has just ended; try again")
        client = _Connection(connection)
        try:
            content = None if body is None else json.dumps(body).encode()
            client.request(method, target, content, {"Content-Type": "application/json"})
            response = client.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise StoreError(f"the gateway did not answer on {self._path}: {error}") from error
        finally:
            client.close()
        if not isinstance(answer, dict):
            raise StoreError(f"the gateway answered something unexpected on {self._path}")
        if response.status >= 400:
            _raise(response.status, answer)
        return answer


def _raise(status: int, answer: dict[str, Any]) -> NoReturn:
    text = str(answer.get("error", "the gateway refused"))
    if status == 404:
        raise NotFoundError(text)
    if status == 409:
        raise ConflictError(text)
    if status in (400, 422):
        raise InvalidInputError(text, {str(name): str(what) for name, what in answer.get("fields", {}).items()})
    raise StoreError(text)


class Direct:
    """The same operations in the store, while no gateway runs; each opens it anew."""

    def __init__(self, config: Any) -> None:
        self._config = config

    def create_key(self, username: str, body: dict[str, Any]) -> dict[str, Any]:
        """Make a key of a consumer."""
        return asyncio.run(self._do("create_key", username, body))

    def keys(self, username: str | None, cursor: str | None) -> dict[str, Any]:
        """One page of keys."""
        return asyncio.run(self._do("keys", username, cursor=cursor))

    def revoke_key(self, key_id: str) -> dict[str, Any]:
        """End a key."""
        return asyncio.run(self._do("revoke_key", key_id))

    async def _do(self, operation: str, *arguments: Any, **named: Any) -> dict[str, Any]:
        from gateway.admin.service import IdentityService
        from gateway.credentials.hashing import Hasher
        from gateway.credentials.parse import Prefixes
        from gateway.credentials.secrets import load_secret_key
        from gateway.credentials.verify import Rules, Verifier
        from gateway.store.store import Store

        config = self._config
        store = await Store.open(config.store)
        hasher = Hasher(asyncio.get_running_loop(), threads=1)
        try:
            credentials = config.credentials
            rules = Rules(
                Prefixes(credentials.public_prefix, credentials.secret_prefix),
                credentials.bcrypt_rounds,
                config.guesses.failures,
            )
            secret_key = load_secret_key(config.secret_key.get_secret_value(), store.folder)
            verifier = Verifier(store, hasher, _Clock(), secret_key, rules)
            verifier.declare(config.consumers, config.organizations)
            result: dict[str, Any] = await getattr(IdentityService(store, verifier), operation)(*arguments, **named)
            return result
        except OverloadError as error:
            raise StoreError(str(error)) from error
        finally:
            hasher.close()
            await store.close()


class _Clock:
    """The system's clocks."""

    monotonic_ns = staticmethod(time.monotonic_ns)
    time = staticmethod(time.time)


def identities(config_file: Path) -> Control | Direct:
    """The operations for a configuration file: of the gateway that runs on its data folder, or on its store.

    Raises `ConfigError` for a file that cannot be used, `StartError` for a socket that this user may not use.
    """
    from gateway.admin.sockets import FILE_NAME, reach
    from gateway.config.loader import load
    from gateway.store.location import data_folder

    config = load(config_file).config
    path = data_folder(config.store) / FILE_NAME
    running = reach(path)
    if running is None:
        return Direct(config)
    running.close()
    return Control(path)
