"""The resource of consumers: `/consumers` (contract §6)."""

from __future__ import annotations

from aiohttp import web

from gateway.admin.http import SERVICE, body_of, cursor_of, limit_of
from gateway.admin.shapes import consumer_object

routes = web.RouteTableDef()


@routes.post("/consumers")
async def create(request: web.Request) -> web.Response:
    """Make a consumer."""
    return web.json_response(await request.app[SERVICE].create_consumer(await body_of(request)), status=201)


@routes.get("/consumers")
async def list_all(request: web.Request) -> web.Response:
    """All consumers, declared and stored."""
    return web.json_response(await request.app[SERVICE].consumers(limit_of(request), cursor_of(request)))


@routes.get("/consumers/{username}")
async def get(request: web.Request) -> web.Response:
    """One consumer."""
    return web.json_response(consumer_object(await request.app[SERVICE].consumer(request.match_info["username"])))
