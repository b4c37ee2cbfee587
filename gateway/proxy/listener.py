"""The proxy's listening sockets: bound, accepting, closed.  TLS and the PROXY protocol will be read here."""

from __future__ import annotations

import asyncio
from typing import cast

from gateway.core.errors import cannot_listen
from gateway.proxy.downstream import Downstream
from gateway.proxy.plane import Plane

#: Connections that the kernel keeps for us until we accept them.
BACKLOG = 4096


class Listener:
    """One address on which clients connect."""

    def __init__(self, plane: Plane, host: str, port: int) -> None:
        """`host` and `port` as in `listen.proxy`; port 0 takes any free one."""
        self._plane = plane
        self._host = host
        self._server: asyncio.Server | None = None
        #: The port: the bound one, once started.
        self.port = port

    async def start(self) -> None:
        """Bind and accept; raises `StartError` when the address cannot be had."""
        plane = self._plane
        try:
            self._server = await plane.loop.create_server(
                lambda: cast(asyncio.Protocol, Downstream(plane)), self._host, self.port, backlog=BACKLOG
            )
        except OSError as error:
            raise cannot_listen("listen.proxy", self._host, self.port, error) from error
        self.port = int(self._server.sockets[0].getsockname()[1])

    def stop_accepting(self) -> None:
        """Close the listening socket; connections that stand go on."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
