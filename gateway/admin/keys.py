"""The resource of API keys: `/consumers/{username}/keys` and `/keys` (contract §6)."""

from __future__ import annotations

from aiohttp import web

from gateway.admin.http import SERVICE, body_of, cursor_of, limit_of, secret_answer

routes = web.RouteTableDef()


@routes.post("/consumers/{username}/keys")
async def create(request: web.Request) -> web.Response:
    """Make a key; the answer holds it whole, this once."""
    made = await request.app[SERVICE].create_key(request.match_info["username"], await body_of(request))
    return secret_answer(made, status=201)


@routes.get("/consumers/{username}/keys")
async def list_of_consumer(request: web.Request) -> web.Response:
    """One consumer's keys."""
    service = request.app[SERVICE]
    return web.json_response(await service.keys(request.match_info["username"], limit_of(request), cursor_of(request)))


@routes.get("/keys")
async def list_all(request: web.Request) -> web.Response:
    """All keys."""
    return web.json_response(await request.app[SERVICE].keys(None, limit_of(request), cursor_of(request)))


@routes.get("/keys/{id}")
async def get(request: web.Request) -> web.Response:
    """One key."""
    return web.json_response(await request.app[SERVICE].key(request.match_info["id"]))


@routes.post("/keys/{id}/revoke")
async def revoke(request: web.Request) -> web.Response:
    """End a key; it is refused from this answer on."""
    return web.json_response(await request.app[SERVICE].revoke_key(request.match_info["id"]))
