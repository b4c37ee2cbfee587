"""The resource of organizations: `/organizations` (contract §6)."""

from __future__ import annotations

from aiohttp import web

from gateway.admin.http import SERVICE, body_of, cursor_of, limit_of

routes = web.RouteTableDef()


@routes.post("/organizations")
async def create(request: web.Request) -> web.Response:
    """Make an organization."""
    return web.json_response(await request.app[SERVICE].create_organization(await body_of(request)), status=201)


@routes.get("/organizations")
async def list_all(request: web.Request) -> web.Response:
    """All organizations, declared and stored."""
    return web.json_response(await request.app[SERVICE].organizations(limit_of(request), cursor_of(request)))


@routes.get("/organizations/{name}")
async def get(request: web.Request) -> web.Response:
    """One organization."""
    return web.json_response(await request.app[SERVICE].organization(request.match_info["name"]))
