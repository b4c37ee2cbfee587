"""The store on a real SQLite file: repositories, the feed, migrations, and what an operator may do wrong."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.core.errors import ConflictError, NotFoundError, StartError, StoreError
from gateway.core.identity import Consumer, Credential, Organization, Status, declared_id
from gateway.core.ports import KeyRecord
from gateway.store import migrations, tables
from gateway.store.location import data_folder, database_path, folder_lock
from gateway.store.store import Store


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/data/postern.db"


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    made = await Store.open(url)
    yield made
    await made.close()


# ── repositories ────────────────────────────────────────────────────────────────────────────────


async def test_a_key_comes_with_its_consumer_groups_and_organization(store: Store) -> None:
    organization = await store.organizations.create("springfield", ("contentUser",), ("60/minute",))
    consumer = await store.consumers.create("mobile_app", "m-1", "springfield", ("z", "a", "m"), ("600/minute",))
    made = await store.keys.create(
        consumer, "pnpub_1", "$2b$", name="sync", read_only=True, scopes=("b", "a"), expires_at=1.5
    )
    assert made == await store.find_key("pnpub_1") == await store.keys.get(made.credential.id)
    assert made.consumer == consumer
    assert made.consumer.groups == ("z", "a", "m"), "in the order in which they were given"
    assert made.consumer.organization == organization == await store.organizations.find("springfield")
    credential = made.credential
    assert (credential.status, credential.read_only, credential.scopes) == (Status.ACTIVE, True, ("b", "a"))
    assert (credential.expires_at, credential.consumer_id, credential.declared) == (1.5, consumer.id, False)


async def test_what_is_not_there(store: Store) -> None:
    assert await store.find_key("") is None
    assert await store.find_key("x" * 100_000) is None
    assert await store.find_key("' OR 1=1 --") is None
    assert await store.keys.get("x") is None
    assert await store.consumers.find("x") is None
    assert await store.organizations.find("x") is None
    with pytest.raises(NotFoundError):
        await store.keys.set_status("x", Status.REVOKED)


async def test_names_are_taken_once(store: Store) -> None:
    consumer = await store.consumers.create("mobile_app", "m-1")
    await store.organizations.create("springfield")
    await store.keys.create(consumer, "pnpub_1", "h", name="a")
    with pytest.raises(ConflictError, match="mobile_app"):
        await store.consumers.create("mobile_app")
    with pytest.raises(ConflictError):
        await store.consumers.create("other", "m-1")
    with pytest.raises(ConflictError, match="springfield"):
        await store.organizations.create("springfield")
    with pytest.raises(ConflictError):
        await store.keys.create(consumer, "pnpub_1", "h", name="b")
    assert await store.consumers.find("other") is None, "nothing of a refused change stays"


async def test_an_organization_that_only_the_file_may_know(store: Store) -> None:
    consumer = await store.consumers.create("mobile_app", organization="springfield")
    assert consumer.organization == Organization(declared_id("organization", "springfield"), "springfield")


async def test_a_declared_consumer_gets_a_row_to_stand_in(store: Store) -> None:
    declared = Consumer(declared_id("consumer", "lms"), "lms", groups=("x",), declared=True)
    first = await store.keys.create(declared, "pnpub_1", "h", name="a")
    second = await store.keys.create(declared, "pnpub_2", "h", name="b")
    assert first.consumer == second.consumer
    assert (first.consumer.id, first.consumer.declared, first.consumer.groups) == (declared.id, True, ())
    assert await store.consumers.usernames() == []
    assert await store.consumers.page("", 10) == []
    with pytest.raises(ConflictError):
        await store.consumers.create("lms")


async def test_a_stored_consumer_that_is_declared_later_keeps_its_row(store: Store) -> None:
    stored = await store.consumers.create("lms")
    declared = Consumer(declared_id("consumer", "lms"), "lms", declared=True)
    made = await store.keys.create(declared, "pnpub_1", "h", name="a")
    assert made.credential.consumer_id == stored.id


async def test_a_declared_key_is_remembered_as_revoked(store: Store) -> None:
    consumer = Consumer(declared_id("consumer", "lms"), "lms", declared=True)
    credential = Credential("id-1", "key", "pnpub_1", consumer.id, "sync", "a hash", declared=True)
    for status in (Status.REVOKED, Status.REVOKED):
        await store.keys.set_declared_status(KeyRecord(credential, consumer), status)
    found = await store.find_key("pnpub_1")
    assert found is not None
    assert found.credential == replace(
        credential, status=Status.REVOKED, secret_hash="", created_at=found.credential.created_at
    )
    assert await store.keys.statuses(["id-1", "other"]) == {"id-1": Status.REVOKED}
    assert await store.keys.page((-1.0, ""), 10) == []


async def test_pages(store: Store) -> None:
    for name in ("b", "a", "c"):
        await store.organizations.create(name)
        consumer = await store.consumers.create(name, groups=(name, "x"))
        for number in range(2):
            await store.keys.create(consumer, f"pnpub_{name}{number}", "h", name=str(number))
    assert [item.name for item in await store.organizations.page("", 2)] == ["a", "b"]
    assert [item.name for item in await store.organizations.page("b", 2)] == ["c"]
    assert [item.groups for item in await store.consumers.page("a", 2)] == [("b", "x"), ("c", "x")]
    seen: list[str] = []
    after = (-1.0, "")
    while page := await store.keys.page(after, 4):
        seen += [record.credential.identifier for record in page]
        after = (page[-1].credential.created_at, page[-1].credential.id)
    assert seen == ["pnpub_b0", "pnpub_b1", "pnpub_a0", "pnpub_a1", "pnpub_c0", "pnpub_c1"]
    mine = await store.keys.page((-1.0, ""), 10, "a")
    assert [record.credential.identifier for record in mine] == ["pnpub_a0", "pnpub_a1"]


async def test_many_at_once(store: Store) -> None:
    consumer = await store.consumers.create("mobile_app")
    made = await asyncio.gather(
        *(store.keys.create(consumer, f"pnpub_{number}", "h", name="x") for number in range(30))
    )
    found = await asyncio.gather(*(store.find_key(record.credential.identifier) for record in made))
    assert list(found) == made


# ── the feed ────────────────────────────────────────────────────────────────────────────────────


async def test_changes_are_heard_in_order_and_once(store: Store) -> None:
    heard: list[tuple[str, str]] = []

    def listen(kind: str, name: str) -> None:
        heard.append((kind, name))

    store.changes.subscribe(listen)
    store.changes.subscribe(listen)
    await store.organizations.create("springfield")
    consumer = await store.consumers.create("mobile_app")
    key = (await store.keys.create(consumer, "pnpub_1", "h", name="x")).credential.id
    await store.keys.set_status(key, Status.REVOKED)
    assert heard == []
    await store.changes.catch_up()
    await store.changes.catch_up()
    assert heard == [("organization", "springfield"), ("consumer", consumer.id), ("key", key), ("key", key)]
    assert store.changes.seq == 4


async def test_a_refused_change_is_no_change(store: Store) -> None:
    await store.organizations.create("springfield")
    with pytest.raises(ConflictError):
        await store.organizations.create("springfield")
    await store.changes.catch_up()
    assert store.changes.seq == 1


async def test_writes_of_another_process_are_followed(store: Store, url: str) -> None:
    heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    store.changes.subscribe(lambda kind, name: heard.put_nowait((kind, name)))
    follower = asyncio.create_task(store.changes.follow(0.01))
    other = await Store.open(url)
    for number in range(3):
        await other.organizations.create(f"o{number}")
        assert await asyncio.wait_for(heard.get(), 30) == ("organization", f"o{number}")
    await other.close()
    follower.cancel()


async def test_a_later_start_begins_at_the_newest_change(store: Store, url: str) -> None:
    await store.organizations.create("springfield")
    again = await Store.open(url)
    assert again.changes.seq == 1
    await again.close()


async def test_a_feed_that_breaks_says_so_and_recovers(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken() -> float | None:
        raise StoreError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(store.changes, "_hear", broken)
        follower = asyncio.create_task(store.changes.follow(0.005))
        await _until(lambda: not store.changes.up)
    await _until(lambda: store.changes.up)
    follower.cancel()


async def test_nobody_is_answered_before_it_is_confirmed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    gate = asyncio.Event()
    asked = 0

    async def confirm() -> None:
        nonlocal asked
        asked += 1
        await gate.wait()

    store.changes.subscribe(lambda kind, name: heard.append(name))
    store.changes.confirm = confirm
    await store.organizations.create("springfield")
    monkeypatch.setattr("gateway.store.changes.time.time", lambda: 4e9)
    first = asyncio.create_task(store.changes.catch_up())
    await _until(lambda: asked == 1)
    second = asyncio.create_task(store.changes.catch_up())
    await _until(lambda: asked == 2)
    assert heard == ["springfield"], "the second has nothing to tell, and waits for the first one's confirmation"
    assert (first.done(), second.done(), store.changes.lag) == (False, False, 0.0)
    gate.set()
    await asyncio.gather(first, second)
    assert store.changes.lag > 1e9, "measured to the confirmation"


@pytest.mark.parametrize("confirmation", ["fails", "never comes"])
async def test_the_feed_is_followed_whatever_becomes_of_a_confirmation(
    store: Store, monkeypatch: pytest.MonkeyPatch, confirmation: str, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[str] = []

    async def confirm() -> None:
        if confirmation == "fails":
            raise ZeroDivisionError
        await asyncio.Event().wait()

    monkeypatch.setattr("gateway.store.changes._CONFIRMATION", 0.01)
    store.changes.subscribe(lambda kind, name: heard.append(name))
    store.changes.confirm = confirm
    follower = asyncio.create_task(store.changes.follow(0.005))
    for name in ("springfield", "shelbyville"):
        await store.organizations.create(name)
        await _until(lambda: heard[-1:] == [name])  # noqa: B023  # waited for at once
        await _until(lambda: "could not be confirmed" in caplog.text)
        caplog.clear()
    assert store.changes.lag == 0.0
    assert store.changes.up
    follower.cancel()
    if confirmation == "fails":
        with pytest.raises(ZeroDivisionError):
            await store.changes.catch_up()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


# ── files ───────────────────────────────────────────────────────────────────────────────────────


async def test_files_are_private_and_durable(store: Store, tmp_path: Path) -> None:
    await store.organizations.create("x")
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    for path in (tmp_path / "data").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    async with store._database.write() as connection:
        pragmas = [
            (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    assert pragmas == ["wal", 2, 1, 5000]


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///data/postern.db", "data/postern.db"),
        ("sqlite:////var/lib/p.db", "/var/lib/p.db"),
        ("sqlite:///p.db", "p.db"),
    ],
)
def test_where_it_lies(url: str, path: str) -> None:
    assert database_path(url) == Path(path)
    assert data_folder(url) == Path(path).parent


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "postgresql://user:hunter2@host/db", "mysql://x"])
async def test_other_stores_are_not_there_yet(url: str) -> None:
    with pytest.raises(StartError, match="not available yet") as caught:
        await Store.open(url)
    assert "hunter2" not in str(caught.value)


async def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(StartError, match="cannot make the data folder"):
        await Store.open(f"sqlite:///{tmp_path}/data/postern.db")


async def test_a_folder_that_cannot_be_written(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(StartError, match="cannot write to the data folder"):
        await Store.open(url)


async def test_a_database_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "postern.db").mkdir()
    with pytest.raises(StartError, match="cannot open the store"):
        await Store.open(f"sqlite:///{tmp_path}/postern.db")


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "postern.db").write_text("something else entirely\n" * 100)
    with pytest.raises(StartError, match="file is not a database"):
        await Store.open(f"sqlite:///{tmp_path}/postern.db")


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_file_that_was_removed_is_read_but_written_no_more(store: Store, url: str, replaced: bool) -> None:
    consumer = await store.consumers.create("mobile_app")
    made = await store.keys.create(consumer, "pnpub_1", "$2b$", name="sync")
    path = database_path(url)
    away = path.rename(path.with_name("away.db"))
    if replaced:
        path.write_bytes(away.read_bytes())
    with pytest.raises(StoreError, match="removed or replaced"):
        await store.keys.set_status(made.credential.id, Status.REVOKED)
    assert await store.find_key("pnpub_1") == made
    following = asyncio.create_task(store.changes.follow(0.01))
    for up in (False, True):
        async with asyncio.timeout(30):
            while store.changes.up is not up:
                await asyncio.sleep(0.01)
        if not up:
            away.replace(path)
    following.cancel()
    await store.keys.set_status(made.credential.id, Status.REVOKED)
    assert path.exists()


async def test_a_file_that_was_removed_is_not_made_anew(store: Store, url: str) -> None:
    path = database_path(url)
    path.unlink()
    await asyncio.gather(*(store.find_key("x") for _ in range(10)), return_exceptions=True)
    assert not path.exists()


@pytest.mark.parametrize("name", ["a b", "a?b=c", "a#b", "a%41b", "ä"])
async def test_any_name_of_a_file(tmp_path: Path, name: str) -> None:
    made = await Store.open(f"sqlite:///{tmp_path}/{name}/{name}.db")
    await made.consumers.create("mobile_app")
    await made.close()
    assert (tmp_path / name / f"{name}.db").stat().st_size > 0


async def test_a_database_that_breaks_later_is_a_fault(store: Store, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "data" / "postern.db") as connection:
        connection.execute("DROP TABLE keys")
    with pytest.raises(StoreError, match="no such table") as caught:
        await store.find_key("pnpub_1")
    assert "SELECT" not in str(caught.value)


# ── migrations ──────────────────────────────────────────────────────────────────────────────────


async def test_a_new_database_is_migrated_and_an_old_one_left_alone(url: str) -> None:
    first = await Store.open(url)
    assert (first.migrated.before, first.migrated.after) == (None, migrations.HEAD)
    await first.close()
    second = await Store.open(url)
    assert (second.migrated.before, second.migrated.after) == (migrations.HEAD, migrations.HEAD)
    await second.close()


async def test_two_that_start_at_once_take_turns(url: str) -> None:
    stores = await asyncio.gather(*(Store.open(url) for _ in range(4)))
    assert sorted(store.migrated.before or "" for store in stores) == ["", *[migrations.HEAD] * 3]
    for store in stores:
        await store.close()


async def test_a_newer_database_is_refused(url: str, tmp_path: Path) -> None:
    await (await Store.open(url)).close()
    with sqlite3.connect(tmp_path / "data" / "postern.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StartError, match="newer Postern"):
        await Store.open(url)


async def test_a_migration_that_fails_leaves_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from alembic.operations import Operations

    def broken(self: Operations, *_: object, **__: object) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(Operations, "create_index", broken)
        with pytest.raises(RuntimeError):
            await Store.open(url)
    store = await Store.open(url)
    assert store.migrated.before is None
    await store.close()


def test_head_is_the_newest_revision() -> None:
    from alembic.script import ScriptDirectory

    assert ScriptDirectory(str(migrations.FOLDER)).get_heads() == [migrations.HEAD]


async def test_the_tables_are_what_the_migrations_make(store: Store) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    async with store._database.read() as connection:
        differences = await connection.run_sync(
            lambda sync: compare_metadata(MigrationContext.configure(sync), tables.metadata)
        )
    assert differences == []


async def test_the_folder_is_locked_for_others_meanwhile(tmp_path: Path) -> None:
    async with folder_lock(tmp_path):
        waiting = asyncio.create_task(_lock(tmp_path))
        await asyncio.sleep(0.12)
        assert not waiting.done()
    await asyncio.wait_for(waiting, 30)


async def _lock(folder: Path) -> None:
    async with folder_lock(folder):
        return


def test_a_database_at_its_head_needs_no_alembic(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys; from gateway.store.store import Store\n"
        f"asyncio.run(Store.open('sqlite:///{tmp_path}/postern.db')); print('alembic' in sys.modules)"
    )
    answers = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
        for _ in range(2)
    ]
    assert answers == ["True", "False"]
