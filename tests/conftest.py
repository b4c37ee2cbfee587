"""Holds for every test: what runs is what the sources say, and nothing is judged by how long a machine takes."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from gateway.compiled import stale

# By itself Hypothesis fails an example that takes more than 200 ms: a machine that stands still for a moment would.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to test compiled modules that are older than their sources; give a slow machine all the time it takes."""
    settings.register_profile("patient", parent=settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("patient")
    if changed := stale():
        raise pytest.UsageError(
            f"{', '.join(changed)}: compiled before the last change; run `make install`, or `make interpreted`"
        )
