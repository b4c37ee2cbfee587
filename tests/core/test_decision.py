"""Decisions are values: whole when they are made, and not for others to derive from."""

from __future__ import annotations

import weakref

import pytest

from gateway.core.decision import Allow, Decision, Deny, Pending, Reply


@pytest.mark.parametrize("base", [Decision, Allow, Deny, Reply])
def test_a_subclass_is_refused_where_it_is_made(base: type[Decision]) -> None:
    with pytest.raises(TypeError, match="make an instance"):
        type("Mine", (base,), {})


@pytest.mark.parametrize("status", [-1, 1, 99, 100, 101, 199, 600, 1000, 1 << 70])
def test_a_reply_is_final(status: int) -> None:
    with pytest.raises(ValueError, match="200 to 599"):
        Reply(status)


@pytest.mark.parametrize("status", [200, 204, 302, 418, 599])
def test_a_reply_of_any_final_status(status: int) -> None:
    assert Reply(status).status == status


class Waiter:
    """Somebody whose life can be watched."""

    def take(self, value: object) -> None:
        """Take it."""


@pytest.mark.parametrize("end", ["resolve", "fail", "cancel"])
def test_a_pending_holds_nobody_once_it_is_over(end: str) -> None:
    """Compiled closures share what they hold: a maker and its `Pending` would keep each other alive."""
    maker, waiter = Waiter(), Waiter()
    gone = [weakref.ref(maker), weakref.ref(waiter)]
    pending: Pending[int] = Pending(on_cancel=lambda held=maker: held.take(0))  # type: ignore[misc]  # a default binds
    pending.then(waiter.take, waiter.take)
    if end == "resolve":
        pending.resolve(1)
    elif end == "fail":
        pending.fail(ValueError())
    else:
        pending.cancel()
    del maker, waiter
    assert [each() for each in gone] == [None, None]
    if end != "cancel":
        with pytest.raises(RuntimeError, match="delivered already"):
            pending.resolve(2)
        with pytest.raises(RuntimeError, match="waits for this"):
            pending.then(print, print)
