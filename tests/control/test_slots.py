"""The life of a worker, told without one: its states, and what it owes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.control.slots import AFTER_DRAIN, LIMITS, Duty, Life, ProtocolError, State

Step = Callable[[Life], None]


def serving(now: float = 0.0) -> Life:
    """One that serves by the configuration "a"."""
    life = Life(now)
    life.spawned()
    life.ready("a", now)
    life.served(now)
    return life


def test_a_whole_life() -> None:
    life = Life(0.0)
    seen = [life.state]
    steps: list[Step] = [
        lambda it: it.spawned(),
        lambda it: it.ready("old", 1.0),
        lambda it: it.ready("a", 2.0),
        lambda it: it.served(3.0),
        lambda it: it.draining(30.0, 4.0),
        lambda it: it.drained(clean=True),
        lambda it: it.gone(),
    ]
    for step in steps:
        step(life)
        seen.append(life.state)
    assert seen == [
        State.SPAWNING,
        State.CONFIGURING,
        State.CONFIGURING,
        State.CONFIGURING,
        State.SERVING,
        State.DRAINING,
        State.DRAINING,
        State.GONE,
    ]
    assert (life.hash, life.clean) == ("a", True)
    assert life.late(1e9) is None


@pytest.mark.parametrize(
    ("before", "step"),
    [
        (lambda: Life(0.0), lambda it: it.ready("a", 0.0)),
        (lambda: Life(0.0), lambda it: it.served(0.0)),
        (lambda: Life(0.0), lambda it: it.drained(clean=True)),
        (lambda: Life(0.0), lambda it: it.draining(1.0, 0.0)),
        (serving, lambda it: it.spawned()),
        (serving, lambda it: it.ready("a", 0.0)),
        (serving, lambda it: it.drained(clean=True)),
        (serving, lambda it: it.committed(1)),
    ],
)
def test_what_is_out_of_turn_is_refused(before: Callable[[], Life], step: Step) -> None:
    life = before()
    state = life.state
    with pytest.raises(ProtocolError):
        step(life)
    assert life.state is state


def prepared(life: Life) -> None:
    life.preparing(1, 0.0)
    life.has_prepared(1, good=True)


def committing(life: Life) -> None:
    prepared(life)
    life.committing("b", 0.0)


@pytest.mark.parametrize(
    ("life", "asked", "duty", "limit", "does"),
    [
        (lambda: Life(0.0), lambda it: None, Duty.START, LIMITS[Duty.START], None),
        (serving, lambda it: None, Duty.SPEAK, LIMITS[Duty.SPEAK], lambda it, now: it.heard(now)),
        (serving, lambda it: it.told(1, 0.0), Duty.ACKNOWLEDGE, 0.5, lambda it, _: it.acknowledged(1)),
        (serving, lambda it: it.preparing(1, 0.0), Duty.PREPARE, 60.0, lambda it, _: it.has_prepared(1, good=False)),
        (serving, lambda it: it.preparing(1, 0.0), Duty.PREPARE, 60.0, lambda it, _: it.forgets()),
        (serving, committing, Duty.COMMIT, 2.0, lambda it, _: it.committed(1)),
        (serving, lambda it: it.draining(7.0, 0.0), Duty.DRAIN, 7.0 + AFTER_DRAIN, None),
    ],
    ids=["start", "speak", "acknowledge", "prepare", "forget", "commit", "drain"],
)
def test_each_duty_has_its_time(
    life: Callable[[], Life], asked: Step, duty: Duty, limit: float, does: Callable[[Life, float], None] | None
) -> None:
    it = life()
    asked(it)
    just_before = limit - 0.001
    if duty is not Duty.SPEAK:
        it.heard(just_before)
    assert it.owes(duty)
    assert it.late(just_before) is None
    it.heard(limit) if duty is not Duty.SPEAK else None
    assert it.late(limit) is duty
    if does is not None:
        does(it, limit)
        it.heard(limit)
        assert it.late(limit) is None


def test_epochs_are_acknowledged_up_to_one() -> None:
    life = serving()
    for epoch in (1, 2, 3):
        life.told(epoch, float(epoch))
    life.acknowledged(2)
    assert [life.owes_epoch(epoch) for epoch in (1, 2, 3)] == [False, False, True]
    assert life.pressed
    assert life.late(3.49) is None
    life.heard(3.5)
    assert life.late(3.5) is Duty.ACKNOWLEDGE
    life.acknowledged(3)
    assert not life.pressed


def test_what_a_given_up_reload_prepared_counts_for_nothing() -> None:
    life = serving()
    life.preparing(1, 0.0)
    life.forgets()
    life.preparing(2, 0.0)
    life.has_prepared(1, good=True)
    assert (life.prepared, life.owes(Duty.PREPARE)) == (0, True)
    life.has_prepared(2, good=True)
    assert (life.prepared, life.owes(Duty.PREPARE)) == (2, False)
    life.committing("b", 0.0)
    with pytest.raises(ProtocolError):
        life.committed(1)


def test_commit() -> None:
    life = serving()
    committing(life)
    assert (life.hash, life.pressed) == ("a", True)
    life.committed(1)
    assert (life.hash, life.prepared, life.pressed) == ("b", 0, False)
