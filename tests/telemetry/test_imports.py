"""A worker counts, reports and logs without what only the control process needs: megabytes for each of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys
import {module}
print(sorted(set(sys.modules) & {{"prometheus_client", "aiohttp", "sqlalchemy", "bcrypt", "typer"}}))
"""


@pytest.mark.parametrize("module", ["access", "deltas", "events", "metrics", "states", "usage", "writer"])
def test_what_a_worker_imports_is_light(module: str) -> None:
    code = CODE.format(module=f"gateway.telemetry.{module}")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
