"""A worker's verifier: what it answers by itself, what it asks, and that it believes nothing that is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.decision import Deny, Pending
from gateway.core.identity import Consumer, Identity, Organization, Status
from gateway.core.ports import KeyRecord
from gateway.credentials.memory import Memory
from gateway.credentials.wire import Judgement
from tests.credentials.delegation import Node, Worker
from tests.credentials.fakes import NOW, make_record, settled, text_of, token_of, turns

INVALID = "Invalid API token"
MALFORMED = "Authorization token must be provided as <public>.<secret>"
REVOKED = "API token has been revoked"
TOO_MANY = "Too many failed authentication attempts"
UNVERIFIED = "Failed to verify API token"


@pytest.mark.parametrize(
    ("token", "fields", "expected", "asked_again"),
    [
        (token_of(), {}, "mobile_app", False),
        (token_of(), {"expires_at": NOW + 1}, "mobile_app", False),
        (token_of(), {"status": Status.REVOKED}, REVOKED, False),
        (token_of(), {"status": Status.DEPRECATED}, "API token is deprecated", False),
        (token_of(), {"expires_at": NOW}, "API token has expired", False),
        (token_of(secret="two"), {}, INVALID, True),
        (token_of("unknown"), {}, INVALID, True),
        (b"pnpub_one", {}, MALFORMED, False),
        (b"\xff\x00", {}, MALFORMED, False),
    ],
)
async def test_answers_are_the_nodes_and_remembered_where_they_are_certain(
    token: bytes, fields: dict[str, Any], expected: str, asked_again: bool
) -> None:
    node = Node(make_record(**fields))
    worker, other = node.workers
    assert await worker.text(token) == expected
    assert isinstance(worker.ask(token), Pending) is asked_again
    await node.settle()
    hashes = len(node.bench.hasher.checks)
    assert await other.text(token) == expected, "every worker starts empty, and asks"
    assert len(node.bench.hasher.checks) == hashes, "and spends no hash"


async def test_a_remembered_token_is_answered_in_a_plain_call_and_counted_once() -> None:
    node = Node(make_record())
    worker = node.workers[0]
    first = await worker.answer(token_of())
    assert worker.ask(token_of()) is first
    assert not worker.up
    ours, theirs = worker.verifier.tally, node.bench.verifier.tally
    assert (ours.hit, ours.miss, ours.wrong, ours.shared) == (1, 0, 0, 0)
    assert (theirs.hit, theirs.miss, theirs.wrong, theirs.shared) == (0, 1, 0, 0)


async def test_a_worker_holds_no_hash() -> None:
    node = Node(make_record())
    worker = node.workers[0]
    identity = await worker.answer(token_of())
    assert isinstance(identity, Identity)
    assert identity.credential is not None
    entry = worker.verifier.memory.entry_of(identity.credential.id)
    assert entry is not None
    assert identity.credential.secret_hash == entry.record.credential.secret_hash == ""


async def test_a_remembered_key_expires_at_its_moment() -> None:
    node = Node(make_record(expires_at=NOW + 60))
    worker = node.workers[0]
    identity = await worker.answer(token_of())
    assert isinstance(identity, Identity)
    node.bench.clock.seconds = 59.9
    assert worker.ask(token_of()) is identity
    assert worker.verifier.still_valid(identity, node.bench.clock.time())
    node.bench.clock.seconds = 60
    assert not worker.verifier.still_valid(identity, node.bench.clock.time())
    assert await worker.text(token_of()) == "API token has expired"


async def test_all_who_ask_for_one_cold_key_hold_one_identity() -> None:
    node = Node(make_record())
    worker = node.workers[0]
    outcomes = [worker.ask(token_of()) for _ in range(50)]
    await node.settle()
    answers = [await settled(outcome) for outcome in outcomes]
    assert all(answer is answers[0] for answer in answers)
    assert len(node.bench.hasher.checks) == 1
    assert isinstance(answers[0], Identity)
    assert worker.verifier.still_valid(answers[0], NOW)


async def test_four_thousand_cold_keys_at_once() -> None:
    records = [make_record(f"k{number}") for number in range(4096)]
    node = Node(*records, workers=4)
    outcomes = [
        node.workers[number % 4].ask(token_of(f"k{number}"), f"10.0.{number >> 8}.{number & 255}")
        for number in range(4096)
    ]
    await node.settle()
    assert [text_of(await settled(outcome)) for outcome in outcomes] == ["mobile_app"] * 4096
    assert len(node.bench.hasher.checks) == 4096
    assert not len(node.verification)
    assert not any(len(worker.questions) for worker in node.workers)


async def test_what_is_remembered_is_bounded() -> None:
    node = Node(*(make_record(f"k{number}") for number in range(5)), workers=0)
    worker = Worker(node, Memory(good=2, bad=2))
    node.workers.append(worker)
    for number in range(5):
        assert await worker.text(token_of(f"k{number}")) == "mobile_app"
        assert await worker.text(b"shapeless %d" % number) == MALFORMED
    assert worker.verifier.memory.sizes == (2, 2)


# ── guesses ─────────────────────────────────────────────────────────────────────────────────────


async def test_a_flood_of_wrong_keys_over_all_workers_is_limited_exactly() -> None:
    node = Node(make_record(), workers=4)
    outcomes = [node.workers[number % 4].ask(token_of(secret=f"wrong{number}")) for number in range(1000)]
    await node.settle()
    texts = [text_of(await settled(outcome)) for outcome in outcomes]
    assert (texts.count(INVALID), texts.count(TOO_MANY)) == (20, 980)
    assert len(node.bench.hasher.checks) == 20
    refused = await node.workers[0].answer(token_of())
    assert isinstance(refused, Deny)
    assert (refused.answer.status, refused.headers) == (429, ((b"Retry-After", b"60"),))
    assert refused.members == {"violated-policies": ["guesses"]}
    node.bench.clock.seconds = 60
    assert await node.workers[0].text(token_of()) == "mobile_app", "a refusal is not remembered"


async def test_the_same_wrong_key_counts_on_every_worker() -> None:
    node = Node(make_record(), workers=3)
    texts = [await node.workers[number % 3].text(token_of(secret="wrong")) for number in range(25)]
    assert texts == [INVALID] * 20 + [TOO_MANY] * 5
    assert len(node.bench.hasher.checks) == 1


# ── cancelling, and the end of a worker ─────────────────────────────────────────────────────────


async def test_a_cancelled_request_takes_its_question_back_and_no_hash_is_spent() -> None:
    node = Node(make_record(), held=True)
    worker = node.workers[0]
    outcome = worker.ask(token_of())
    assert isinstance(outcome, Pending)
    await node.settle()
    assert node.bench.hasher.depth == 1
    outcome.cancel()
    await node.settle()
    assert (node.bench.hasher.depth, len(worker.questions), len(node.verification)) == (0, 0, 0)


async def test_an_answer_that_crosses_a_cancellation_is_nobodys() -> None:
    node = Node(make_record())
    worker = node.workers[0]
    outcome = worker.ask(token_of())
    assert isinstance(outcome, Pending)
    worker.move_up()
    await turns(30)
    assert worker.down, "the answer is on its way"
    outcome.cancel()
    await node.settle()
    assert worker.verifier.memory.sizes == (0, 0)
    assert await worker.text(token_of()) == "mobile_app"


async def test_the_questions_of_a_dead_worker_are_dropped_and_the_others_go_on() -> None:
    node = Node(make_record("one"), make_record("two"), held=True)
    dying, living = node.workers
    theirs = [dying.ask(token_of("x", f"w{number}")) for number in range(30)]
    shared, ours = dying.ask(token_of("one")), living.ask(token_of("one"))
    await node.settle()
    dying.die()
    await node.settle()
    assert [text_of(await settled(outcome)) for outcome in (*theirs, shared)] == [UNVERIFIED] * 31
    assert not dying.down, "nothing is told to who is gone"
    node.bench.hasher.held = False
    for _ in range(40):
        node.bench.hasher.finish()
        await node.settle()
    assert text_of(await settled(ours)) == "mobile_app"
    assert node.bench.hasher.depth == 0
    again = Worker(node)
    node.workers.append(again)
    assert await again.text(token_of("two")) == "mobile_app", "what the dead guessed and nobody checked is not counted"


async def test_when_the_control_process_is_gone_nothing_is_believed() -> None:
    node = Node(make_record())
    worker = node.workers[0]
    identity = await worker.answer(token_of())
    assert isinstance(identity, Identity)
    waiting = worker.ask(token_of("two"))
    worker.die()
    assert text_of(await settled(waiting)) == UNVERIFIED
    for token in (token_of(), token_of("two"), b"shapeless"):
        refused = await settled(worker.ask(token))
        assert isinstance(refused, Deny)
        assert (refused.answer.status, refused.answer.text) == (500, UNVERIFIED)
    assert not worker.verifier.still_valid(identity, NOW)
    learnt = worker.verifier.learn(b"digest", Judgement(identity, NOW + 60, make_record(), remember=True))
    assert text_of(learnt) == UNVERIFIED, "an answer that was already read is too late"


async def test_a_fault_of_the_link_itself_goes_to_who_waits() -> None:
    node = Node(make_record())
    worker = node.workers[0]
    outcome = worker.ask(token_of())
    worker.questions.answered(1, ("nonsense",))
    with pytest.raises(ValueError, match="unpack"):
        await settled(outcome)


# ── changes ─────────────────────────────────────────────────────────────────────────────────────

SPRINGFIELD = Organization("o-1", "springfield")
MEMBER = Consumer("id-mobile_app", "mobile_app", organization=SPRINGFIELD)


@pytest.mark.parametrize(
    ("change", "concerned"),
    [
        (("key", "key-one"), True),
        (("key", "key-two"), False),
        (("consumer", "id-mobile_app"), True),
        (("consumer", "id-other"), False),
        (("organization", "springfield"), True),
        (("organization", "shelbyville"), False),
        (("everything", ""), True),
    ],
)
async def test_a_change_is_forgotten_where_it_concerns(change: tuple[str, str], concerned: bool) -> None:
    node = Node(make_record(consumer=MEMBER))
    worker = node.workers[0]
    identity = await worker.answer(token_of())
    assert isinstance(identity, Identity)
    acknowledged = node.invalidate(*change)
    await node.settle()
    assert acknowledged()
    assert worker.verifier.still_valid(identity, NOW) is not concerned
    assert isinstance(worker.ask(token_of()), Pending) is concerned
    await node.settle()
    assert len(node.bench.hasher.checks) == 1


@pytest.mark.parametrize(
    ("usernames", "organizations", "concerned"),
    [
        ({"mobile_app"}, set(), True),
        (set(), {"springfield"}, True),
        ({"other"}, {"shelbyville"}, False),
        (set(), set(), False),
    ],
)
async def test_what_a_configuration_says_otherwise_is_forgotten(
    usernames: set[str], organizations: set[str], concerned: bool
) -> None:
    node = Node(make_record(consumer=MEMBER))
    worker = node.workers[0]
    identity = await worker.answer(token_of())
    worker.verifier.forget_declared(frozenset(usernames), frozenset(organizations))
    assert (worker.ask(token_of()) is identity) is not concerned
    await node.settle()


async def test_a_token_without_a_keys_shape_may_be_declared_later() -> None:
    node = Node(make_record())
    worker = node.workers[0]
    assert await worker.text(b"any old shape") == MALFORMED
    worker.verifier.forget_declared(frozenset({"mobile_app"}), frozenset())
    assert isinstance(worker.ask(b"any old shape"), Pending)
    await node.settle()


async def test_an_answer_that_an_invalidation_follows_is_not_believed_after_it() -> None:
    node = Node(make_record())
    worker = node.workers[0]
    outcome = worker.ask(token_of())
    worker.move_up()
    await turns(30)
    assert len(worker.down) == 1, "the answer is on its way, found before the change"
    node.bench.store.rows["pnpub_one"] = make_record(status=Status.REVOKED)
    acknowledged = node.invalidate("key", "key-one")
    await node.settle()
    identity = await settled(outcome)
    assert text_of(identity) == "mobile_app", "nobody had been told yet"
    assert isinstance(identity, Identity)
    assert acknowledged()
    assert not worker.verifier.still_valid(identity, NOW), "and the pipeline asks again"
    assert await worker.text(token_of()) == REVOKED


async def test_a_question_that_an_invalidation_overtakes_is_answered_after_it() -> None:
    node = Node(make_record(), held=True)
    worker = node.workers[0]
    outcome = worker.ask(token_of())
    worker.move_up()
    await turns(30)
    node.bench.store.rows["pnpub_one"] = make_record(status=Status.REVOKED)
    node.invalidate("key", "key-one")
    await node.settle()
    node.bench.hasher.finish()
    await node.settle()
    assert text_of(await settled(outcome)) == REVOKED
    assert worker.ask(token_of()) is not outcome
    assert text_of(await settled(worker.ask(token_of()))) == REVOKED


async def test_a_worker_that_starts_during_a_revocation_asks() -> None:
    node = Node(make_record())
    assert await node.workers[0].text(token_of()) == "mobile_app"
    node.bench.store.rows["pnpub_one"] = make_record(status=Status.REVOKED)
    starting = Worker(node)
    acknowledged = node.invalidate("key", "key-one")
    node.workers.append(starting)
    assert await starting.text(token_of()) == REVOKED
    assert acknowledged()


class Versions:
    """One key whose consumer's only group is the version of its row; requests over workers, in any order of events.

    `confirmed` is the newest version that all workers have acknowledged: no request that begins later may see an older.
    """

    def __init__(self) -> None:
        self.written = self.confirmed = 0
        self.node = Node(self._row(), workers=2, held=True)
        self.unconfirmed: list[tuple[int, Callable[[], bool]]] = []
        self.open: list[Pending[Identity | Deny]] = []
        self.admitted = 0

    def _row(self) -> KeyRecord:
        return make_record(consumer=replace(MEMBER, groups=(f"{self.written}",)))

    def request(self, worker: Worker) -> None:
        least = self.confirmed

        def judge(outcome: object) -> None:
            assert isinstance(outcome, Identity)
            # The pipeline's recheck after a wait: what is not valid any more is asked for again.
            if worker.verifier.still_valid(outcome, NOW):
                assert int(outcome.consumer.groups[0]) >= least
                self.admitted += 1

        outcome = worker.ask(token_of())
        if isinstance(outcome, Pending):
            self.open.append(outcome)
            outcome.then(judge, lambda error: pytest.fail(f"{error!r}"))
        else:
            judge(outcome)

    def write(self) -> None:
        self.written += 1
        self.node.bench.store.rows["pnpub_one"] = self._row()

    def tell(self, kind: str = "key", name: str = "key-one") -> None:
        self.unconfirmed.append((self.written, self.node.invalidate(kind, name)))

    def confirm(self) -> None:
        for version, acknowledged in self.unconfirmed:
            if acknowledged():
                self.confirmed = max(self.confirmed, version)

    def step(self, what: str, number: int) -> None:
        worker = self.node.workers[number % 2]
        if what == "request":
            self.request(worker)
        elif what == "cancel" and self.open:
            self.open.pop(number % len(self.open)).cancel()
        elif what == "write":
            self.write()
        elif what == "tell":
            self.tell(*[("key", "key-one"), ("consumer", MEMBER.id), ("everything", "")][number % 3])
        elif what == "change":
            self.write()
            self.tell()
        elif what == "up":
            worker.move_up()
        elif what == "down":
            worker.move_down()
        elif what == "both ways":
            worker.move_down()
            worker.move_up()
        elif what == "hash":
            self.node.bench.hasher.finish()
        self.confirm()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["request"] * 3 + ["up", "down", "both ways"] * 2 + ["hash", "hash", "change", "write", "tell", "cancel"]
        ),
        st.integers(0, 5),
    ),
    min_size=20,
    max_size=80,
)


@given(STEPS)
@settings(max_examples=300, deadline=None)
def test_whatever_the_order_no_request_is_admitted_on_a_state_that_was_confirmed_to_be_over(
    steps: list[tuple[str, int]],
) -> None:
    async def play() -> None:
        versions = Versions()
        for what, number in steps:
            versions.step(what, number)
            await turns(number * 2)
        versions.node.bench.hasher.held = False
        while versions.node.bench.hasher.depth:
            versions.node.bench.hasher.finish()
            await turns()
        await versions.node.settle()
        versions.write()
        versions.tell()
        await versions.node.settle()
        versions.confirm()
        assert versions.confirmed == versions.written
        before = versions.admitted
        for worker in versions.node.workers:
            versions.request(worker)
        await versions.node.settle()
        assert versions.admitted == before + 2

    asyncio.run(play())


# ── staleness ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("told", "seconds", "believed"),
    [
        ([], 300.0, True),
        ([], 300.1, False),
        ([(200.0, 0.0)], 450.0, True),
        ([(200.0, 0.0)], 501.0, False),
        ([(200.0, 250.0)], 249.0, True),
        ([(200.0, 250.0)], 251.0, False),
        ([(1.0, 301.0)], 1.0, False),
        ([(100.0, 50.0), (200.0, 150.0)], 349.0, True),
    ],
)
async def test_what_nobody_tells_of_is_not_believed_for_ever(
    told: list[tuple[float, float]], seconds: float, believed: bool
) -> None:
    node = Node(make_record())
    worker = node.workers[0]
    await worker.text(token_of())
    for at, age in told:
        node.bench.clock.seconds = at
        worker.verifier.heard(age)
    node.bench.clock.seconds = seconds
    worker.verifier.check_staleness()
    assert isinstance(worker.ask(token_of()), Identity) is believed
    await node.settle()


async def test_nobody_waits_for_a_control_process_that_says_nothing_at_all() -> None:
    node = Node(make_record("one"), make_record("two"))
    worker = node.workers[0]
    identity = await worker.answer(token_of("one"))
    waiting = worker.ask(token_of("two"))
    for _ in range(20):
        worker.verifier.check_staleness()
    assert isinstance(waiting, Pending)
    assert not waiting.done
    worker.verifier.check_staleness()
    assert text_of(await settled(waiting)) == UNVERIFIED
    assert text_of(await settled(worker.ask(token_of("two")))) == UNVERIFIED
    assert worker.ask(token_of("one")) is identity, "what is remembered is believed as long as `max_staleness` says"
    await node.settle()
    assert len(node.verification) == 0, "the question was taken back"
    worker.verifier.heard(0.0)
    assert await worker.text(token_of("two")) == "mobile_app"


# ── declared ────────────────────────────────────────────────────────────────────────────────────


def guest(**fields: Any) -> Any:
    return SimpleNamespace(
        **({"username": "guest", "custom_id": None, "organization": None, "groups": (), "keys": ()} | fields)
    )


async def test_an_anonymous_identity_is_valid_while_its_consumer_is_declared_alike() -> None:
    verifier = Node(workers=1).workers[0].verifier
    assert verifier.consumer("guest") is None
    verifier.configure(300.0, [guest()], [])
    consumer = verifier.consumer("guest")
    assert consumer is not None
    identity = Identity(consumer, anonymous=True)
    assert verifier.still_valid(identity, NOW)
    verifier.configure(300.0, [guest()], [])
    assert verifier.still_valid(identity, NOW)
    verifier.configure(300.0, [guest(groups=("x",))], [])
    assert not verifier.still_valid(identity, NOW)
    verifier.configure(300.0, [], [])
    assert not verifier.still_valid(identity, NOW)


async def test_a_shorter_staleness_holds_at_once() -> None:
    node = Node(make_record())
    worker = node.workers[0]
    await worker.text(token_of())
    node.bench.clock.seconds = 100
    worker.verifier.configure(60.0, [], [])
    worker.verifier.check_staleness()
    assert isinstance(worker.ask(token_of()), Pending)
    await node.settle()
