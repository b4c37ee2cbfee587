"""The access tokens of a process, opened when a configuration first wants one: aiohttp's client is not small."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from gateway.core.ports import ClientCredentialsGrant

if TYPE_CHECKING:
    from gateway.core.ports import Clock
    from gateway.issuers.access_tokens import HeldToken, HeldTokens
    from gateway.issuers.token_endpoint import TokenEndpoint


class Issuers:
    """`gateway.core.ports.AccessTokens` of all issuers that configurations name, one a process; it outlives reloads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._opened: tuple[HeldTokens, TokenEndpoint] | None = None

    def source(self, grant: ClientCredentialsGrant) -> HeldToken:
        """The source of a grant's tokens; may be called in any thread."""
        with self._lock:
            if self._opened is None:
                from gateway.issuers.access_tokens import HeldTokens
                from gateway.issuers.token_endpoint import TokenEndpoint

                endpoint = TokenEndpoint()
                self._opened = HeldTokens(self._clock, endpoint.fetch), endpoint
            tokens, _ = self._opened
        return tokens.source(grant)

    async def close(self) -> None:
        """End what is being fetched, close what is open."""
        if self._opened is not None:
            tokens, endpoint = self._opened
            await tokens.close()
            await endpoint.close()
