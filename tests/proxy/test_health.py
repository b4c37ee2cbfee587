"""The circuit, the probes' verdict and the slow start, over a clock of the test's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.health import CLOSED, FIRST_SHARE, FULL_SHARE, OPEN, Watch
from gateway.snapshot import SECOND, ActiveHealth, Health, PassiveHealth

PASSIVE = Health(passive=PassiveHealth(3, 10 * SECOND))
ACTIVE = Health(active=ActiveHealth(b"/health", 5 * SECOND, SECOND, healthy=2, unhealthy=3))
BOTH = Health(ACTIVE.active, PASSIVE.passive, slow_start=20 * SECOND)
PATIENCE = 30 * SECOND

#: `(seconds, what happens, state after it, takes a request after it)`; `?` is whether it takes one, `!` that it does.
STORIES: dict[str, tuple[Health, list[tuple[float, str, str, bool]]]] = {
    "failures in a row open the circuit": (
        PASSIVE,
        [
            (0, "fail", "healthy", True),
            (1, "fail", "healthy", True),
            (2, "fail", "ejected", False),
            (11.9, "?", "ejected", False),
            (12, "?", "half-open", True),
        ],
    ),
    "a success in between begins the count anew": (
        PASSIVE,
        [
            (0, "fail", "healthy", True),
            (1, "fail", "healthy", True),
            (2, "succeed", "healthy", True),
            (3, "fail", "healthy", True),
            (4, "fail", "healthy", True),
            (5, "fail", "ejected", False),
        ],
    ),
    "half open, one request at a time; a success closes": (
        PASSIVE,
        [
            (0, "fail fail fail", "ejected", False),
            (10, "!", "half-open", False),
            (11, "?", "half-open", False),
            (12, "succeed", "healthy", True),
            (13, "fail", "healthy", True),
        ],
    ),
    "half open, a failure opens again for another cooldown": (
        PASSIVE,
        [
            (0, "fail fail fail", "ejected", False),
            (10, "!", "half-open", False),
            (11, "fail", "ejected", False),
            (20.9, "?", "ejected", False),
            (21, "!", "half-open", False),
        ],
    ),
    "what is open takes no notice of what was asked before": (
        PASSIVE,
        [
            (0, "fail fail fail", "ejected", False),
            (1, "succeed", "ejected", False),
            (9, "fail", "ejected", False),
            (10, "?", "half-open", True),
        ],
    ),
    "half open, an abandoned request leaves its place to the next": (
        PASSIVE,
        [
            (0, "fail fail fail", "ejected", False),
            (10, "!", "half-open", False),
            (11, "abandon", "half-open", True),
            (11, "!", "half-open", False),
            (12, "succeed", "healthy", True),
        ],
    ),
    "half open, a request that is never told of counts as abandoned": (
        PASSIVE,
        [
            (0, "fail fail fail", "ejected", False),
            (10, "!", "half-open", False),
            (39.9, "?", "half-open", False),
            (40, "?", "half-open", True),
        ],
    ),
    "abandoning means nothing while closed or open": (
        PASSIVE,
        [(0, "abandon", "healthy", True), (1, "fail fail fail", "ejected", False), (2, "abandon", "ejected", False)],
    ),
    "probes put it out and bring it back": (
        ACTIVE,
        [
            (0, "ill", "healthy", True),
            (1, "ill", "healthy", True),
            (2, "ill", "ejected", False),
            (3, "well", "ejected", False),
            (4, "ill", "ejected", False),
            (5, "well", "ejected", False),
            (6, "well", "healthy", True),
        ],
    ),
    "bad probes count only in a row": (
        ACTIVE,
        [(0, "ill ill well ill ill", "healthy", True), (1, "ill", "ejected", False)],
    ),
    "without passive checks requests change nothing": (ACTIVE, [(0, "fail fail fail fail fail", "healthy", True)]),
    "without active checks probes change nothing": (PASSIVE, [(0, "ill ill ill ill", "healthy", True)]),
    "watched by nobody": (Health(), [(0, "fail fail fail fail fail ill ill ill ill", "healthy", True)]),
    "both must hold it to be well": (
        BOTH,
        [
            (0, "fail fail fail ill ill ill", "ejected", False),
            (5, "well well", "ejected", False),
            (10, "?", "half-open", True),
            (11, "ill ill ill", "ejected", False),
            (12, "well well", "half-open", True),
            (13, "!", "half-open", False),
            (14, "succeed", "slow-start", True),
            (33.9, "?", "slow-start", True),
            (34, "?", "healthy", True),
        ],
    ),
}


def act(watch: Watch, word: str, now: int) -> None:
    if word == "fail":
        watch.failed(now, "it broke")
    elif word == "succeed":
        watch.succeeded(now)
    elif word == "abandon":
        watch.abandoned(now)
    elif word == "!":
        assert watch.takes(now)
        watch.admitted(now)
    elif word != "?":
        watch.probed(now, "it answered 500" if word == "ill" else "")


@pytest.mark.parametrize("story", STORIES)
def test_stories(story: str) -> None:
    health, lines = STORIES[story]
    watch = Watch(health, PATIENCE)
    for seconds, words, state, takes in lines:
        now = int(seconds * SECOND)
        for word in words.split():
            act(watch, word, now)
        assert (watch.state(now), watch.takes(now)) == (state, takes), f"at {seconds}, after {words}"
        assert bool(watch.reason()) == (state in ("ejected", "half-open"))


@pytest.mark.parametrize(
    ("words", "failing"),
    [
        ("", False),
        ("fail", True),
        ("fail succeed", False),
        ("fail fail fail", True),
        ("fail fail fail succeed", True),
    ],
)
def test_a_success_is_asked_for_while_it_would_change_something(words: str, failing: bool) -> None:
    watch = Watch(PASSIVE)
    for word in words.split():
        act(watch, word, 0)
    assert watch.failing is failing


def test_what_was_sent_before_the_circuit_opened_is_no_news() -> None:
    watch = Watch(PASSIVE)
    opened = 5 * SECOND
    for _ in range(3):
        watch.failed(opened, "x", sent=SECOND)
    watch.admitted(15 * SECOND)
    old = opened - 1
    assert watch.succeeded(16 * SECOND, old) is False
    watch.abandoned(16 * SECOND, old)
    watch.failed(16 * SECOND, "x", old)
    assert (watch.state(16 * SECOND), watch.takes(16 * SECOND)) == ("half-open", False)
    assert watch.succeeded(17 * SECOND, 15 * SECOND)
    for _ in range(3):
        watch.failed(18 * SECOND, "x", old)
    assert (watch.circuit, watch.failing) == (CLOSED, False)


def test_what_changes_is_told_once() -> None:
    watch = Watch(BOTH)
    assert [watch.failed(0, "x") for _ in range(5)] == [False, False, True, False, False]
    watch.admitted(10 * SECOND)
    assert watch.failed(11 * SECOND, "x") is False, "it was out already"
    watch.admitted(21 * SECOND)
    assert [watch.succeeded(22 * SECOND) for _ in range(2)] == [True, False]
    assert [watch.probed(0, "x") for _ in range(4)] == [False, False, True, False]
    assert [watch.probed(0, "") for _ in range(3)] == [False, True, False]


def test_the_reason_is_the_latest() -> None:
    watch = Watch(BOTH)
    for number in range(3):
        watch.failed(0, f"failure {number}")
    assert watch.reason() == "failure 2"
    for number in range(5):
        watch.probed(0, f"probe {number}")
    assert watch.reason() == "probe 4"


@pytest.mark.parametrize(("after", "share"), [(-1, 10), (0, 10), (5, 32), (10, 55), (19, 95), (20, 100), (1000, 100)])
def test_a_share_grows(after: int, share: int) -> None:
    watch = Watch(BOTH)
    start = 7 * SECOND
    watch.begin_slowly(start)
    assert watch.share(start + after * SECOND) == share


def test_without_slow_start_the_share_is_whole_at_once() -> None:
    watch = Watch(PASSIVE)
    watch.begin_slowly(0)
    assert (watch.share(0), watch.state(0)) == (FULL_SHARE, "healthy")


def test_other_settings_keep_what_is_still_watched() -> None:
    watch = Watch(BOTH)
    for _ in range(3):
        watch.failed(0, "x")
        watch.probed(0, "y")
    watch.configure(Health(passive=PassiveHealth(9, SECOND)))
    assert (watch.circuit, watch.down, watch.takes(5 * SECOND)) == (OPEN, False, False)
    watch.configure(Health())
    assert (watch.circuit, watch.failing, watch.takes(0), watch.reason()) == (CLOSED, False, True, "")


def test_no_slow_start_any_more_ends_one_under_way() -> None:
    watch = Watch(BOTH)
    watch.begin_slowly(0)
    watch.configure(PASSIVE)
    assert watch.share(0) == FULL_SHARE


EVENTS = st.lists(
    st.tuples(st.sampled_from(["fail", "succeed", "abandon", "!", "?", "ill", "well"]), st.integers(0, 20 * SECOND))
)


@given(EVENTS)
def test_whatever_happens_a_half_open_one_takes_one_at_a_time(events: list[tuple[str, int]]) -> None:
    """And shares stay in their bounds, and whoever is out comes back when all is well."""
    watch, now, out = Watch(BOTH, PATIENCE), 0, -1
    for word, pause in events:
        now += pause
        if word == "!" and not watch.takes(now):
            continue
        if word == "!" and watch.circuit != CLOSED:
            assert out < 0 or now >= out + PATIENCE
            out = now
        elif word in ("fail", "succeed", "abandon"):
            out = -1
        act(watch, word, now)
        assert FIRST_SHARE <= watch.share(now) <= FULL_SHARE
        assert watch.takes(now) <= (watch.state(now) != "ejected")
    for _ in range(2):
        watch.probed(now, "")
    now += 60 * SECOND
    assert watch.takes(now)
    watch.admitted(now)
    watch.succeeded(now)
    assert watch.state(now + 20 * SECOND) == "healthy"
