"""A worker's questions about tokens, on their way to the control process: each has a number, and gets one answer.

Laws: every question ends once: by its answer; by nobody waiting any more, or no longer (then the control process is
told, and what is queued for it is dropped); or by the loss of the link, which fails it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from gateway.core.decision import Pending
from gateway.core.errors import StoreError
from gateway.credentials.wire import Judgement, Wire, from_wire

_log = logging.getLogger("postern.credentials")


class Questions:
    """The questions that one worker has open.

    `send(number, token, client)` puts a question on the link, `cancel(number)` takes it back.
    """

    def __init__(self, send: Callable[[int, bytes, str], None], cancel: Callable[[int], None]) -> None:
        self._send = send
        self._cancel = cancel
        self._number = 0
        self._open: dict[int, Pending[Judgement]] = {}
        self._lost = False

    def __len__(self) -> int:
        return len(self._open)

    def ask(self, token: bytes, client: str) -> Pending[Judgement]:
        """Have a whole token judged, for a client's address.  Fails with `StoreError` once the link is lost."""
        if self._lost:
            nobody: Pending[Judgement] = Pending()
            nobody.fail(_unreachable())
            return nobody
        self._number += 1
        number = self._number
        question: Pending[Judgement] = Pending(on_cancel=lambda: self._withdraw(number))
        self._open[number] = question
        self._send(number, token, client)
        return question

    def answered(self, number: int, told: Wire) -> None:
        """Take an answer off the link; one to a question that was taken back meanwhile is nobody's.

        Never raises: the link carries everybody's answers, and ends for what is raised.
        """
        question = self._open.pop(number, None)
        if question is None:
            return
        try:
            judgement = from_wire(told)
        except Exception as error:  # noqa: BLE001  # a fault, handed to who asked
            _deliver(question, error)
        else:
            _deliver(question, judgement)

    def give_up(self) -> None:
        """Wait no longer for what is open: it fails, and is taken back."""
        for number in list(self._open):
            question = self._open.pop(number, None)
            if question is not None:
                self._cancel(number)
                _deliver(question, _unreachable())

    def lost(self) -> None:
        """Nothing will be answered any more."""
        self._lost = True
        waiting, self._open = list(self._open.values()), {}
        for question in waiting:
            _deliver(question, _unreachable())

    def _withdraw(self, number: int) -> None:
        if self._open.pop(number, None) is not None:
            self._cancel(number)


def _unreachable() -> StoreError:
    return StoreError("the control process cannot be asked")


def _deliver(question: Pending[Judgement], answer: Judgement | Exception) -> None:
    """Answer one question, whatever its receiver makes of it: that must not cost the others their answer."""
    try:
        if isinstance(answer, Exception):
            question.fail(answer)
        else:
            question.resolve(answer)
    except Exception:  # noqa: BLE001  # see above
        _log.exception("a request failed when its key had been verified")
