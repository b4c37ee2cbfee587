"""`/misbehave/{name}`: takes the connection over from aiohttp and plays a script on it.

aiohttp sees an answer that is already written (`Taken`), so it goes on with the next request where the
script keeps the connection.
"""

from __future__ import annotations

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_request import BaseRequest

from upstream_stub.misbehaviours import MISBEHAVIOURS, script
from upstream_stub.steps import End, play

routes = web.RouteTableDef()


class Taken(web.StreamResponse):
    """An answer that has been written past aiohttp; `keep` says whether the connection goes on."""

    def __init__(self, keep: bool) -> None:
        super().__init__()
        self._goes_on = keep

    @property
    def keep_alive(self) -> bool | None:
        """Whether aiohttp reads the next request."""
        return self._goes_on

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        """Write nothing: the head has been sent."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Write nothing: the body has been sent."""


@routes.get("/misbehave")
async def list_misbehaviours(request: web.Request) -> web.Response:
    """What there is, with the first line of each one's description."""
    return web.json_response({name: (made.__doc__ or "").strip() for name, made in MISBEHAVIOURS.items()})


async def misbehave(request: web.Request) -> web.StreamResponse:
    """Play the misbehaviour of this name; 400 with the names that there are, or with what is wrong with a parameter."""
    try:
        chosen = script(request.match_info["name"], request.query)
    except ValueError as error:
        return web.json_response({"error": str(error)}, status=400)
    if request.transport is not None:
        await play(chosen, request.transport)
    return Taken(chosen.end is End.KEEP)


routes.route("*", "/misbehave/{name}")(misbehave)
