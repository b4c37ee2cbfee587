"""Answering what workers ask about tokens, with the node's one verifier.

Laws: an answer goes on the link in the very call in which it was found, so whatever invalidates it later follows it;
a question that nobody waits for any more, or whose worker is gone, is taken back from the verifier, and a hash that
is still queued for it is never spent; whatever breaks is a refusal, never an identity.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from gateway.core.answers import MALFORMED_TOKEN, VERIFY_FAILED
from gateway.core.decision import Deny, Pending
from gateway.core.identity import Identity
from gateway.credentials.memory import Entry
from gateway.credentials.wire import Judgement, Wire, to_wire

_log = logging.getLogger("postern.control")
_UNVERIFIED = to_wire(Judgement(Deny(VERIFY_FAILED)))


class Asker(Protocol):
    """A worker that asks."""

    def answered(self, number: int, told: Wire) -> None:
        """Put the answer to the question of this number on the way (`credentials.wire.from_wire` reads it)."""
        ...


class NodeVerifier(Protocol):
    """The verifier, as far as it matters here (`credentials.verify.Verifier`)."""

    def verify_key(self, token: bytes, client: str, now: float) -> Identity | Deny | Pending[Identity | Deny]: ...

    def remembered(self, token: bytes) -> Entry | None: ...


class Verification:
    """The open questions of all workers.  `time` says what time it is, in Unix seconds."""

    def __init__(self, verifier: NodeVerifier, time: Callable[[], float]) -> None:
        self._verifier = verifier
        self._time = time
        self._open: dict[Asker, dict[int, Pending[Identity | Deny]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    def ask(self, asker: Asker, number: int, token: bytes, client: str) -> None:
        """Judge a token for a client's address, and answer under this number as soon as that is done."""
        try:
            outcome = self._verifier.verify_key(token, client, self._time())
        except Exception:  # noqa: BLE001  # logged, and answered as a fault
            _broke(asker, number)
            return
        if not isinstance(outcome, Pending):
            self._answer(asker, number, token, outcome)
            return
        self._open.setdefault(asker, {})[number] = outcome

        def judged(answer: Identity | Deny) -> None:
            if self._close(asker, number) is not None:
                self._answer(asker, number, token, answer)

        def failed(error: BaseException) -> None:
            if self._close(asker, number) is not None:
                _broke(asker, number, error)

        outcome.then(judged, failed)

    def cancel(self, asker: Asker, number: int) -> None:
        """Nobody waits for this answer any more; it may be on its way already."""
        question = self._close(asker, number)
        if question is not None:
            question.cancel()

    def gone(self, asker: Asker) -> None:
        """A worker has ended, and all of its questions with it."""
        for question in self._open.pop(asker, {}).values():
            question.cancel()

    def _close(self, asker: Asker, number: int) -> Pending[Identity | Deny] | None:
        questions = self._open.get(asker)
        if questions is None:
            return None
        question = questions.pop(number, None)
        if not questions:
            del self._open[asker]
        return question

    def _answer(self, asker: Asker, number: int, token: bytes, outcome: Identity | Deny) -> None:
        try:
            told = to_wire(self._judgement(token, outcome))
        except Exception:  # noqa: BLE001  # as above
            _broke(asker, number)
        else:
            asker.answered(number, told)

    def _judgement(self, token: bytes, outcome: Identity | Deny) -> Judgement:
        entry = self._verifier.remembered(token)
        if entry is not None and entry.answer is outcome:
            return Judgement(outcome, entry.expires_at, entry.record, remember=True)
        return Judgement(outcome, remember=isinstance(outcome, Deny) and outcome.answer is MALFORMED_TOKEN)


def _broke(asker: Asker, number: int, error: BaseException | None = None) -> None:
    _log.error("a key could not be verified", exc_info=True if error is None else error)
    asker.answered(number, _UNVERIFIED)
