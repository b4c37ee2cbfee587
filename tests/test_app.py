"""When a node is ready: from when all its workers serve, as long as one does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.app import App, Options
from gateway.telemetry.states import WorkerStatus

CONFIG = """
version: 1
services:
  - name: lms
    url: http://127.0.0.1:9000
    routes: [{name: all, paths: [/], policies: {auth: none}}]
"""


@pytest.mark.parametrize(
    ("phase", "serving", "expected"),
    [
        ("starting", None, "starting"),
        ("starting", 0, "starting"),
        (None, 4, None),
        (None, 1, None),
        (None, 0, "no worker serves"),
        ("draining", 2, "draining"),
        ("stopped", 0, "stopped"),
    ],
)
def test_readiness(phase: str | None, serving: int | None, expected: str | None, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG, "utf-8")

    async def made() -> App:
        return App(Options(file))

    app = asyncio.run(made())
    app._reason = phase
    if serving is not None:
        workers = [WorkerStatus(number, "abc") for number in range(serving)]
        app.link = cast("Any", SimpleNamespace(workers=lambda: workers))
    assert app.not_ready() == expected
