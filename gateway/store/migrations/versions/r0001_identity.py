"""Organizations, consumers with their groups, keys, and the change feed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "organizations",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("grantable_groups", sa.JSON(), nullable=False),
        sa.Column("rate_limits", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_organizations"),
        sa.UniqueConstraint("name", name="uq_organizations_name"),
    )
    op.create_table(
        "consumers",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("username", sa.Text(), nullable=False),
        sa.Column("custom_id", sa.Text()),
        sa.Column("organization", sa.Text()),
        sa.Column("rate_limits", sa.JSON(), nullable=False),
        sa.Column("declared", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_consumers"),
        sa.UniqueConstraint("username", name="uq_consumers_username"),
        sa.UniqueConstraint("custom_id", name="uq_consumers_custom_id"),
    )
    op.create_index("ix_consumers_organization", "consumers", ["organization"])
    op.create_table(
        "consumer_groups",
        sa.Column("consumer_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("consumer_id", "name", name="pk_consumer_groups"),
        sa.ForeignKeyConstraint(
            ["consumer_id"], ["consumers.id"], name="fk_consumer_groups_consumer_id", ondelete="CASCADE"
        ),
    )
    op.create_table(
        "keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("public", sa.Text(), nullable=False),
        sa.Column("consumer_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("secret_hash", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("read_only", sa.Boolean(), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("rate_limits", sa.JSON(), nullable=False),
        sa.Column("declared", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double()),
        sa.Column("last_used_at", sa.Double()),
        sa.PrimaryKeyConstraint("id", name="pk_keys"),
        sa.UniqueConstraint("public", name="uq_keys_public"),
        sa.ForeignKeyConstraint(["consumer_id"], ["consumers.id"], name="fk_keys_consumer_id", ondelete="CASCADE"),
    )
    op.create_index("ix_keys_consumer_id", "keys", ["consumer_id"])
    op.create_index("ix_keys_created_at_id", "keys", ["created_at", "id"])
    op.create_table(
        "changes",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False, autoincrement=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_changes"),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    """Drop them."""
    for table in ("changes", "keys", "consumer_groups", "consumers", "organizations"):
        op.drop_table(table)
