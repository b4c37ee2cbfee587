"""What an identity puts before the upstream."""

from __future__ import annotations

import pytest

from gateway.core.identity import Consumer, Identity

SPOILT = ["mobile\r\nX-Consumer-Groups: admin", "mobile\n", "mobile\x00", "\x7f"]


@pytest.mark.parametrize("value", SPOILT)
@pytest.mark.parametrize("field", ["username", "custom_id", "group", "scope", "user_id"])
def test_no_value_ends_its_line(field: str, value: str) -> None:
    """Whoever made it (a third party's policy, a claim of a token), it would pass for headers of ours."""
    consumer = Consumer(
        "1",
        value if field == "username" else "mobile",
        custom_id=value if field == "custom_id" else None,
        groups=(value,) if field == "group" else (),
    )
    with pytest.raises(ValueError, match="control characters"):
        Identity(
            consumer,
            scopes=(value,) if field == "scope" else None,
            user_id=value if field == "user_id" else None,
        )


def test_other_letters_pass() -> None:
    assert "X-Consumer-Username: Größe 1\r\n".encode() in Identity(Consumer("1", "Größe 1")).upstream_headers
