"""The top of `config.yaml`: settings that can be written in more than one way."""

from __future__ import annotations

import pytest

from tests.config.fakes import load_text, problems


@pytest.mark.parametrize(
    ("text", "backend", "size", "largest"),
    [
        ("", "memory://", 64 << 20, 1 << 20),
        ("cache: memory://", "memory://", 64 << 20, 1 << 20),
        ("cache: redis://:word@localhost:6379/0", "redis://:word@localhost:6379/0", 64 << 20, 1 << 20),
        ("cache: {size: 8MiB, max_object: 64KiB}", "memory://", 8 << 20, 64 << 10),
        ("cache: {backend: rediss://localhost}", "rediss://localhost", 64 << 20, 1 << 20),
    ],
)
def test_where_responses_are_stored(text: str, backend: str, size: int, largest: int) -> None:
    cache = load_text(text or "version: 1").config.cache
    assert (cache.backend, cache.size, cache.max_object) == (backend, size, largest)
    assert "word" not in repr(cache)


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("cache: memcached://x", "cache", "must be memory:// or redis://HOST:6379/0"),
        ("cache: {backend: 'redis://'}", "cache.backend", "must be memory:// or redis://HOST:6379/0"),
        ("cache: {size: 0}", "cache.size", "must be more than 0"),
        ("cache: {siez: 1MiB}", "cache.siez", "did you mean size?"),
        ("cache: 7", "cache", ""),
        ("cache: {size: 1KiB}", "cache", "max_object is larger than size"),
    ],
)
def test_where_they_cannot_be(text: str, where: str, what: str) -> None:
    (line,) = problems(text)
    assert f": {where}" in line
    assert what in line
