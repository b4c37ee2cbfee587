"""Holds for every test: what runs is what the sources say."""

from __future__ import annotations

import pytest

from gateway.compiled import stale


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to test compiled modules that are older than their sources."""
    if changed := stale():
        raise pytest.UsageError(
            f"{', '.join(changed)}: compiled before the last change; run `make install`, or `make interpreted`"
        )
