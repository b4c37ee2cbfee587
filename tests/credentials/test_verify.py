"""The verifier: every outcome, what it costs, and what happens when things happen at once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.core.decision import Deny, Pending
from gateway.core.identity import Consumer, Identity, Status
from gateway.core.units import parse_rate
from gateway.credentials.memory import Memory
from gateway.credentials.parse import Prefixes
from gateway.credentials.verify import Rules
from tests.credentials.fakes import (
    ADDRESS,
    NOW,
    SECRET_KEY,
    Bench,
    hash_of,
    make_record,
    settled,
    text_of,
    token_of,
    turns,
)

INVALID = "Invalid API token"
MALFORMED = "Authorization token must be provided as <public>.<secret>"
TOO_MANY = "Too many failed authentication attempts"


def declared_consumer(username: str = "mobile_app", *keys: Any, **fields: Any) -> Any:
    return SimpleNamespace(
        **({"username": username, "custom_id": None, "organization": None, "groups": (), "keys": keys} | fields)
    )


def declared_key(name: str, **fields: Any) -> Any:
    secret_hash = hash_of(f"pnsec_{name}".encode())
    base = {"name": name, "public": f"pnpub_{name}", "legacy": None, "secret_hash": secret_hash}
    return SimpleNamespace(**(base | {"read_only": False, "scopes": (), "expires_at": None} | fields))


@pytest.mark.parametrize(
    ("token", "expected", "hashes"),
    [
        (token_of(), "mobile_app", 1),
        (token_of(secret="two"), INVALID, 1),
        (token_of("unknown"), INVALID, 1),
        (b"other_one.pnsec_one", INVALID, 1),
        (b"pnpub_one.other_one", INVALID, 1),
        (b"pnpub_.pnsec_one", INVALID, 1),
        (b"pnpub_one.pnsec_" + b"x" * 65, INVALID, 1),
        (b"pnpub_one.pnsec_" + b"x" * 30_000, INVALID, 1),
        (b"pnpub_" + b"x" * 65 + b".pnsec_one", INVALID, 1),
        (b"", MALFORMED, 0),
        (b".", MALFORMED, 0),
        (b"pnpub_one", MALFORMED, 0),
        (b"pnpub_one.", MALFORMED, 0),
        (b".pnsec_one", MALFORMED, 0),
        (b"pnpub_one.pnsec_one.more", MALFORMED, 0),
        (b"pnpub_one . pnsec_one", MALFORMED, 0),
        (b"pnpub_one.pnsec_one\x00", MALFORMED, 0),
        (b"pnpub_one.pnsec_one\n", MALFORMED, 0),
        ("pnpub_öne.pnsec_one".encode(), MALFORMED, 0),
        (b"\xff\xfe.\xff", MALFORMED, 0),
    ],
)
async def test_outcomes_of_a_cold_token(token: bytes, expected: str, hashes: int) -> None:
    bench = Bench(make_record())
    assert await bench.text(token) == expected
    assert len(bench.hasher.checks) == hashes


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"status": Status.REVOKED}, "API token has been revoked"),
        ({"status": Status.DEPRECATED}, "API token is deprecated"),
        ({"expires_at": NOW - 1}, "API token has expired"),
        ({"expires_at": NOW}, "API token has expired"),
        ({"expires_at": NOW + 1}, "mobile_app"),
        ({"status": Status.REVOKED, "expires_at": NOW - 1}, "API token has been revoked"),
        ({"status": Status.DEPRECATED, "expires_at": NOW - 1}, "API token has expired"),
    ],
)
async def test_a_status_is_told_only_to_who_has_the_secret(fields: dict[str, Any], expected: str) -> None:
    bench = Bench(make_record(**fields))
    assert await bench.text(token_of(secret="wrong")) == INVALID
    assert await bench.text(token_of()) == expected
    assert await bench.text(token_of()) == expected
    assert len(bench.hasher.checks) == 2


@pytest.mark.parametrize("dearest", ["declared", "stored", "configured"])
async def test_an_unknown_key_costs_as_much_as_a_wrong_secret(dearest: str) -> None:
    cheap, dear = (f"$2b${cost:02d}${'a' * 53}" for cost in (5, 12))
    bench = Bench(make_record("stored", secret_hash=dear if dearest == "stored" else cheap))
    key = declared_key("declared", secret_hash=dear if dearest == "declared" else cheap)
    bench.verifier.declare([declared_consumer("mobile_app", key)], [])
    if dearest == "configured":
        bench.verifier.configure(replace(bench.verifier.rules, bcrypt_rounds=12))
    await bench.text(token_of("stored", secret="first"))
    bench.hasher.costs.clear()
    for name in ("stored", "declared", "unknown"):
        assert await bench.text(token_of(name, secret="wrong")) == INVALID
    assert await bench.text(b"other_one.pnsec_one") == INVALID
    assert bench.hasher.costs == [12, 12, 12, 12]


async def test_a_verified_token_is_remembered_and_answered_in_a_plain_call() -> None:
    bench = Bench(make_record())
    first = await bench.answer(token_of())
    second = bench.ask(token_of())
    assert second is first
    assert (len(bench.store.lookups), len(bench.hasher.checks)) == (1, 1)
    assert (bench.verifier.tally.hit, bench.verifier.tally.miss) == (1, 1)


async def test_a_remembered_key_expires_at_its_moment() -> None:
    bench = Bench(make_record(expires_at=NOW + 60))
    identity = await bench.answer(token_of())
    assert isinstance(identity, Identity)
    bench.clock.seconds = 59.9
    assert text_of(bench.ask(token_of())) == "mobile_app"
    assert bench.verifier.still_valid(identity, bench.clock.time())
    bench.clock.seconds = 60
    assert not bench.verifier.still_valid(identity, bench.clock.time())
    assert await bench.text(token_of()) == "API token has expired"
    assert len(bench.hasher.checks) == 1


async def test_an_identity_carries_consumer_credential_and_scopes() -> None:
    bench = Bench(make_record(scopes=("courses:read",)))
    identity = await bench.answer(token_of())
    assert isinstance(identity, Identity)
    assert identity.credential is not None
    assert (identity.credential.identifier, identity.scopes) == ("pnpub_one", ("courses:read",))
    assert (identity.groups, identity.anonymous) == (frozenset({"contentUser"}), False)


# ── at once ─────────────────────────────────────────────────────────────────────────────────────


async def test_a_thousand_waiters_for_one_key_share_one_verification() -> None:
    bench = Bench(make_record())
    outcomes = [bench.ask(token_of()) for _ in range(1000)]
    assert {text_of(await settled(outcome)) for outcome in outcomes} == {"mobile_app"}
    assert (len(bench.store.lookups), len(bench.hasher.checks)) == (1, 1)


async def test_a_burst_of_wrong_keys_spends_no_more_hashes_than_may_fail() -> None:
    bench = Bench(make_record())
    outcomes = [bench.ask(token_of(secret=f"wrong{number}")) for number in range(1000)]
    texts = [text_of(await settled(outcome)) for outcome in outcomes]
    assert (texts.count(INVALID), texts.count(TOO_MANY)) == (20, 980)
    assert len(bench.hasher.checks) == 20


async def test_a_burst_of_good_keys_from_one_address_is_verified_in_turn() -> None:
    names = [f"k{number}" for number in range(200)]
    bench = Bench(*(make_record(name) for name in names))
    outcomes = [bench.ask(token_of(name)) for name in names]
    assert {text_of(await settled(outcome)) for outcome in outcomes} == {"mobile_app"}


async def test_more_jobs_than_the_limit_are_refused_with_a_time_to_come_back() -> None:
    bench = Bench(make_record(), held=True, limit=3)
    waiting = [bench.ask(token_of(f"a{number}"), f"192.0.2.{number}") for number in range(3)]
    refused = bench.ask(token_of(), "192.0.2.9")
    assert isinstance(refused, Deny)
    assert (refused.answer.status, refused.headers) == (503, ((b"Retry-After", b"1"),))
    await turns()
    for _ in waiting:
        bench.hasher.finish()
        await turns()
    assert isinstance(bench.ask(token_of(), "192.0.2.9"), Pending)


# ── guesses ─────────────────────────────────────────────────────────────────────────────────────


async def test_failures_are_limited_by_address_and_known_keys_pass() -> None:
    bench = Bench(make_record(), make_record("two"))
    assert await bench.text(token_of()) == "mobile_app"
    for number in range(20):
        assert await bench.text(token_of("two", f"wrong{number}")) == INVALID
    refused = await bench.answer(token_of("two", "wrong-again"))
    assert text_of(refused) == TOO_MANY
    assert isinstance(refused, Deny)
    assert refused.headers == ((b"Retry-After", b"60"),)
    assert await bench.text(token_of("two")) == TOO_MANY, "not remembered as good"
    assert text_of(bench.ask(token_of())) == "mobile_app", "remembered as good"
    assert await bench.text(token_of("two"), "198.51.100.1") == "mobile_app", "another address is not locked out"
    assert len(bench.hasher.checks) == 22
    bench.clock.seconds = 60
    assert await bench.text(token_of("two", "wrong")) == INVALID


async def test_the_same_wrong_key_costs_one_hash_and_counts_each_time() -> None:
    bench = Bench(make_record())
    texts = [await bench.text(token_of(secret="wrong")) for _ in range(25)]
    assert texts == [INVALID] * 20 + [TOO_MANY] * 5
    assert len(bench.hasher.checks) == 1


async def test_neither_shape_nor_status_counts_as_a_guess() -> None:
    bench = Bench(make_record(status=Status.REVOKED))
    for _ in range(50):
        assert await bench.text(b"no key") == MALFORMED
        assert await bench.text(token_of()) == "API token has been revoked"
    assert await bench.text(token_of("unknown")) == INVALID


async def test_an_ipv6_network_counts_as_one_address() -> None:
    bench = Bench(make_record())
    for number in range(20):
        assert await bench.text(token_of("x", f"w{number}"), f"2001:db8:1:2::{number:x}") == INVALID
    assert await bench.text(token_of(), "2001:db8:1:2:ffff::1") == TOO_MANY
    assert await bench.text(token_of(), "2001:db8:1:3::1") == "mobile_app"


async def test_a_flood_of_wrong_keys_stays_within_memory_and_evicts_no_good_one() -> None:
    bench = Bench(make_record(), memory=Memory(good=2, bad=50))
    await bench.answer(token_of())
    for number in range(500):
        await bench.answer(token_of("x", f"w{number}"), f"10.0.{number // 200}.{number % 200}")
    assert bench.verifier.memory.sizes == (1, 50)
    assert text_of(bench.ask(token_of())) == "mobile_app"


async def test_who_waits_from_elsewhere_is_not_refused_with_the_address_that_asked_first() -> None:
    bench = Bench(make_record(), held=True)
    blocking = [bench.ask(token_of("x", f"w{number}")) for number in range(20)]
    parked = bench.ask(token_of())
    elsewhere = bench.ask(token_of(), "198.51.100.1")
    await turns()
    for _ in blocking:
        bench.hasher.finish()
        await turns()
    assert text_of(await settled(parked)) == TOO_MANY
    await turns()
    bench.hasher.finish()
    assert text_of(await settled(elsewhere)) == "mobile_app"


async def test_who_waits_from_elsewhere_is_refused_if_that_address_has_no_failures_left_either() -> None:
    bench = Bench(make_record())
    await bench.answer(token_of(secret="wrong"), "192.0.2.200")
    bench.hasher.held = True
    blocking = [bench.ask(token_of("x", f"w{number}")) for number in range(20)]
    parked = bench.ask(token_of())
    elsewhere = [bench.ask(token_of(), f"198.51.100.{number}") for number in range(3)]
    for number in range(2):
        for _ in range(20):
            assert text_of(bench.ask(token_of(secret="wrong"), f"198.51.100.{number}")) == INVALID
    await turns()
    for _ in blocking:
        bench.hasher.finish()
        await turns()
    assert [text_of(await settled(outcome)) for outcome in (parked, *elsewhere[:2])] == [TOO_MANY] * 3
    bench.hasher.finish()
    assert text_of(await settled(elsewhere[2])) == "mobile_app"


# ── cancelling ──────────────────────────────────────────────────────────────────────────────────


async def test_a_queued_job_that_nobody_waits_for_is_dropped_and_not_counted() -> None:
    bench = Bench(make_record(), held=True)
    for number in range(100):
        outcome = bench.ask(token_of("x", f"w{number}"))
        assert isinstance(outcome, Pending)
        await turns(3)
        outcome.cancel()
        await turns(3)
    assert bench.hasher.depth == 0
    assert isinstance(bench.ask(token_of()), Pending)


async def test_a_running_hash_that_nobody_waits_for_is_counted() -> None:
    bench = Bench(make_record(), held=True)
    bench.hasher.running = True
    for number in range(20):
        outcome = bench.ask(token_of("x", f"w{number}"))
        assert isinstance(outcome, Pending)
        await turns(3)
        outcome.cancel()
        bench.hasher.finish()
        await turns(3)
    assert text_of(bench.ask(token_of())) == TOO_MANY


async def test_cancelling_a_parked_job_forgets_it() -> None:
    bench = Bench(make_record(), held=True)
    for number in range(20):
        bench.ask(token_of("x", f"w{number}"))
    parked = bench.ask(token_of())
    assert isinstance(parked, Pending)
    parked.cancel()
    await turns()
    assert bench.hasher.depth == 20


async def test_one_waiter_that_leaves_takes_nothing_from_the_others() -> None:
    bench = Bench(make_record(), held=True)
    first, second = bench.ask(token_of()), bench.ask(token_of())
    assert isinstance(first, Pending)
    await turns()
    first.cancel()
    bench.hasher.finish()
    assert text_of(await settled(second)) == "mobile_app"


async def test_one_receivers_fault_costs_the_others_nothing() -> None:
    bench = Bench(make_record())
    faults: list[dict[str, Any]] = []

    def explode(_: object) -> None:
        raise RuntimeError("a policy broke")

    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    first, second = bench.ask(token_of()), bench.ask(token_of())
    assert isinstance(first, Pending)
    first.then(explode, explode)
    assert text_of(await settled(second)) == "mobile_app"
    assert len(faults) == 1


# ── changes ─────────────────────────────────────────────────────────────────────────────────────


async def test_a_revocation_is_heard_at_once_and_costs_no_hash() -> None:
    bench = Bench(make_record())
    identity = await bench.answer(token_of())
    assert isinstance(identity, Identity)
    assert bench.verifier.still_valid(identity, NOW)
    bench.store.rows["pnpub_one"] = make_record(status=Status.REVOKED)
    bench.verifier.forget("key", "key-one")
    assert not bench.verifier.still_valid(identity, NOW)
    assert await bench.text(token_of()) == "API token has been revoked"
    assert len(bench.hasher.checks) == 1


async def test_a_revocation_overtakes_a_lookup() -> None:
    bench = Bench(make_record())
    bench.store.gate = asyncio.Event()
    outcome = bench.ask(token_of())
    await turns()
    bench.store.rows["pnpub_one"] = make_record(status=Status.REVOKED)
    bench.verifier.forget("key", "key-one")
    bench.store.gate.set()
    assert text_of(await settled(outcome)) == "API token has been revoked"
    assert await bench.text(token_of()) == "API token has been revoked"


@pytest.mark.parametrize("change", [("key", "key-one"), ("consumer", "id-mobile_app"), ("everything", "")])
async def test_a_revocation_overtakes_a_hash(change: tuple[str, str]) -> None:
    bench = Bench(make_record(), held=True)
    outcome = bench.ask(token_of())
    await turns()
    bench.store.rows["pnpub_one"] = make_record(status=Status.REVOKED)
    bench.verifier.forget(*change)
    bench.hasher.finish()
    assert text_of(await settled(outcome)) == "API token has been revoked"
    assert len(bench.hasher.checks) == 1


async def test_a_change_of_another_key_disturbs_nothing() -> None:
    bench = Bench(make_record(), held=True)
    outcome = bench.ask(token_of())
    await turns()
    bench.verifier.forget("key", "key-two")
    bench.hasher.finish()
    assert text_of(await settled(outcome)) == "mobile_app"
    assert len(bench.store.lookups) == 1


async def test_a_key_made_after_it_was_tried_works() -> None:
    bench = Bench()
    assert await bench.text(token_of()) == INVALID
    bench.store.rows["pnpub_one"] = make_record()
    assert await bench.text(token_of()) == INVALID, "remembered as wrong"
    bench.verifier.forget("key", "key-one")
    assert await bench.text(token_of()) == "mobile_app"


async def test_a_wrong_token_is_not_remembered_when_the_key_changed_meanwhile() -> None:
    bench = Bench(held=True)
    outcome = bench.ask(token_of())
    await turns()
    bench.store.rows["pnpub_one"] = make_record()
    bench.verifier.forget("key", "key-one")
    bench.hasher.finish()
    assert text_of(await settled(outcome)) == INVALID
    bench.hasher.held = False
    assert await bench.text(token_of()) == "mobile_app"


async def test_a_changed_secret_ends_the_old_one() -> None:
    bench = Bench(make_record())
    assert await bench.text(token_of()) == "mobile_app"
    bench.store.rows["pnpub_one"] = make_record(secret_hash=hash_of(b"pnsec_new"))
    bench.verifier.forget("key", "key-one")
    assert await bench.text(token_of()) == INVALID
    assert await bench.text(token_of(secret="new")) == "mobile_app"


async def test_a_store_that_fails_is_a_fault_only_where_nothing_is_remembered() -> None:
    bench = Bench(make_record())
    await bench.answer(token_of())
    bench.store.broken = True
    assert await bench.text(token_of()) == "mobile_app"
    refused = await bench.answer(token_of("two"))
    assert isinstance(refused, Deny)
    assert (refused.answer.status, refused.answer.text) == (500, "Failed to verify API token")
    assert not bench.verifier.store_up
    bench.store.broken = False
    assert await bench.text(token_of("two")) == INVALID
    assert bench.verifier.store_up


async def test_a_fault_goes_to_who_waits() -> None:
    bench = Bench(make_record())

    async def broken(public: str) -> None:
        raise ZeroDivisionError

    bench.store.find_key = broken  # type: ignore[method-assign]  # a store with a bug
    with pytest.raises(ZeroDivisionError):
        await bench.answer(token_of())


# ── declared ────────────────────────────────────────────────────────────────────────────────────


async def test_declared_keys_work_and_a_row_can_revoke_them() -> None:
    bench = Bench()
    bench.verifier.declare([declared_consumer("mobile_app", declared_key("one"))], [])
    identity = await bench.answer(token_of())
    assert isinstance(identity, Identity)
    assert identity.credential is not None
    assert identity.credential.declared
    bench.store.rows["pnpub_one"] = make_record(secret_hash="", status=Status.REVOKED, declared=True)
    bench.verifier.forget("key", identity.credential.id)
    assert await bench.text(token_of()) == "API token has been revoked"


async def test_a_row_that_stands_in_for_a_declaration_is_nobody_without_it() -> None:
    consumer = Consumer("id", "mobile_app", declared=True)
    bench = Bench(make_record(secret_hash="", declared=True), make_record("two", consumer=consumer))
    assert await bench.text(token_of()) == INVALID
    assert await bench.text(token_of("two")) == INVALID
    bench.verifier.declare([declared_consumer("mobile_app")], [])
    assert await bench.text(token_of("two")) == "mobile_app"


async def test_the_files_fields_hold_for_a_consumer_that_both_know() -> None:
    bench = Bench(make_record())
    bench.verifier.declare([declared_consumer("mobile_app", groups=("contentAdmin",))], [])
    identity = await bench.answer(token_of())
    assert isinstance(identity, Identity)
    assert identity.consumer.groups == ("contentAdmin",)
    assert identity.consumer is bench.verifier.consumer("mobile_app")


async def test_a_reload_that_changes_nothing_forgets_nothing_and_one_that_does_spends_no_hash() -> None:
    bench = Bench(make_record(), make_record("two", "other"))
    bench.verifier.declare([declared_consumer("mobile_app")], [])
    first, other = await bench.answer(token_of()), await bench.answer(token_of("two"))
    bench.verifier.declare([declared_consumer("mobile_app")], [])
    assert bench.ask(token_of()) is first
    bench.verifier.declare([declared_consumer("mobile_app", groups=("x",))], [])
    changed = await bench.answer(token_of())
    assert isinstance(changed, Identity)
    assert changed.consumer.groups == ("x",)
    assert bench.ask(token_of("two")) is other, "who did not change is still remembered"
    assert len(bench.hasher.checks) == 2


async def test_an_anonymous_identity_is_valid_while_its_consumer_is_declared_alike() -> None:
    bench = Bench()
    bench.verifier.declare([declared_consumer("guest")], [])
    consumer = bench.verifier.consumer("guest")
    assert consumer is not None
    identity = Identity(consumer, anonymous=True)
    assert bench.verifier.still_valid(identity, NOW)
    bench.verifier.declare([declared_consumer("guest", groups=("x",))], [])
    assert not bench.verifier.still_valid(identity, NOW)


@pytest.mark.parametrize("token", [b"any old shape", b"a.b.c", "schlüssel\x00".encode(), b"x" * 500])
@pytest.mark.parametrize("with_hash", [True, False])
async def test_imported_keys_have_any_shape(token: bytes, with_hash: bool) -> None:
    bench = Bench()
    digest = SECRET_KEY.legacy_digest(token)
    key = declared_key("old", public=None, legacy=digest.upper(), secret_hash=hash_of(token) if with_hash else None)
    bench.verifier.declare([declared_consumer("mobile_app", key)], [])
    identity = await bench.answer(token)
    assert text_of(identity) == "mobile_app"
    assert isinstance(identity, Identity)
    assert identity.credential is not None
    assert identity.credential.identifier == f"legacy_{digest[:16]}"
    assert await bench.text(token + b"x") == MALFORMED


async def test_changed_settings_take_effect() -> None:
    bench = Bench(make_record())
    assert await bench.text(token_of()) == "mobile_app"
    bench.verifier.configure(Rules(Prefixes("pk_", "sk_"), 5, parse_rate("1/minute")))
    made = await bench.verifier.make_key()
    assert made.public.startswith("pk_")
    assert made.secret_hash == hash_of(made.secret)
    assert made.secret.decode() not in repr(made)
    assert await bench.text(token_of()) == INVALID, "its prefixes are not ours any more"
    assert await bench.text(token_of("two"), ADDRESS) == TOO_MANY
