"""Holds for every test: what runs is what the sources say."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from gateway.compiled import stale


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to test compiled modules that are older than their sources; give a slow machine all the time it takes."""
    settings.register_profile("patient", parent=settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("patient")
    if changed := stale():
        raise pytest.UsageError(
            f"{', '.join(changed)}: compiled before the last change; run `make install`, or `make interpreted`"
        )
