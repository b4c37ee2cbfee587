"""The schema's history (Alembic), and the one way to bring a database up to it.

`HEAD` names the newest revision, so that a database that is there already is recognised by one query, without
importing Alembic.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import inspect, text

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

HEAD = "0001"
FOLDER = Path(__file__).parent


def current_revision(connection: Connection) -> str | None:
    """The revision of a database, None for an empty one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if revision is None else str(revision)


def upgrade(connection: Connection) -> None:
    """Run what is missing up to `HEAD`, in the transaction of the connection."""
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    script = ScriptDirectory(str(FOLDER))

    def steps(revision: object, _context: object) -> object:
        return script._upgrade_revs(HEAD, revision)  # type: ignore[arg-type]  # as in Alembic's own cookbook

    context = MigrationContext.configure(connection, opts={"fn": steps, "script": script})
    with Operations.context(context):
        context.run_migrations()
