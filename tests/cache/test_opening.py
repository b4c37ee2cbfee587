"""The cache of responses is opened when it is first wanted, and its libraries are not imported before."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gateway.cache.memory import MemoryResponses
from gateway.cache.opening import ResponseCaches


def test_a_gateway_that_stores_nothing_imports_no_cache() -> None:
    code = "import sys, gateway.app, policies.proxy_cache; print(sorted({'aiocache', 'redis'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("backend", ["memory://", "redis://127.0.0.1:1"])
async def test_it_is_opened_once(backend: str) -> None:
    caches = ResponseCaches(backend, 1000, 100)
    assert caches.tally() == {}
    await caches.close()
    opened = caches.open()
    assert caches.open() is opened
    assert isinstance(opened, MemoryResponses) is (backend == "memory://")
    opened.count("read", "miss")
    assert caches.tally() == {("read", "miss"): 1}
    await caches.close()


async def test_what_is_dropped_is_told_and_what_others_have_dropped_is_not() -> None:
    caches, told = ResponseCaches("memory://", 10_000, 100), list[str]()
    caches.dropped_elsewhere("/before")  # nothing is stored yet
    caches.on_drop(told.append)
    cache = caches.open()
    for resource in ("/a", "/b"):
        cache.keep(resource, resource, b"x", 60, cache.moment(resource))
    began = cache.moment("/b")
    cache.drop("/a")
    caches.dropped_elsewhere("/b")
    assert [cache.find("/a", "/a"), cache.find("/b", "/b")] == [None, None]
    assert told == ["/a"]
    # What was on its way when another worker dropped its resource is not stored here, either.
    cache.keep("/b", "/b", b"old", 60, began)
    assert cache.find("/b", "/b") is None
    caches.on_drop(told.remove)
    cache.drop("/a")
    assert told == []
    await caches.close()


def test_a_share_of_the_memory_that_is_smaller_than_the_largest_response() -> None:
    assert ResponseCaches("memory://", 500, 1000).open().largest == 500
