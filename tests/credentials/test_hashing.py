"""bcrypt off the loop: results, order, the bound, dropping, and what it does with 73 bytes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import bcrypt
import pytest

from gateway.core.decision import Pending
from gateway.core.errors import OverloadError
from gateway.credentials import hashing
from gateway.credentials.hashing import Hasher, cost_of, dummy_hash, wait

SECRET = b"pnsec_secret"
HASHED = bcrypt.hashpw(SECRET, bcrypt.gensalt(4)).decode()


@pytest.fixture
async def hasher() -> AsyncIterator[Hasher]:
    made = Hasher(asyncio.get_running_loop(), threads=1, limit=5)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("secret", "hashed", "expected"),
    [
        (SECRET, HASHED, True),
        (b"wrong", HASHED, False),
        (b"", HASHED, False),
        (SECRET + b"\x00", HASHED, False),
        (SECRET, dummy_hash(4), False),
        (b"x" * 72, bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode(), True),
        (b"x" * 73, bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode(), False),
        (b"x" * 30_000, HASHED, False),
    ],
)
async def test_check(hasher: Hasher, secret: bytes, hashed: str, expected: bool) -> None:
    assert await wait(hasher.check(secret, hashed)) is expected
    assert hasher.depth == 0


async def test_an_overlong_secret_costs_a_hash_too(hasher: Hasher, monkeypatch: pytest.MonkeyPatch) -> None:
    spent: list[bytes] = []

    def spend(secret: bytes, hashed: bytes) -> bool:
        spent.append(secret)
        return True

    monkeypatch.setattr(bcrypt, "checkpw", spend)
    assert await wait(hasher.check(b"x" * 73, HASHED)) is False
    assert spent == [b"x" * 72]


@pytest.mark.parametrize(
    ("secret", "cost", "spent"),
    [
        (b"wrong", 0, [4]),
        (b"wrong", 4, [4]),
        (b"wrong", 5, [4, 4]),
        (b"wrong", 8, [4, 4, 5, 6, 7]),
        (b"x" * 73, 6, [4, 4, 5]),
        (SECRET, 8, [4]),
    ],
)
async def test_what_is_wrong_costs_as_much_as_it_should(
    hasher: Hasher, monkeypatch: pytest.MonkeyPatch, secret: bytes, cost: int, spent: list[int]
) -> None:
    costs: list[int] = []

    def spend(read: bytes, hashed: bytes) -> bool:
        costs.append(cost_of(hashed.decode()))
        return read == SECRET

    monkeypatch.setattr(bcrypt, "checkpw", spend)
    assert await wait(hasher.check(secret, HASHED, cost)) is (secret == SECRET)
    assert costs == spent
    assert secret == SECRET or sum(2**spent for spent in costs) == 2 ** max(cost, 4)


@pytest.mark.parametrize(("hashed", "cost"), [(HASHED, 4), (dummy_hash(12), 12), ("", 0), ("$2b$x$a", 0), ("Hone", 0)])
def test_the_cost_of_a_hash(hashed: str, cost: int) -> None:
    assert cost_of(hashed) == cost


async def test_a_malformed_hash_is_a_fault(hasher: Hasher) -> None:
    with pytest.raises(ValueError, match="salt"):
        await wait(hasher.check(SECRET, "not a hash"))


async def test_hash(hasher: Hasher) -> None:
    hashed = await wait(hasher.hash(SECRET, 4))
    assert bcrypt.checkpw(SECRET, hashed.encode())
    with pytest.raises(ValueError, match="72 bytes"):
        hasher.hash(b"x" * 73, 4)


async def test_the_bound_and_dropping(hasher: Hasher, monkeypatch: pytest.MonkeyPatch) -> None:
    started, gate = threading.Event(), threading.Event()
    done: list[bytes] = []

    def slow(secret: bytes, hashed: str, cost: int) -> bool:
        started.set()
        gate.wait(5)
        done.append(secret)
        return True

    monkeypatch.setattr(hashing, "_check", slow)
    jobs = [hasher.check(str(number).encode(), HASHED) for number in range(5)]
    await asyncio.to_thread(started.wait, 5)
    with pytest.raises(OverloadError):
        hasher.check(b"one too many", HASHED)
    assert hasher.drop(jobs[0]) is False, "it runs"
    assert hasher.drop(jobs[1]) is True
    assert hasher.drop(jobs[1]) is False
    jobs[2].cancel()
    assert hasher.depth == 3
    gate.set()
    assert [await wait(jobs[number]) for number in (0, 3, 4)] == [True, True, True]
    assert done == [b"0", b"3", b"4"]
    assert hasher.depth == 0


async def test_results_come_on_the_loops_thread(hasher: Hasher) -> None:
    job = hasher.check(SECRET, HASHED)
    where: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    job.then(lambda _: where.set_result(threading.get_ident()), where.set_exception)
    assert await where == threading.get_ident()


async def test_nothing_is_left_after_closing() -> None:
    hasher = Hasher(asyncio.get_running_loop(), threads=2)
    await wait(hasher.check(SECRET, HASHED))
    threads = list(hasher._threads)
    hasher.close()
    for thread in threads:
        await asyncio.to_thread(thread.join, 5)
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("rounds", [4, 10, 14])
def test_a_dummy_is_a_hash_of_the_configured_cost_that_nobody_has(rounds: int) -> None:
    made = dummy_hash(rounds)
    assert made.startswith(f"$2b${rounds:02d}$")
    assert len(made) == len(HASHED)
    assert made != dummy_hash(rounds)


async def test_waiting_for_what_is_there_already() -> None:
    done: Pending[int] = Pending()
    done.resolve(7)
    assert await wait(done) == 7
