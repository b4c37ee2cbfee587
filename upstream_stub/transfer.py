"""Upload and download in streams: neither ever holds more than a chunk.

A download's bytes are a fixed pattern of their offset (`pattern`), so that any range can be checked.
"""

from __future__ import annotations

import asyncio
import hashlib
import re

from aiohttp import web

CHUNK = 65536
MAX_DOWNLOAD = 1 << 40
HANDBOOK_SIZE = 1 << 20
_PERIOD = 251
_TILE = bytes(range(_PERIOD)) * (CHUNK // _PERIOD + 2)
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")

routes = web.RouteTableDef()


def pattern(offset: int, size: int) -> bytes:
    """The download's bytes `[offset, offset + size)`: byte `i` is `i mod 251`; `size` at most 65536."""
    start = offset % _PERIOD
    return _TILE[start : start + size]


def parse_range(header: str | None, total: int) -> tuple[int, int] | None:
    """One range as `(first, last + 1)`, or None for the whole (several ranges or another unit too).

    Raises ValueError where nothing of it lies inside `total` bytes (416).
    """
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        first, end = max(0, total - int(match[2])), total
    else:
        first = int(match[1])
        end = min(total, int(match[2]) + 1) if match[2] else total
    if match[1] and match[2] and int(match[2]) < first:
        return None
    if first >= end:
        raise ValueError("the range lies outside the file")
    return first, end


async def _stream(request: web.Request, response: web.StreamResponse, first: int, end: int) -> web.StreamResponse:
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    gap = float(request.query.get("gap", 0))
    offset = first
    while offset < end:
        size = min(CHUNK, end - offset)
        await response.write(pattern(offset, size))
        offset += size
        if gap:
            await asyncio.sleep(gap)
    await response.write_eof()
    return response


async def _send(request: web.Request, total: int) -> web.StreamResponse:
    tag = f'"{total:x}"'
    headers = {"ETag": tag, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    if request.headers.get("If-None-Match") == tag:
        return web.Response(status=304, headers={"ETag": tag})
    try:
        span = parse_range(request.headers.get("Range"), total)
    except ValueError:
        return web.Response(status=416, headers={"Content-Range": f"bytes */{total}"})
    if span is None:
        response = web.StreamResponse(headers=headers)
        first, end = 0, total
    else:
        first, end = span
        response = web.StreamResponse(status=206, headers=headers)
        response.headers["Content-Range"] = f"bytes {first}-{end - 1}/{total}"
    if "chunked" in request.query:
        response.enable_chunked_encoding()
    else:
        response.content_length = end - first
    return await _stream(request, response, first, end)


@routes.get("/api/download/{size:\\d{1,13}}")
async def download(request: web.Request) -> web.StreamResponse:
    """Stream so many bytes; `?chunked` leaves the length out, `?gap=` waits so many seconds between chunks."""
    total = int(request.match_info["size"])
    if total > MAX_DOWNLOAD:
        return web.json_response({"error": f"at most {MAX_DOWNLOAD} bytes"}, status=400)
    return await _send(request, total)


@routes.get("/api/files/handbook")
async def handbook(request: web.Request) -> web.StreamResponse:
    """A fixed file of 1 MiB."""
    return await _send(request, HANDBOOK_SIZE)


async def digest(request: web.Request) -> tuple[int, str]:
    """Read a request's body as it comes, exactly as sent: `(bytes, sha256 in hex)`."""
    counted, hashed = 0, hashlib.sha256()
    async for chunk in request.content.iter_any():
        counted += len(chunk)
        hashed.update(chunk)
    return counted, hashed.hexdigest()


async def _upload(request: web.Request) -> web.Response:
    counted, hashed = await digest(request)
    return web.json_response({"bytes": counted, "sha256": hashed}, status=201)


routes.post("/api/upload")(_upload)
routes.put("/api/upload")(_upload)
