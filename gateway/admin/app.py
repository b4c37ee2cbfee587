"""The admin resources as one application, and the control socket that serves it to commands on this machine.

The control socket is trusted by who holds the other end: this user or root (`sockets.py`).  The admin listener
will serve the same resources behind tokens and roles.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Middleware

from gateway.admin import consumers, keys, organizations
from gateway.admin.http import SERVICE, Handler, answer_faults, error_answer
from gateway.admin.ports import IdentityStore, Keeper
from gateway.admin.service import IdentityService
from gateway.admin.sockets import peer_is_trusted, take

_BODY_LIMIT = 64 * 1024
_log = logging.getLogger("postern.admin")


def build_app(service: IdentityService, *middlewares: Middleware) -> web.Application:
    """The application: every resource, over one service."""
    app = web.Application(middlewares=[answer_faults, *middlewares], client_max_size=_BODY_LIMIT)
    app[SERVICE] = service
    for resource in (organizations, consumers, keys):
        app.add_routes(resource.routes)
    return app


@web.middleware
async def same_user_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse whoever is neither this process's user nor root."""
    connection = None if request.transport is None else request.transport.get_extra_info("socket")
    if connection is None or not peer_is_trusted(connection):
        return error_answer(403, "The control socket is for the gateway's own user")
    return await handler(request)


class ControlServer:
    """The control socket at `path`, over the store and the verifier that hears of a change before it is answered."""

    def __init__(self, path: Path, store: IdentityStore, verifier: Keeper) -> None:
        self._path = path
        self._store = store
        self._verifier = verifier
        self._runner: web.AppRunner | None = None
        self._server: asyncio.AbstractServer | None = None
        self._inode: int | None = None

    async def start(self) -> None:
        """Take the socket and serve.  Raises `StartError` while another gateway holds it."""
        self._store.changes.subscribe(self._verifier.forget)
        listener = take(self._path)
        self._inode = self._path.stat().st_ino
        app = build_app(IdentityService(self._store, self._verifier), same_user_only)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=2.0)
        await self._runner.setup()
        server = self._runner.server
        if server is None:
            raise RuntimeError("the runner has no server after its setup")
        self._server = await self._serve(server, listener)

    async def stop(self) -> None:
        """Answer what is in flight, and give the socket up."""
        if self._server is not None:
            self._server.close()
        if self._runner is not None:
            await self._runner.cleanup()
        with contextlib.suppress(FileNotFoundError):
            # Only our own: the data folder may have been replaced under us.
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()

    @staticmethod
    async def _serve(server: web.Server, listener: socket.socket) -> asyncio.AbstractServer:
        return await asyncio.get_running_loop().create_unix_server(server, sock=listener)
