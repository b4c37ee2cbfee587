"""Questions of requests, and what becomes of a refused one: asked again where that helps, else the request fails."""

from __future__ import annotations

from typing import Any, Final

from gateway.core.decision import Pending
from gateway.core.errors import CountersError
from gateway.core.ports import Verdict
from gateway.counters.redis.node import Node
from gateway.counters.redis.questions import states_of
from gateway.counters.redis.refusals import MOVED, NO_SCRIPT, SERVER, refusal_of
from gateway.counters.redis.wire import Asked

#: How often one question may be asked.
MOST_TRIES: Final = 3


class Query(Asked):
    """A question of a request's: its answer is told to `told`, an error reply is the `host`'s to judge."""

    __slots__ = ("host", "node", "slot", "tries")

    def __init__(self, command: bytes, host: Host, slot: int) -> None:
        super().__init__(command)
        self.host = host
        self.slot = slot
        self.node: Node | None = None
        self.tries = 0

    def answered(self, reply: Any) -> None:
        if type(reply) is list:
            self.told(reply)
        else:
            self.host.refused(self, reply)

    def told(self, reply: list[Any]) -> None:
        """Take what take.lua or undo.lua answered."""
        raise NotImplementedError


class Host:
    """Those who ask nodes, and judge what is refused: what holds of any number of them."""

    def ask(self, query: Query) -> None:
        """Ask whoever keeps what the query is about.  Raises `CountersError`."""
        raise NotImplementedError

    def send(self, query: Query, node: Node) -> None:
        """Ask `node`.  Raises `CountersError`."""
        query.node = node
        node.ask(query)

    def refused(self, query: Query, reply: Any) -> None:
        """Judge an error reply: ask again where that helps, else the query fails."""
        refusal, node = refusal_of(reply), query.node
        assert node is not None  # noqa: S101 - it has answered
        query.tries += 1
        if refusal.kind == NO_SCRIPT and query.tries < MOST_TRIES:
            try:
                node.reload()
                self.send(query, node)
            except CountersError as error:
                query.failed(error)
            return
        if refusal.kind in {SERVER, MOVED}:
            node.trip(refusal.text)
            query.failed(CountersError(node.reason))
            return
        query.failed(CountersError(f"Redis {refusal.text}"))


class Taking(Query):
    """The question of one request that lies on one server."""

    __slots__ = ("pending",)

    def __init__(self, command: bytes, host: Host, slot: int, pending: Pending[Verdict]) -> None:
        super().__init__(command, host, slot)
        self.pending = pending

    def told(self, reply: list[Any]) -> None:
        """The verdict."""
        self.pending.resolve(Verdict(reply[0] == 1, states_of(reply)))

    def failed(self, error: CountersError) -> None:
        """A fault."""
        self.pending.fail(error)
