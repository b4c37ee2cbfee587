"""What a policy answers: values, never exceptions (law 3).

`Allow`, `Deny`, `Reply` and `Abstain` are final; a `Pending` stands for one of them
that is not known yet.  Refusals are ordinary values, so the hot path neither raises
nor catches; an exception out of a policy means that something broke.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, TypeVar, cast

from gateway.core.answers import Answer

T = TypeVar("T")

Facts = Mapping[str, Any]
NO_FACTS: Facts = {}


def _only_ours(cls: type[Any]) -> None:
    """Refuse a subclass where it is made: the compiled build could not even make one of its instances."""
    if cls.__module__ != __name__:
        raise TypeError("decisions are values: make an instance, not a subclass")


class Decision:
    """The common parent.  `facts` are what `postern explain` prints beside the verdict."""

    __slots__ = ("facts",)

    def __init__(self, facts: Facts = NO_FACTS) -> None:
        self.facts = facts

    def __init_subclass__(cls) -> None:
        _only_ours(cls)


class Allow(Decision):
    """Let the request go on to the next policy.  Return the singleton `ALLOW` when there are no facts."""

    __slots__ = ()


class Abstain(Decision):
    """Not mine to judge: an authenticator that finds no credential of its kind."""

    __slots__ = ()


class Deny(Decision):
    """Refuse with one of the gateway's own answers (contract §4).

    `answer` is the row of the table, `headers` are extra header lines for this answer
    (`(b"WWW-Authenticate", b"Bearer ...")`), `reason` is the label of `postern_denied_total`
    (default: the answer's own), `close` ends the connection after the answer.
    """

    __slots__ = ("answer", "close", "headers", "members", "reason")

    def __init__(
        self,
        answer: Answer,
        *,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        reason: str = "",
        members: Mapping[str, Any] | None = None,
        close: bool = False,
        facts: Facts = NO_FACTS,
    ) -> None:
        super().__init__(facts)
        self.answer = answer
        self.headers = headers
        self.reason = reason or answer.reason
        self.members = members
        self.close = close


class Reply(Decision):
    """Answer here and now with a status, headers and a body of the policy's own (a preflight, `/ping`, a cache hit)."""

    __slots__ = ("body", "headers", "status")

    def __init__(
        self,
        status: int,
        *,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        body: bytes = b"",
        facts: Facts = NO_FACTS,
    ) -> None:
        super().__init__(facts)
        if not 200 <= status <= 599:
            raise ValueError(f"a reply is final, its status 200 to 599: {status}")
        self.status = status
        self.headers = headers
        self.body = body


ALLOW: Final = Allow()
ABSTAIN: Final = Abstain()


#: A `Pending` waits, was delivered, is waited for by nobody any more, or has handed over what was delivered.
_WAITING: Final = 0
_DELIVERED: Final = 1
_CANCELLED: Final = 2
_TAKEN: Final = 3


class Pending(Generic[T]):
    """A value that somebody else will deliver: plain callbacks, no task and no future (law 2).

    The maker calls `resolve(value)` or `fail(error)` once, on the event loop's thread, at any
    time after it has returned the object.  The receiver calls `then(callback, errback)` once:
    if the value is already there the callback runs at once.  `cancel()` says that nobody waits
    any more: neither callback will run, and `on_cancel` (if the maker gave one) is told.
    A delivery after a cancellation is dropped silently; a second delivery is an error.
    """

    __slots__ = ("_callback", "_errback", "_error", "_on_cancel", "_state", "_step", "_value")

    def __init__(self, on_cancel: Callable[[], None] | None = None) -> None:
        self._state = _WAITING
        self._callback: Callable[[T], None] | None = None
        self._errback: Callable[[BaseException], None] | None = None
        self._step: Step[Any] | None = None
        self._value: T | None = None
        self._error: BaseException | None = None
        self._on_cancel = on_cancel

    @property
    def done(self) -> bool:
        """True once a value or an error was delivered, or nobody waits for it any more."""
        return self._state != _WAITING

    def then(self, callback: Callable[[T], None], errback: Callable[[BaseException], None]) -> None:
        """Take the value with `callback`, or a fault with `errback`; exactly one of them runs, once."""
        self._claim()
        self._callback, self._errback = callback, errback
        if self._state == _DELIVERED:
            self._fire()

    def lead_to(self, step: Step[Any]) -> None:
        """As `then`, with a `Step` in place of the callbacks; called by the step's `wait_for`."""
        self._claim()
        self._step = step
        if self._state == _DELIVERED:
            self._fire()

    def resolve(self, value: T) -> None:
        """Deliver the value."""
        if self._deliver():
            self._value = value
            self._fire()

    def fail(self, error: BaseException) -> None:
        """Deliver a fault instead of a value."""
        if self._deliver():
            self._error = error
            self._fire()

    def cancel(self) -> None:
        """Nobody waits any more."""
        if self._state == _WAITING:
            self._state = _CANCELLED
            self._callback = self._errback = self._step = None
            on_cancel, self._on_cancel = self._on_cancel, None
            if on_cancel is not None:
                on_cancel()

    def _claim(self) -> None:
        if self._callback is not None or self._step is not None or self._state == _TAKEN:
            raise RuntimeError("somebody waits for this Pending already")

    def _deliver(self) -> bool:
        if self._state == _CANCELLED:
            return False
        if self._state != _WAITING:
            raise RuntimeError("this Pending was delivered already")
        self._state = _DELIVERED
        self._on_cancel = None
        return True

    def _fire(self) -> None:
        callback, errback, step = self._callback, self._errback, self._step
        if step is None and callback is None:
            return
        # Let go of everything first: who made it, who waits and what is delivered often hold it in turn.
        value, error = self._value, self._error
        self._state = _TAKEN
        self._callback = self._errback = self._step = self._value = self._error = None
        if step is not None:
            step.arrived(value, error)
        elif error is None:
            cast("Callable[[Any], None]", callback)(value)
        else:
            cast("Callable[[BaseException], None]", errback)(error)


class Step(Pending[T]):
    """A `Pending` of what follows from another one, for where each request makes one.

    What follows stands in the methods of a subclass: so it is one object, which is freed as soon as it is over, where
    closures over a `Pending` would be several, in a cycle.  `on_value` and `on_error` end in `resolve`, in `fail`, or
    in waiting for yet another `Pending`; an exception out of them is a `fail`.  Cancelling it cancels what it waits
    for.  Compiled with the rest of the hot path: only modules that are compiled with it can have subclasses.
    """

    __slots__ = ("_source",)

    def __init__(self) -> None:
        super().__init__()
        self._source: Pending[Any] | None = None

    def on_value(self, value: Any) -> None:
        """What it waits for has been delivered."""
        raise NotImplementedError

    def on_error(self, error: BaseException) -> None:
        """What it waits for has failed."""
        self.fail(error)

    def wait_for(self, source: Pending[Any]) -> None:
        """Go on with what `source` delivers; at once, where it has."""
        self._source = source
        source.lead_to(self)

    def arrived(self, value: Any, error: BaseException | None) -> None:
        """Called by what it waits for."""
        self._source = None
        try:
            if error is None:
                self.on_value(value)
            else:
                self.on_error(error)
        except Exception as defect:
            if self.done:
                raise
            self.fail(defect)

    def cancel(self) -> None:
        """Nobody waits any more."""
        source, self._source = self._source, None
        super().cancel()
        if source is not None:
            source.cancel()
