"""Responses in memory: bounded by bytes, least recently used first; and an aiocache cache like any other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cache.memory import OVERHEAD, BoundedMemoryCache, MemoryResponses


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_least_recently_used_leaves_first() -> None:
    cache = BoundedMemoryCache(3 * (OVERHEAD + 101))
    for key in "abc":
        assert cache.put(key, b"x" * 100, None)
    assert cache.look("a") is not None
    assert cache.put("d", b"x" * 100, None)
    assert [cache.look(key) is not None for key in "abcd"] == [True, False, True, True]
    assert not cache.put("e", b"x" * 10_000, None)
    assert len(cache) == 3


def test_what_is_too_large_replaces_its_older_self() -> None:
    cache = BoundedMemoryCache(1000)
    assert cache.put("a", b"old", None)
    assert not cache.put("a", b"x" * 1000, None)
    assert (cache.look("a"), cache.used) == (None, 0)


def test_time_ends_by_the_clock() -> None:
    clock = Clock()
    cache = BoundedMemoryCache(10_000, clock)
    cache.put("a", b"1", 10.0)
    clock.now += 9.9
    assert cache.look("a") == b"1"
    clock.now += 0.1
    assert (cache.look("a"), cache.used) == (None, 0)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.sampled_from("abcdef"), st.sampled_from("rs"), st.integers(0, 3000)),
            st.tuples(st.just("remove"), st.sampled_from("abcdef"), st.just(""), st.just(0)),
            st.tuples(st.just("drop"), st.just(""), st.sampled_from("rs"), st.just(0)),
            st.tuples(st.just("look"), st.sampled_from("abcdef"), st.just(""), st.just(0)),
        )
    )
)
def test_the_books_are_right_whatever_happens(steps: list[tuple[str, str, str, int]]) -> None:
    cache = BoundedMemoryCache(6000)
    for step, key, resource, size in steps:
        if step == "put":
            cache.put(key, b"x" * size, None, resource)
        elif step == "remove":
            cache.remove(key)
        elif step == "drop":
            cache.remove_resource(resource)
            assert resource not in cache._resources
        else:
            cache.look(key)
        entries = cache._entries
        assert cache.used == sum(entry.size for entry in entries.values()) <= 6000
        assert {key for keys in cache._resources.values() for key in keys} == set(entries)
        assert all(cache._resources.values())


async def test_it_is_an_aiocache_cache() -> None:
    async with BoundedMemoryCache(10_000) as cache:
        assert await cache.set("a", b"1", ttl=60)
        assert await cache.get("a") == b"1"
        assert await cache.multi_get(["a", "b"]) == [b"1", None]
        assert await cache.exists("a")
        with pytest.raises(ValueError, match="already exists"):
            await cache.add("a", b"2")
        assert await cache.add("b", b"2")
        assert await cache.expire("a", 0)
        assert await cache.delete("a") == 1
        assert await cache.delete("a") == 0
        assert await cache.clear()
        assert len(cache) == 0
        with pytest.raises(TypeError):
            await cache.increment("n")
        with pytest.raises(TypeError):
            await cache.raw("get", "a")


async def test_answers_are_counted() -> None:
    cache = MemoryResponses(1000, 100)
    for result in ("hit", "hit", "miss"):
        cache.count("read", result)
    assert cache.tally == {("read", "hit"): 2, ("read", "miss"): 1}
    await cache.close()
