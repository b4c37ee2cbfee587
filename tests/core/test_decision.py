"""Decisions are values: whole when they are made, and not for others to derive from."""

from __future__ import annotations

import pytest

from gateway.core.decision import Allow, Decision, Deny, Reply


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
