"""Counters in a Redis Cluster: what counts by one identity lies in one slot, and is decided by one script there.

Law: the cluster is asked again where the slots are whenever it says that they have moved, whenever a node cannot be
asked, and every few seconds.  A question that meets a slot which has just moved is asked again where it is now.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final

from gateway.core.counters_url import Address, RedisLocation
from gateway.core.decision import Pending
from gateway.core.errors import CountersError
from gateway.core.ports import Demand, Verdict
from gateway.counters.redis.asking import MOST_TRIES, Host, Query, Taking
from gateway.counters.redis.door import Door
from gateway.counters.redis.node import Node
from gateway.counters.redis.questions import PREFIX, SLOTS, Question, Questions, slot_of
from gateway.counters.redis.refusals import AGAIN, ASK, MOVED, refusal_of
from gateway.counters.redis.reservation import Reservation
from gateway.counters.redis.single import PROBE
from gateway.counters.redis.slots import Range, ranges_of
from gateway.counters.redis.wire import Ignored, packed

_log = logging.getLogger("postern.counters")

#: Seconds between two questions about the slots: while all is well, and while it is not.
_CALM: Final = 5.0
_URGENT: Final = 0.25
#: Seconds before a question is asked again whose keys are just being moved.
_MOVING: Final = 0.005

#: Numbers that are tried for one whose slot is a node's: even a single slot is met long before.
_PROBES: Final = 16 * SLOTS

_ASKING: Final = packed((b"ASKING",))


class ClusterCounters(Host):
    """`gateway.core.ports.Counters` in a cluster.  Made and used on the event loop's thread.

    `clock` (nanoseconds) counts in place of Redis' own time, in tests.
    """

    def __init__(self, location: RedisLocation, clock: Callable[[], int] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._location = location
        self._clock = clock
        self._questions = Questions(scattered=True)
        self._door = Door(location)
        self._nodes: dict[Address, Node] = {}
        self._masters: list[Node | None] = [None] * SLOTS
        #: What each node counts to prove that it can: the number in a key of one of its slots.
        self._probes: dict[Node, int] = {}
        self._whole = False
        self._reason = f"Redis {location} has not been reached yet"
        self._said = ""
        self._wanted = asyncio.Event()
        self._tried = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()
        self._follower = self._loop.create_task(self._follow(), name=f"redis {location}")

    @property
    def up(self) -> bool:
        """Whether every slot can be asked."""
        return self._whole and all(node.up for node in self._nodes.values())

    def take(self, demands: Sequence[Demand], now_ns: int) -> Pending[Verdict]:
        """Admit and count one request in all windows of all demands, or in none.

        `now_ns` is not used: all gateways count by Redis' own time.  Raises `CountersError`, or fails with it.
        """
        if not demands:
            raise ValueError("nothing is demanded")
        questions = self._questions.of(demands)
        clock = b"" if self._clock is None else b"%d" % (self._clock() // 1000)
        if len(questions) > 1:
            for question in questions:
                self._master(question.slot)
            reservation = Reservation(questions, self, clock)
            reservation.begin()
            return reservation.pending
        question = questions[0]
        pending: Pending[Verdict] = Pending()
        self.ask(Taking(question.at(clock) if clock else question.request, self, question.slot, pending))
        return pending

    def sweep(self, now_ns: int) -> int:
        """Nothing: keys expire by themselves."""
        return 0

    async def opened(self) -> None:
        """Wait until it has been tried once, well or not."""
        await self._tried.wait()

    async def close(self) -> None:
        """Close all connections; what waits fails."""
        self._follower.cancel()
        await asyncio.gather(self._follower, *self._closing, return_exceptions=True)
        self._whole, self._reason = False, "the counters are closed"
        await asyncio.gather(*(node.close() for node in self._nodes.values()))

    # ── asking ───────────────────────────────────────────────────────────────────────────────

    def ask(self, query: Query) -> None:
        """Ask the master of the query's slot.  Raises `CountersError`."""
        self.send(query, self._master(query.slot))

    def refused(self, query: Query, reply: Any) -> None:
        """Judge an error reply; what has moved is asked where it is now."""
        refusal = refusal_of(reply)
        if refusal.kind not in {MOVED, ASK, AGAIN} or query.node is None:
            super().refused(query, reply)
            return
        query.tries += 1
        if query.tries >= MOST_TRIES:
            query.failed(CountersError(f"Redis {self._location} is moving what was asked for"))
            return
        try:
            if refusal.address is None:
                self._loop.call_later(_MOVING, self._again, query)
                return
            address, answered = refusal.address, query.node.address
            if not address.host and answered is not None:
                address = Address(answered.host, address.port)
            node = self._node(address)
            if refusal.kind == MOVED:
                self._masters[refusal.slot] = node
                self._wanted.set()
            else:
                node.ask(Ignored(_ASKING))
            self.send(query, node)
        except CountersError as error:
            query.failed(error)

    def _again(self, query: Query) -> None:
        try:
            self.ask(query)
        except CountersError as error:
            query.failed(error)

    def _master(self, slot: int) -> Node:
        """The node that holds a slot.  Raises `CountersError` if it cannot be asked."""
        node = self._masters[slot]
        if node is None:
            raise CountersError(self._reason)
        if not node.up:
            raise CountersError(node.reason)
        return node

    def _node(self, address: Address) -> Node:
        node = self._nodes.get(address)
        if node is None:

            async def find() -> Address:
                return address

            node = self._nodes[address] = Node(
                self._location,
                self._door,
                str(address),
                find,
                self._probe,
                changed=self._wanted.set,
            )
        return node

    def _probe(self, node: Node) -> bytes:
        """A command that counts once in a slot of `node`.  Raises `CountersError` if it has none."""
        number = self._probes.get(node, 0)
        if self._masters[slot_of(b"{%d}" % number)] is not node:
            number = 0
            while self._masters[slot_of(b"{%d}" % number)] is not node:
                number += 1
                if number > _PROBES:
                    raise CountersError("is not the master of any slot")
            self._probes[node] = number
        subject = str(number)
        return Question(
            (Demand(f"{PROBE.key} {subject}", PROBE.rates, PROBE.algorithm, subject),), (0,), PREFIX
        ).request

    # ── where the slots are ──────────────────────────────────────────────────────────────────

    async def _follow(self) -> None:
        while True:
            begun = monotonic()
            self._wanted.clear()
            await self._look()
            if not self._tried.is_set() and self._whole:
                await asyncio.gather(*(node.tried() for node in self._nodes.values()))
            self._tried.set()
            try:
                async with asyncio.timeout(_CALM if self.up else _URGENT):
                    await self._wanted.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(max(0.0, begun + _URGENT - monotonic()))

    async def _look(self) -> None:
        """Ask where the slots are: nodes that are up first, then those of the URL, then whoever else is known."""
        up = [address for address, node in self._nodes.items() if node.up]
        reason = "cannot be reached"
        for address in dict.fromkeys((*up, *self._location.addresses, *self._nodes)):
            try:
                async with asyncio.timeout(self._location.connect_patience):
                    reply = await self._door.slots(address)
                self._adopt(ranges_of(reply, address))
                return
            except CountersError as error:
                reason = str(error)
            except TimeoutError:
                reason = "cannot be reached in time"
            except Exception as fault:  # noqa: BLE001 - nobody else would ever look again
                reason = f"cannot be asked ({type(fault).__name__})"
        if not self._nodes:
            self._say(reason)

    def _adopt(self, ranges: list[Range]) -> None:
        masters: list[Node | None] = [None] * SLOTS
        named: set[Address] = set()
        for first, last, address in ranges:
            named.add(address)
            masters[first : last + 1] = [self._node(address)] * (last + 1 - first)
        self._masters = masters
        self._whole = None not in masters
        for address in [address for address in self._nodes if address not in named]:
            node = self._nodes.pop(address)
            self._probes.pop(node, None)
            task = self._loop.create_task(node.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        self._say("" if self._whole else "has slots that no node serves")

    def _say(self, reason: str) -> None:
        """Log what concerns the cluster as a whole; each node speaks for itself."""
        self._reason = f"Redis {self._location} {reason}"
        if reason and reason != self._said:
            _log.error("counters cannot be asked, each rule's on_fault decides until they can: %s", self._reason)
        self._said = reason
