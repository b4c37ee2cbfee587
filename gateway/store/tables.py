"""The tables of the identity store, in SQLAlchemy Core.

Ids are UUIDs as text, times Unix seconds, lists JSON.  An organization is referred to by its name, which a file
may declare instead of a row; a row marked `declared` stands in for a consumer or key of the file (see
`gateway.credentials.declared`).  Every change of a row writes one row of `changes` in the same transaction.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

organizations = Table(
    "organizations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("grantable_groups", JSON, nullable=False),
    Column("rate_limits", JSON, nullable=False),
    Column("created_at", Double, nullable=False),
)

consumers = Table(
    "consumers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("username", Text, nullable=False, unique=True),
    Column("custom_id", Text, unique=True),
    Column("organization", Text, index=True),
    Column("rate_limits", JSON, nullable=False),
    Column("declared", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
)

consumer_groups = Table(
    "consumer_groups",
    metadata,
    Column("consumer_id", Text, ForeignKey("consumers.id", ondelete="CASCADE"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("position", Integer, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("public", Text, nullable=False, unique=True),
    Column("consumer_id", Text, ForeignKey("consumers.id", ondelete="CASCADE"), nullable=False),
    Column("name", Text, nullable=False),
    Column("secret_hash", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("read_only", Boolean, nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("rate_limits", JSON, nullable=False),
    Column("declared", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("last_used_at", Double),
    Index("ix_keys_consumer_id", "consumer_id"),
    Index("ix_keys_created_at_id", "created_at", "id"),
)

#: `seq` grows with every committed change and is never used twice.
changes = Table(
    "changes",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("at", Double, nullable=False),
    sqlite_autoincrement=True,
)
