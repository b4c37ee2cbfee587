"""The held token: one fetch for all, renewal behind everybody's back, failures that cost nobody time."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from dataclasses import replace

import pytest

from gateway.core.decision import Pending
from gateway.core.errors import IssuerError
from gateway.core.ports import ClientCredentialsGrant
from gateway.issuers.access_tokens import HeldToken, HeldTokens
from gateway.issuers.token_response import IssuedToken

GRANT = ClientCredentialsGrant("https://lms.example.org/oauth2/access_token?s3cret=1", "id", "s3cret")


class FakeClock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000_000_000

    def monotonic_ns(self) -> int:
        return self.now

    def time(self) -> float:
        return self.now / 1e9

    def pass_(self, seconds: float) -> None:
        self.now += int(seconds * 1e9)


class FakeIssuer:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[IssuedToken]] = []

    async def fetch(self, grant: ClientCredentialsGrant) -> IssuedToken:
        answer: asyncio.Future[IssuedToken] = asyncio.get_running_loop().create_future()
        self.asked.append(answer)
        return await answer

    async def answer(self, outcome: str | Exception, lifetime: float = 100.0) -> None:
        """Answer the latest request, and let everybody hear it."""
        await settle()
        if isinstance(outcome, Exception):
            self.asked[-1].set_exception(outcome)
        else:
            self.asked[-1].set_result(IssuedToken(outcome.encode(), lifetime))
        await settle()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Bench:
    """A source with its clock and issuer, and what came of each request."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.issuer = FakeIssuer()
        self.tokens = HeldTokens(self.clock, self.issuer.fetch)
        self.source: HeldToken = self.tokens.source(GRANT)

    def ask(self) -> list[str]:
        """One request: what it has got so far, a token, "failed N" or nothing yet."""
        got: list[str] = []
        try:
            outcome = self.source.token()
        except IssuerError as error:
            return [f"failed {error.retry_after}"]
        if isinstance(outcome, Pending):
            outcome.then(
                lambda token: got.append(token.decode()),
                lambda error: got.append(f"failed {getattr(error, 'retry_after', error)}"),
            )
        else:
            got.append(outcome.decode())
        return got

    async def hold(self, token: str, lifetime: float = 100.0) -> None:
        """Come to hold a token."""
        got = self.ask()
        await self.issuer.answer(token, lifetime)
        assert got == [token]

    @property
    def fetches(self) -> int:
        return len(self.issuer.asked)


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_one_fetch_for_any_number_of_requests(bench: Bench) -> None:
    asked = [bench.ask() for _ in range(200)]
    assert not any(asked)
    await bench.issuer.answer("one")
    assert asked == [["one"]] * 200
    assert bench.ask() == ["one"]
    assert bench.fetches == 1


async def test_nothing_is_fetched_before_it_is_needed(bench: Bench) -> None:
    await settle()
    assert bench.fetches == 0


@pytest.mark.parametrize(
    ("lifetime", "age", "held", "fetches"),
    [
        (100, 79, True, 1),
        (100, 80, True, 2),  # renewed behind everybody's back
        (100, 89.9, True, 2),
        (100, 90, False, 2),  # given up a tenth of its life before its end
        (3600, 2879, True, 1),
        (3600, 2881, True, 2),
        (3600, 3539, True, 2),
        (3600, 3540, False, 2),  # a minute at the most
        (1, 0.79, True, 1),
        (1, 0.9, False, 2),
    ],
)
async def test_the_life_of_a_token(bench: Bench, lifetime: float, age: float, held: bool, fetches: int) -> None:
    await bench.hold("one", lifetime)
    bench.clock.pass_(age)
    got = bench.ask()
    await settle()
    assert got == (["one"] if held else [])
    assert bench.fetches == fetches


async def test_a_life_begins_when_the_token_is_asked_for(bench: Bench) -> None:
    got = bench.ask()
    await settle()
    bench.clock.pass_(50)
    await bench.issuer.answer("one", 100)
    bench.clock.pass_(40)
    assert got == ["one"]
    assert bench.ask() == []


async def test_a_token_that_is_over_as_it_comes_is_still_good_for_those_who_waited(bench: Bench) -> None:
    got = bench.ask()
    await settle()
    bench.clock.pass_(5)
    await bench.issuer.answer("one", 2)
    assert got == ["one"]
    assert bench.ask() == []


