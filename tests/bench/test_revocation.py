"""What the trials of a revocation conclude; that they try what they say is `tests/integration/test_revocation.py`."""

from __future__ import annotations

import pytest

from bench.revocation import checks
from bench.trials import Findings


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        (Findings(trials=10), []),
        (Findings(trials=9), ["revocations tried"]),
        (Findings(trials=10, violations=["200"]), ["requests admitted after the revocation's answer"]),
    ],
)
def test_what_trials_promise(found: Findings, missed: list[str]) -> None:
    assert [check.text for check in checks(found, 10) if check.met is False] == missed
