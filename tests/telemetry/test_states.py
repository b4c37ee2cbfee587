"""The workers' views of a target, joined: in doubt the worse one is shown."""

from __future__ import annotations

import pytest

from gateway.telemetry.states import AddressStatus, TargetStatus, from_plain, joined, plain

A, B = "192.0.2.1:80", "192.0.2.2:80"


def target(*addresses: AddressStatus, healthy: bool = True, reason: str = "", name: str = "http://a") -> TargetStatus:
    return TargetStatus("lms", name, healthy, 1, reason, addresses)


@pytest.mark.parametrize(
    ("views", "expected"),
    [
        pytest.param([], [], id="nobody"),
        pytest.param([[], []], [], id="nothing"),
        pytest.param([[target()]], [target()], id="one"),
        pytest.param(
            [[target(AddressStatus(A, "healthy", "", 1))], [target(AddressStatus(A, "healthy", "", 2))]],
            [target(AddressStatus(A, "healthy", "", 3))],
            id="active adds up",
        ),
        pytest.param(
            [[target()], [target(healthy=False, reason="b")], [target(reason="c")]],
            [target(healthy=False, reason="b")],
            id="one holds it to be down",
        ),
        pytest.param(
            [[target(AddressStatus(A, state, state[0], 0))] for state in ("healthy", "slow-start", "half-open")],
            [target(AddressStatus(A, "half-open", "h", 0))],
            id="the worst state, and its reason",
        ),
        pytest.param(
            [[target(AddressStatus(A, "half-open", "x", 0))], [target(AddressStatus(A, "ejected", "", 0))]],
            [target(AddressStatus(A, "ejected", "x", 0))],
            id="any reason rather than none",
        ),
        pytest.param(
            [[target(AddressStatus(A, "new", "", 0))], [target(AddressStatus(A, "ejected", "", 0))]],
            [target(AddressStatus(A, "new", "", 0))],
            id="a state that nobody knows is a bad one",
        ),
        pytest.param(
            [[target(AddressStatus(A, "healthy", "", 1))], [target(AddressStatus(B, "healthy", "", 2))]],
            [target(AddressStatus(A, "healthy", "", 1), AddressStatus(B, "healthy", "", 2))],
            id="a name that was resolved at different moments",
        ),
        pytest.param(
            [[target(name="http://a"), target(name="http://b")], [target(name="http://b"), target(name="http://c")]],
            [target(name="http://a"), target(name="http://b"), target(name="http://c")],
            id="other targets during a reload",
        ),
    ],
)
def test_joined(views: list[list[TargetStatus]], expected: list[TargetStatus]) -> None:
    assert joined(views) == expected


def test_a_state_survives_being_sent() -> None:
    state = target(AddressStatus(A, "ejected", "it answered 500", 2), AddressStatus(B, "healthy", "", 0), healthy=False)
    assert from_plain(plain(state)) == state