async def test_nobody_waits_for_a_renewal(bench: Bench) -> None:
    await bench.hold("one")
    bench.clock.pass_(80)
    assert [bench.ask() for _ in range(50)] == [["one"]] * 50
    await settle()
    assert bench.fetches == 2
    await bench.issuer.answer("two")
    assert bench.ask() == ["two"]
    bench.clock.pass_(79)
    assert bench.ask() == ["two"]
    assert bench.fetches == 2


async def test_a_renewal_that_fails_is_tried_again_while_the_old_token_serves(bench: Bench) -> None:
    await bench.hold("one")
    bench.clock.pass_(80)
    bench.ask()
    await bench.issuer.answer(IssuerError("down"))
    assert bench.ask() == ["one"]
    await settle()
    assert bench.fetches == 2
    bench.clock.pass_(0.5)
    assert bench.ask() == ["one"]
    await bench.issuer.answer("two")
    assert (bench.ask(), bench.fetches) == (["two"], 3)


async def test_failures_back_off_and_are_answered_at_once(bench: Bench) -> None:
    delays = []
    bench.ask()
    await bench.issuer.answer(IssuerError("down"))
    for _ in range(9):
        began = bench.clock.now
        while bench.ask():  # refused at once, without asking
            bench.clock.pass_(0.25)
        delays.append((bench.clock.now - began) / 1e9)
        await bench.issuer.answer(IssuerError("still down"))
    assert bench.fetches == 10
    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.parametrize(
    ("failures", "wait", "retry_after"), [(1, 0, "failed 1"), (4, 0, "failed 4"), (4, 1.5, "failed 3")]
)
async def test_when_to_come_back(bench: Bench, failures: int, wait: float, retry_after: str) -> None:
    for _ in range(failures):
        bench.clock.pass_(30)
        got = bench.ask()
        await bench.issuer.answer(IssuerError("down"))
    bench.clock.pass_(wait)
    assert bench.ask() == [retry_after]
    if not wait:
        assert got == [retry_after]


@pytest.mark.parametrize(("said", "heard"), [(1, 0.5), (7, 7.0), (3600, 30.0)])
async def test_an_issuer_may_say_when(bench: Bench, said: int, heard: float) -> None:
    bench.ask()
    await bench.issuer.answer(IssuerError("busy", said))
    bench.clock.pass_(heard - 0.1)
    assert bench.ask()[0].startswith("failed")
    bench.clock.pass_(0.1)
    assert bench.ask() == []


async def test_all_is_well_after_a_success(bench: Bench) -> None:
    for _ in range(5):
        bench.clock.pass_(30)
        bench.ask()
        await bench.issuer.answer(IssuerError("down"))
    bench.clock.pass_(30)
    await bench.hold("one", 1)
    bench.clock.pass_(1)
    bench.ask()
    await bench.issuer.answer(IssuerError("down"))
    bench.clock.pass_(0.5)
    assert bench.ask() == []


# ── refused by the upstream ──────────────────────────────────────────────────────────────────────


async def test_a_refused_token_is_dropped(bench: Bench) -> None:
    await bench.hold("one")
    bench.source.rejected(b"one")
    got = [bench.ask() for _ in range(20)]
    await bench.issuer.answer("two")
    assert got == [["two"]] * 20
    assert bench.fetches == 2


async def test_only_the_token_that_is_held_can_be_dropped(bench: Bench) -> None:
    bench.source.rejected(b"")
    bench.source.rejected(b"one")
    await bench.hold("one")
    bench.source.rejected(b"zero")
    bench.source.rejected(b"")
    assert bench.ask() == ["one"]


async def test_an_upstream_that_refuses_everything_does_not_make_us_hammer_the_issuer(bench: Bench) -> None:
    await bench.hold("0", 86_400)
    fetched = []
    began = bench.clock.now
    for second in range(1200):
        got = bench.ask()
        await settle()
        if not got:
            fetched.append(second)
            await bench.issuer.answer(str(second), 86_400)
        bench.source.rejected(got[0].encode())
        bench.clock.pass_(1)
    assert fetched == [1, 6, 16, 36, 76, 156, 316, 616, 916]
    assert bench.clock.now - began == 1200 * 10**9


