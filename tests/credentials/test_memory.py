"""What is remembered, and forgotten."""

from __future__ import annotations

from dataclasses import replace

from gateway.core.identity import Consumer, Identity
from gateway.core.ports import KeyRecord
from gateway.credentials.memory import FOREVER, Entry, Memory
from tests.credentials.fakes import make_record


def entry(name: str, username: str = "mobile_app") -> Entry:
    record = make_record(name, username)
    return Entry(Identity(record.consumer, record.credential), FOREVER, record)


def test_the_token_used_longest_ago_goes_first() -> None:
    memory = Memory(good=2, bad=2)
    for name in ("a", "b"):
        memory.remember(name.encode(), entry(name))
    memory.proven.move_to_end(b"a")
    memory.remember(b"c", entry("c"))
    assert list(memory.proven) == [b"a", b"c"]
    assert memory.entry_of("key-b") is None
    assert memory.entry_of("key-a") is memory.proven[b"a"]


def test_wrong_tokens_are_bounded_apart_and_cleared_by_any_change() -> None:
    memory = Memory(good=1, bad=2)
    memory.remember(b"good", entry("a"))
    memory.remember_wrong(b"x")
    memory.remember_wrong(b"y")
    assert memory.is_wrong(b"x")
    memory.remember_wrong(b"z")
    assert [memory.is_wrong(token) for token in (b"x", b"y", b"z")] == [True, False, True]
    assert memory.sizes == (1, 2)
    memory.forget_key("key-a")
    assert memory.sizes == (1, 0)


def test_forgetting_clears_the_conclusion_and_keeps_the_proof() -> None:
    memory = Memory()
    memory.remember(b"a", entry("a"))
    memory.remember(b"b", entry("b", "other"))
    memory.forget_where(lambda record: record.consumer.username == "other")
    assert memory.proven[b"a"].answer is not None
    assert memory.proven[b"b"].answer is None
    assert memory.proven[b"b"].record.credential.secret_hash == "Hpnsec_b"
    memory.forget_key("key-unknown")
    memory.forget_key("key-a")
    assert memory.proven[b"a"].answer is None


def test_a_consumer_is_forgotten_by_either_of_its_ids_and_nobody_else_is() -> None:
    """The stored one's and, where the file declares it as well, the declared one's."""
    memory = Memory(good=3)
    record = make_record("both")
    declared = KeyRecord(replace(record.credential, consumer_id="stored"), Consumer("declared", "mobile_app"))
    identity = Identity(declared.consumer, declared.credential)
    known = {b"a": entry("a"), b"b": entry("b", "other"), b"c": Entry(identity, FOREVER, declared)}
    for digest, each in known.items():
        memory.remember(digest, each)
    for name, left in [("unknown", {b"a", b"b", b"c"}), ("declared", {b"a", b"b"}), ("id-other", {b"a"})]:
        memory.remember_wrong(b"x")
        memory.forget_consumer(name)
        assert {digest for digest, each in known.items() if each.answer is not None} == left
        assert memory.sizes == (3, 0)
    again = Entry(identity, FOREVER, declared)
    memory.remember(b"c", again)
    memory.forget_consumer("stored")
    assert again.answer is None


def test_whose_a_key_is_follows_what_is_remembered() -> None:
    memory = Memory(good=1)
    for name, username in [("a", "one"), ("a", "two"), ("a", "two"), ("b", "two"), ("c", "three")]:
        memory.remember(name.encode(), entry(name, username))
        assert {owner: len(digests) for owner, digests in memory._by_consumer.items()} == {f"id-{username}": 1}
    memory.drop(b"c")
    assert not memory._by_consumer
    memory.remember(b"d", entry("d"))
    memory.clear()
    assert not memory._by_consumer


def test_dropping_forgets_the_proof_too() -> None:
    memory = Memory()
    memory.remember(b"old", entry("a"))
    memory.remember(b"new", entry("a"))
    memory.drop(b"old")
    memory.drop(b"never there")
    assert memory.entry_of("key-a") is memory.proven[b"new"]
    memory.drop(b"new")
    assert memory.entry_of("key-a") is None
