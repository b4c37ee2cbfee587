"""A running stub LMS for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from upstream_stub.testing import Lms, running_lms


@pytest.fixture
async def lms() -> AsyncIterator[Lms]:
    async with running_lms() as running:
        yield running
