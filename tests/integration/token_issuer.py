"""An issuer of access tokens over real sockets, as a test wants it: `async with TokenIssuer() as issuer:`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from aiohttp import web


@dataclass(frozen=True)
class Asked:
    """One request to the issuer: its form, its `Authorization`, the names of its headers in lower case."""

    form: dict[str, str]
    authorization: str | None
    headers: frozenset[str]


Answer = Callable[[int], Awaitable[web.StreamResponse]]


class TokenIssuer:
    """Gives `token-1`, `token-2`, … with `kind` and `lifetime` after `delay` seconds, or whatever `answer` says;
    nobody is answered while `open` is not set."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.delay = 0.0
        self.open = asyncio.Event()
        self.open.set()
        self.lifetime: Any = 3600
        self.kind = "Bearer"
        self.token = "token-{}"
        self.answer: Answer | None = None
        self.elsewhere = 0
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """The token endpoint."""
        return f"http://127.0.0.1:{self.port}/oauth2/access_token"

    async def _issue(self, request: web.Request) -> web.StreamResponse:
        form = {name: str(value) for name, value in (await request.post()).items()}
        names = frozenset(name.lower() for name in request.headers)
        self.asked.append(Asked(form, request.headers.get("Authorization"), names))
        number = len(self.asked)
        await asyncio.sleep(self.delay)
        await self.open.wait()
        if self.answer is not None:
            return await self.answer(number)
        token = self.token.format(number)
        return web.json_response({"access_token": token, "token_type": self.kind, "expires_in": self.lifetime})

    async def _elsewhere(self, request: web.Request) -> web.StreamResponse:
        self.elsewhere += 1
        return web.json_response({"access_token": "stolen", "token_type": "Bearer"})

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/oauth2/access_token", self._issue)
        app.router.add_route("*", "/elsewhere", self._elsewhere)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
