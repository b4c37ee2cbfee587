"""The stub LMS as one aiohttp application: every resource in its own file, joined here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from upstream_stub import catalog, echo, live, misbehave, transfer, users

#: The server's own limits are wide, so that what is refused was refused by the gateway; bodies stay as sent.
SERVER_OPTIONS: dict[str, Any] = {
    "access_log": None,
    "auto_decompress": False,
    "max_line_size": 1 << 17,
    "max_field_size": 1 << 17,
    "max_headers": 2048,
}


async def _sign(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "stub-lms"


@web.middleware
async def _bad_parameters(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """A query parameter that is no number is the caller's mistake: 400."""
    try:
        return await handler(request)
    except ValueError as error:
        return web.json_response({"error": str(error)}, status=400)


def build_app() -> web.Application:
    """A fresh LMS with its own lessons and sessions."""
    app = web.Application(client_max_size=1 << 20, middlewares=[_bad_parameters])
    app[catalog.CATALOG] = catalog.Catalog()
    app[users.SESSIONS] = users.Sessions()
    for module in (catalog, users, transfer, live, echo, misbehave):
        app.add_routes(module.routes)
    app.on_response_prepare.append(_sign)
    return app


def build_runner() -> web.AppRunner:
    """A runner of a fresh LMS with `SERVER_OPTIONS`: `await setup()`, add a site, `await cleanup()`."""
    return web.AppRunner(build_app(), handle_signals=False, shutdown_timeout=1.0, **SERVER_OPTIONS)
