"""New keys."""

from __future__ import annotations

import pytest

from gateway.credentials.hashing import SECRET_LIMIT
from gateway.credentials.mint import mint_key
from gateway.credentials.parse import Prefixes, parse_token


@pytest.mark.parametrize("prefixes", [Prefixes(), Prefixes("p_", "s_"), Prefixes("x" * 32, "y" * 32)])
def test_a_new_key_has_our_shape_and_fits_bcrypt(prefixes: Prefixes) -> None:
    made = mint_key(prefixes)
    parsed = parse_token(made.key.encode(), prefixes)
    assert parsed is not None
    assert parsed.ours
    assert (parsed.public, parsed.secret) == (made.public, made.secret)
    assert len(made.secret) <= SECRET_LIMIT


def test_keys_differ_and_do_not_show_their_secret() -> None:
    keys = [mint_key(Prefixes()) for _ in range(100)]
    assert len({key.public for key in keys}) == len({key.secret for key in keys}) == 100
    assert keys[0].secret.decode() not in repr(keys[0])


def test_a_prefix_that_leaves_no_room_is_refused() -> None:
    with pytest.raises(ValueError, match="secret_prefix"):
        mint_key(Prefixes("p_", "s" * 41))
