"""What is read of processes' memory, and what is concluded of workers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.memory import Memory, memory, parse, total
from bench.workers import Weighed, checks

ROLLUP = """55d0c0a00000-7ffd5b5f6000 ---p 00000000 00:00 0                          [rollup]
Rss:               10240 kB
Pss:                5120 kB
Pss_Anon:           4096 kB
Shared_Clean:       4096 kB
Private_Clean:      1024 kB
Private_Dirty:      2048 kB
Swap:                  0 kB
"""


def test_the_kernels_account_is_read() -> None:
    assert parse(ROLLUP) == Memory(10240 * 1024, 5120 * 1024, 3072 * 1024)
    assert parse("") == Memory()


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="asks Linux's /proc")
def test_a_process_has_memory_and_one_that_is_gone_has_none() -> None:
    mine = memory(os.getpid())
    assert mine.resident >= mine.proportional >= mine.unique > 0
    assert memory(2**22 + 1) == Memory()
    assert total([2**22 + 1]) == Memory()


def weighed(workers: int, idle: int, loaded: int, unique: int) -> Weighed:
    mib = 2**20
    return Weighed(workers, Memory(0, idle * mib, 0), Memory(0, loaded * mib, 0), Memory(0, 0, unique * mib))


def test_each_worker_after_the_second_is_judged() -> None:
    found = [weighed(1, 80, 90, 80), weighed(2, 200, 220, 30), weighed(3, 230, 290, 59), weighed(4, 300, 330, 61)]
    judged = {check.text: check.met for check in checks(found)}
    assert judged == {
        "worker number 3, idle": True,
        "worker number 3, loaded": False,
        "worker number 4, idle": False,
        "worker number 4, loaded": True,
        "the heaviest worker's own memory": False,
    }


def test_one_gateway_says_nothing_of_workers() -> None:
    assert [check.met for check in checks([weighed(1, 80, 90, 80)])] == [None]
