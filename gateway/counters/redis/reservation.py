"""One request whose demands lie in several slots of a cluster: counted in each, and taken back if one refuses.

All slots are asked at once.  If all admit, the request is admitted.  If one refuses, what the others have counted is
undone before the verdict is given, so a refused request has counted nowhere.  Until then (a round trip) others find
less room than there is: stricter, never looser.  So it stays where taking back fails, since a server was lost.
"""

from __future__ import annotations

from typing import Any

from gateway.core.decision import Pending
from gateway.core.errors import CountersError
from gateway.core.ports import Verdict, WindowState
from gateway.counters.redis.asking import Host, Query
from gateway.counters.redis.questions import Question, states_of


class Reserving(Query):
    """The question of one slot: to count there, or to take back what was counted."""

    __slots__ = ("index", "reservation", "undoes")

    def __init__(self, command: bytes, host: Host, reservation: Reservation, index: int, undoes: bool) -> None:
        super().__init__(command, host, reservation.questions[index].slot)
        self.reservation = reservation
        self.index = index
        self.undoes = undoes

    def told(self, reply: list[Any]) -> None:
        """The answer of this slot."""
        if self.undoes:
            self.reservation.undone(self.index, reply)
        else:
            self.reservation.taken(self.index, reply)

    def failed(self, error: CountersError) -> None:
        """No answer of this slot."""
        if self.undoes:
            self.reservation.undone(self.index, None)
        else:
            self.reservation.missed(error)


class Reservation:
    """See the module.  `begin` asks; the verdict, or a `CountersError`, goes to `pending`."""

    __slots__ = ("_clock", "_error", "_host", "_open", "_replies", "pending", "questions")

    def __init__(self, questions: list[Question], host: Host, clock: bytes) -> None:
        self.questions = questions
        self.pending: Pending[Verdict] = Pending()
        self._host = host
        self._clock = clock
        self._replies: list[list[Any] | None] = [None] * len(questions)
        self._open = 0
        self._error: CountersError | None = None

    def begin(self) -> None:
        """Ask every slot; what cannot be asked is a fault of the whole."""
        self._open = len(self.questions)
        for index, question in enumerate(self.questions):
            command = question.at(self._clock) if self._clock else question.request
            self._send(Reserving(command, self._host, self, index, False))

    def taken(self, index: int, reply: list[Any]) -> None:
        """A slot has counted, or refused."""
        self._replies[index] = reply
        self._closed()

    def missed(self, error: CountersError) -> None:
        """A slot could not be asked."""
        self._error = error
        self._closed()

    def undone(self, index: int, reply: list[Any] | None) -> None:
        """A slot has taken back what it counted; None: it could not be asked, and what it said before stands."""
        if reply is not None:
            self._replies[index] = reply
        self._open -= 1
        if self._open == 0:
            self._conclude(False)

    def _closed(self) -> None:
        self._open -= 1
        if self._open:
            return
        counted = [index for index, reply in enumerate(self._replies) if reply is not None and reply[0] == 1]
        if len(counted) == len(self.questions):
            self._conclude(True)
            return
        if self._error is not None:
            # Nobody needs to wait for what can no longer be told.
            self.pending.fail(self._error)
        elif not counted:
            self._conclude(False)
            return
        self._open = len(counted)
        for index in counted:
            reply = self._replies[index]
            assert reply is not None  # noqa: S101 - it has counted
            undo = self.questions[index].undo(reply[1], self._clock)
            self._send(Reserving(undo, self._host, self, index, True))

    def _send(self, query: Reserving) -> None:
        try:
            self._host.ask(query)
        except CountersError as error:
            query.failed(error)

    def _conclude(self, admitted: bool) -> None:
        if self._error is not None:
            return
        states: dict[int, WindowState] = {}
        for question, reply in zip(self.questions, self._replies, strict=True):
            if reply is not None:
                states.update(zip(question.places, states_of(reply), strict=True))
        self.pending.resolve(Verdict(admitted, [states[place] for place in range(len(states))]))
