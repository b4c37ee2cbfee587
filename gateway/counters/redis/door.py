"""The door to the `redis` package: it finds, connects, secures and authenticates; whoever asks takes its place.

Law: what the package raises becomes a `CountersError` here, whose text names neither a user nor a password.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, Connection, ConnectionPool, RedisSSLContext, SSLConnection
from redis.asyncio.connection import UnixDomainSocketConnection as UnixConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ConnectionError,  # noqa: A004 - the package's own, caught here alone
    RedisError,
    TimeoutError,  # noqa: A004 - as above
)

from gateway.core.counters_url import Address, RedisLocation, Tls
from gateway.core.errors import CountersError
from gateway.counters.redis.refusals import SERVER, refusal_of

#: The answers that hiredis reads are those of RESP 2.
_RESP: Final = 2


class _Secure(SSLConnection):
    """A connection over TLS with a context that was prepared, to a server that may be known by another name than its
    host's."""

    def __init__(self, context: Any, server_name: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.ssl_context = context
        self._server_name = server_name

    def _connection_arguments(self) -> dict[str, Any]:
        arguments = dict(super()._connection_arguments())
        if self._server_name:
            arguments["server_hostname"] = self._server_name
        return arguments


class Door:
    """Opens connections to the servers of one location."""

    def __init__(self, location: RedisLocation) -> None:
        self._location = location
        #: What TLS was set up with; made in a thread, since the system's authorities are read from files.
        self._context: Any = None

    async def connect(self, address: Address) -> tuple[asyncio.WriteTransport, object]:
        """An authenticated connection: its transport, and what must be kept as long as it is used.

        Raises `CountersError`.
        """
        connection = await self._connection(address)
        try:
            await connection.connect()  # type: ignore[no-untyped-call]  # the package annotates some of itself
        except RedisError as error:
            await self._failed(error)
            raise CountersError(self.reason(error)) from None
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        writer = connection._writer
        assert writer is not None  # noqa: S101 - it is connected
        connection._writer = connection._reader = None
        return writer.transport, writer

    async def slots(self, address: Address) -> Any:
        """The answer of a cluster's node to CLUSTER SLOTS.  Raises `CountersError`."""
        client: Any = await self._client(address, self._location.username, self._location.password)
        try:
            return await client.execute_command("CLUSTER SLOTS")
        except RedisError as error:
            await self._failed(error)
            raise CountersError(self.reason(error)) from None
        finally:
            await client.aclose(close_connection_pool=True)

    async def sentinels(self) -> Sentinels:
        """Those who know where the master is."""
        location = self._location
        clients = [
            await self._client(address, location.sentinel_username, location.sentinel_password)
            for address in location.addresses
        ]
        return Sentinels(self, clients, location.service)

    def reason(self, error: RedisError) -> str:
        """What to say of an exception of the package."""
        text = str(error)
        if isinstance(error, MasterNotFoundError):
            # The package has gathered there what each of them said.
            if "AuthenticationError" in text or "NOAUTH" in text:
                return "cannot be found: a sentinel wants a user and a password, or others than it was given"
            return f"cannot be found: no sentinel that answers knows a master called {self._location.service}"
        if isinstance(error, AuthenticationError | AuthorizationError):
            return refusal_of("NOAUTH" if "required" in text.lower() else "WRONGPASS").text
        if isinstance(error, BusyLoadingError):
            return refusal_of("LOADING").text
        refusal = refusal_of(error)
        if refusal.kind == SERVER:
            return refusal.text
        if isinstance(error, TimeoutError):
            return "cannot be reached in time"
        if isinstance(error, ConnectionError):
            cause = error.__context__ or error.__cause__
            if isinstance(cause, ssl.SSLCertVerificationError):
                return f"shows a certificate that is not believed: {cause.verify_message}"
            if isinstance(cause, ssl.SSLError):
                return f"cannot be spoken to over TLS: {cause.reason or type(cause).__name__}"
            if isinstance(cause, OSError) and cause.errno:
                # A name that is not known has an error of its own kind; the loops word all others differently.
                said = cause.strerror if isinstance(cause, socket.gaierror) else os.strerror(cause.errno)
                return f"cannot be reached: {said}"
            return "cannot be reached, or closes the connection"
        return self._without_secrets(refusal.text)

    def _without_secrets(self, text: str) -> str:
        location = self._location
        for secret in (location.password, location.sentinel_password, location.username, location.sentinel_username):
            if secret:
                text = text.replace(secret, "***")
        return text

    async def _failed(self, error: RedisError) -> None:
        if isinstance(error.__context__, ssl.SSLError):
            # Perhaps other files help: they are read again.
            self._context = None

    async def _connection(self, address: Address) -> AbstractConnection:
        location = self._location
        arguments = self._arguments(location.username, location.password)
        if location.kind != "cluster":
            arguments["db"] = location.database
        if not address.port:
            return UnixConnection(path=address.host, **arguments)
        arguments |= {"host": address.host, "port": address.port}
        if location.tls is None:
            return Connection(**arguments)
        return _Secure(await self._prepared(location.tls), location.tls.server_name, **arguments)

    async def _client(self, address: Address, username: str, password: str) -> Any:
        """A client of the package over one connection."""
        tls = self._location.tls
        arguments = self._arguments(username, password) | {"host": address.host, "port": address.port}
        if tls is not None:
            arguments |= {"context": await self._prepared(tls), "server_name": tls.server_name}
        pool: Any = ConnectionPool(
            connection_class=_Secure if tls is not None else Connection, max_connections=2, **arguments
        )
        return Redis(connection_pool=pool)

    async def _prepared(self, tls: Tls) -> Any:
        """The TLS context, its files read.  Raises `CountersError`, which names a file that is no use."""
        if self._context is None:
            context = RedisSSLContext(
                keyfile=tls.key or None,
                certfile=tls.certificate or None,
                cert_reqs="required" if tls.verify else "none",
                ca_certs=tls.authorities or None,
                check_hostname=tls.check_hostname,
            )
            try:
                await asyncio.to_thread(context.get)
            except (OSError, ValueError) as error:
                for file in (tls.authorities, tls.certificate, tls.key):
                    if file and not await asyncio.to_thread(Path(file).is_file):
                        raise CountersError(f"cannot be asked: there is no file {file}") from None
                said = error.reason if isinstance(error, ssl.SSLError) else type(error).__name__
                raise CountersError(f"cannot be asked: the files for TLS are of no use ({said})") from None
            self._context = context
        return self._context

    def _arguments(self, username: str, password: str) -> dict[str, Any]:
        seconds = self._location.connect_patience
        return {
            "username": username or None,
            "password": password or None,
            "socket_connect_timeout": seconds,
            "socket_timeout": seconds,
            "protocol": _RESP,
            "retry": Retry(NoBackoff(), 0),
        }


class Sentinels:
    """The sentinels of one master."""

    def __init__(self, door: Door, clients: list[Any], service: str) -> None:
        self._door = door
        self._service = service
        # The clients are ours: made by a pool of connections that know a server by another name, too.
        self._sentinel: Any = Sentinel([])  # type: ignore[no-untyped-call]  # as above
        self._sentinel.sentinels = clients

    async def master(self) -> Address:
        """Where the master is now.  Raises `CountersError`."""
        try:
            host, port = await self._sentinel.discover_master(self._service)
        except RedisError as error:
            raise CountersError(self._door.reason(error)) from None
        return Address(str(host), int(port))

    async def close(self) -> None:
        """Close the connections to them."""
        for client in self._sentinel.sentinels:
            await client.aclose(close_connection_pool=True)
