"""Long answers: server-sent events and a WebSocket that echoes."""

from __future__ import annotations

import asyncio
import json
import time

from aiohttp import WSMsgType, web

routes = web.RouteTableDef()


@routes.get("/events")
async def events(request: web.Request) -> web.StreamResponse:
    """Server-sent events: `?count=` (0: for ever) of them, one every `?interval=` seconds, from `Last-Event-ID` on."""
    count = int(request.query.get("count", 10))
    interval = float(request.query.get("interval", 1))
    number = int(request.headers.get("Last-Event-ID", 0))
    headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    sent = 0
    try:
        while not count or sent < count:
            if sent:
                await asyncio.sleep(interval)
            number, sent = number + 1, sent + 1
            data = json.dumps({"number": number, "time": time.time()})
            await response.write(f"id: {number}\nevent: tick\ndata: {data}\n\n".encode())
        await response.write_eof()
    except ConnectionError:
        # The reader has left: that is how a stream without end ends.
        return response
    return response


@routes.get("/ws")
async def echo_socket(request: web.Request) -> web.WebSocketResponse:
    """Echo every message; the text `close` closes with 1000, `headers` answers with the handshake's headers."""
    socket = web.WebSocketResponse(protocols=("lms", "chat"), max_msg_size=16 << 20)
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)
        elif message.type is WSMsgType.TEXT:
            if message.data == "close":
                await socket.close()
            elif message.data == "headers":
                await socket.send_str(json.dumps(list(request.headers.items())))
            else:
                await socket.send_str(message.data)
    return socket
