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
