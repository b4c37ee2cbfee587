"""A node in memory: the control process's verifier, workers that ask it, and links whose messages move when told to."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable
from typing import Any

from gateway.control.verification import Verification
from gateway.core.decision import Deny, Pending
from gateway.core.identity import Identity
from gateway.core.ports import KeyRecord
from gateway.credentials.delegated import DelegatedVerifier
from gateway.credentials.memory import Memory
from gateway.credentials.questions import Questions
from gateway.credentials.wire import Wire
from tests.credentials.fakes import ADDRESS, Bench, settled, text_of, turns

Outcome = Identity | Deny


class Worker:
    """One worker, and its link: `up` and `down` hold what is on the way, in order, pickled as it would be."""

    def __init__(self, node: Node, memory: Memory | None = None) -> None:
        self.node = node
        self.up: deque[bytes] = deque()
        self.down: deque[bytes] = deque()
        self.alive = True
        self.questions = Questions(
            lambda number, token, client: self._send(self.up, "ask", number, token, client),
            lambda number: self._send(self.up, "cancel", number),
        )
        self.verifier = DelegatedVerifier(self.questions, node.bench.clock, 300.0, memory)

    # ── the control process's end ───────────────────────────────────────────────────────────────

    def answered(self, number: int, told: Wire) -> None:
        self._send(self.down, "answered", number, told)

    def tell(self, *message: Any) -> None:
        """Put something on the way to the worker."""
        self._send(self.down, *message)

    # ── the link ────────────────────────────────────────────────────────────────────────────────

    @staticmethod
    def _send(queue: deque[bytes], *message: Any) -> None:
        queue.append(pickle.dumps(message, protocol=5))

    def move_up(self) -> None:
        """The oldest message of the worker arrives."""
        if self.up:
            kind, *rest = pickle.loads(self.up.popleft())
            if kind == "ask":
                self.node.verification.ask(self, *rest)
            elif kind == "cancel":
                self.node.verification.cancel(self, *rest)
            else:
                self.node.acknowledged(self, *rest)

    def move_down(self) -> None:
        """The oldest message to the worker arrives."""
        if self.down:
            kind, *rest = pickle.loads(self.down.popleft())
            if kind == "answered":
                self.questions.answered(*rest)
            elif kind == "invalidate":
                epoch, changes = rest
                for change in changes:
                    self.verifier.forget(*change)
                self._send(self.up, "ack", epoch)

    def die(self) -> None:
        """The link is at its end."""
        self.alive = False
        self.up.clear()
        self.down.clear()
        self.node.verification.gone(self)
        self.questions.lost()
        self.verifier.lose()

    # ── a request ───────────────────────────────────────────────────────────────────────────────

    def ask(self, token: bytes, client: str = ADDRESS) -> Outcome | Pending[Outcome]:
        """Ask without waiting."""
        return self.verifier.verify_key(token, client, self.node.bench.clock.time())

    async def answer(self, token: bytes, client: str = ADDRESS) -> Outcome:
        """Ask and wait, while everything moves."""
        outcome = self.ask(token, client)
        await self.node.settle()
        return await settled(outcome)

    async def text(self, token: bytes, client: str = ADDRESS) -> str:
        """Ask and wait: the consumer's name, or the refusal's text."""
        return text_of(await self.answer(token, client))


class Node:
    """The control process over fakes (`Bench`), and workers."""

    def __init__(self, *records: KeyRecord, workers: int = 2, held: bool = False) -> None:
        self.bench = Bench(*records, held=held)
        self.verification = Verification(self.bench.verifier, self.bench.clock.time)
        self.workers = [Worker(self) for _ in range(workers)]
        self.epoch = 0
        self._waiting: dict[int, set[Worker]] = {}

    def invalidate(self, kind: str, name: str) -> Callable[[], bool]:
        """Tell of a change in the store, as the change feed does; says whether all have acknowledged."""
        self.bench.verifier.forget(kind, name)
        self.epoch += 1
        epoch = self.epoch
        self._waiting[epoch] = {worker for worker in self.workers if worker.alive}
        for worker in self._waiting[epoch]:
            worker.tell("invalidate", epoch, [(kind, name)])
        return lambda: not self._waiting[epoch]

    def acknowledged(self, worker: Worker, epoch: int) -> None:
        self._waiting[epoch].discard(worker)

    async def settle(self) -> None:
        """Let everything that is on the way arrive, and the loop run on."""
        for _ in range(100):
            moved = False
            for worker in self.workers:
                while worker.up or worker.down:
                    worker.move_up()
                    worker.move_down()
                    moved = True
            await turns(20)
            if not moved and not any(worker.up or worker.down for worker in self.workers):
                return
        raise AssertionError("it never comes to rest")
