"""The store as the rest of the house holds it: the repositories, the feed, and where it all lies.

    store = await Store.open("sqlite:///data/postern.db")
    store.changes.subscribe(verifier.forget)

Importing this module imports SQLAlchemy; whoever needs the store only sometimes imports it there.
"""

from __future__ import annotations

from pathlib import Path

from gateway.core.ports import KeyRecord
from gateway.store.changes import Changes
from gateway.store.consumers import Consumers
from gateway.store.engine import Database, Migrated, open_database
from gateway.store.keys import Keys
from gateway.store.location import data_folder
from gateway.store.organizations import Organizations


class Store:
    """The repositories; it is the `CredentialStore` of the verifier.  Any method may raise `StoreError`."""

    def __init__(self, database: Database, folder: Path, migrated: Migrated) -> None:
        self._database = database
        self.folder = folder
        self.migrated = migrated
        self.organizations = Organizations(database)
        self.consumers = Consumers(database)
        self.keys = Keys(database)
        self.changes = Changes(database)

    @classmethod
    async def open(cls, url: str) -> Store:
        """Open the store of a URL such as `sqlite:///data/postern.db`, migrated.  Raises `StartError`."""
        database, migrated = await open_database(url)
        store = cls(database, data_folder(url), migrated)
        await store.changes.start()
        return store

    async def find_key(self, public: str) -> KeyRecord | None:
        """The key of this public part, whatever its status, or None."""
        return await self.keys.find(public)

    async def close(self) -> None:
        """Close all connections."""
        await self._database.close()
