"""`/echo` says exactly what arrived; `/health` says that the LMS lives.

`/echo?status=201&header=Name:%20value` also shapes the answer, so that a test sees what becomes of it on the way back.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from upstream_stub.transfer import digest

routes = web.RouteTableDef()


def _text(raw: bytes) -> str:
    return raw.decode("latin-1")


@routes.get("/health")
async def health(request: web.Request) -> web.Response:
    """`{"status": "ok"}`."""
    return web.json_response({"status": "ok"})


async def _echo(request: web.Request) -> web.Response:
    """The request line, the headers as ordered pairs, and the body's length and SHA-256 (bytes as Latin-1)."""
    counted, hashed = await digest(request)
    target = _text(request.raw_path.encode("utf-8", "surrogateescape"))
    path, _, query = target.partition("?")
    peer = request.transport.get_extra_info("peername") if request.transport else None
    body = {
        "method": request.method,
        "path": path,
        "query": query,
        "target": target,
        "version": f"{request.version.major}.{request.version.minor}",
        "headers": [[_text(name), _text(value)] for name, value in request.raw_headers],
        "body": {"length": counted, "sha256": hashed},
        # The gateway's own port: two requests with the same one came over the same connection.
        "peer_port": peer[1] if isinstance(peer, tuple) else None,
    }
    delay = float(request.query.get("delay", 0))
    if delay:
        await asyncio.sleep(delay)
    response = web.json_response(body, status=int(request.query.get("status", 200)))
    for line in request.query.getall("header", []):
        name, _, value = line.partition(":")
        response.headers.add(name.strip(), value.strip())
    return response


routes.route("*", "/echo")(_echo)
routes.route("*", "/echo/{tail:.*}")(_echo)