async def test_a_token_that_lives_its_life_makes_up_for_it(bench: Bench) -> None:
    await bench.hold("one")
    bench.source.rejected(b"one")
    await bench.hold("two")
    bench.clock.pass_(90)
    await bench.hold("three")
    bench.source.rejected(b"three")
    await bench.hold("four")
    bench.clock.pass_(5)
    bench.source.rejected(b"four")
    assert bench.ask() == []


async def test_the_only_token_there_is_is_kept_while_the_issuer_is_failing(bench: Bench) -> None:
    await bench.hold("one")
    bench.clock.pass_(80)
    bench.ask()
    await bench.issuer.answer(IssuerError("down"))
    bench.source.rejected(b"one")
    assert bench.ask() == ["one"]


# ── who waits ────────────────────────────────────────────────────────────────────────────────────


async def test_who_went_away_is_passed_over(bench: Bench) -> None:
    gone = bench.source.token()
    assert isinstance(gone, Pending)
    got = bench.ask()
    gone.cancel()
    await bench.issuer.answer("one")
    assert got == ["one"]


def break_down(token: bytes) -> None:
    raise RuntimeError("boom")


async def test_a_receiver_that_breaks_costs_nobody_else_the_answer(bench: Bench) -> None:
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(str(context["exception"])))
    broken = bench.source.token()
    assert isinstance(broken, Pending)
    broken.then(break_down, lambda _: None)
    got = bench.ask()
    await bench.issuer.answer("one")
    assert (got, len(told)) == (["one"], 1)


async def test_a_defect_of_ours_is_a_failure(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    got = bench.ask()
    await bench.issuer.answer(RuntimeError("boom"))
    assert got == ["failed 1"]
    assert "boom" in caplog.text


async def test_the_end_refuses_who_waits(bench: Bench) -> None:
    got = bench.ask()
    await settle()
    await bench.tokens.close()
    assert got == ["failed 1"]
    await bench.tokens.close()


# ── whose token it is ────────────────────────────────────────────────────────────────────────────


async def test_equal_grants_share_a_token(bench: Bench) -> None:
    await bench.hold("one")
    assert bench.tokens.source(replace(GRANT)) is bench.source


@pytest.mark.parametrize(
    "changed",
    [
        {"client_secret": "another"},
        {"client_id": "another"},
        {"token_url": "https://other.example.org/"},
        {"scope": "read"},
        {"audience": "lms"},
        {"auth": "basic"},
        {"scheme": "JWT"},
        {"form": (("resource", "x"),)},
    ],
)
async def test_another_grant_has_another_token(bench: Bench, changed: dict[str, object]) -> None:
    assert bench.tokens.source(replace(GRANT, **changed)) is not bench.source  # type: ignore[arg-type]  # a table


async def test_a_grant_that_nobody_holds_is_forgotten(bench: Bench) -> None:
    await bench.hold("one")
    bench.source = bench.tokens.source(replace(GRANT, client_secret="new"))
    gc.collect()
    assert list(bench.tokens._sources) == [replace(GRANT, client_secret="new")]


async def test_no_secret_is_told(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    bench.ask()
    await bench.issuer.answer(IssuerError("it answers 401"))
    bench.clock.pass_(1)
    await bench.hold("t0ken")
    bench.source.rejected(b"t0ken")
    assert "no access token of https://lms.example.org/oauth2/access_token: it answers 401" in caplog.text
    assert "gives access tokens again" in caplog.text
    assert "the upstream refuses" in caplog.text
    everything = caplog.text + repr(GRANT) + repr(vars(bench.tokens)) + repr(bench.source)
    assert "s3cret" not in everything.replace(GRANT.token_url, "")
    assert "t0ken" not in everything


def test_the_answer_is_one_look_away() -> None:
    """Law 2: with a token at hand there is no loop, no task and nothing to wait for."""
    clock = FakeClock()
    source = HeldTokens(clock, FakeIssuer().fetch).source(GRANT)
    source._hold(IssuedToken(b"one", 100), clock.now)
    ask: Callable[[], object] = source.token
    assert ask() == b"one"
