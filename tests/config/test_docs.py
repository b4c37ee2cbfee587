"""docs/CONFIGURATION.md says what the models say."""

from __future__ import annotations

from pathlib import Path

from gateway.config.availability import GATES
from gateway.config.docs import render
from gateway.registry import policies
from tests.config.fakes import POLICIES

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_fresh() -> None:
    """Regenerate with `python -m gateway.config.docs > docs/CONFIGURATION.md`."""
    assert (ROOT / "docs/CONFIGURATION.md").read_text("utf-8") == render(policies())


def test_everything_has_its_place() -> None:
    page = render(policies())
    for heading in ("### `limits`", "### `services[].routes[]`", "### `consumers[].keys[]`", "### `rate-limiting`"):
        assert heading in page
    assert "| `header_bytes` | size | `32KiB` |" in page
    assert "| `name` | name | required |" in page
    for gate in GATES:
        assert f"- `{gate.path}`: {gate.what}" in page


def test_policies_of_any_kind_have_a_section() -> None:
    page = render(POLICIES)
    assert "Short for a mapping: `door: none`." in page
    assert "| `limits` | list of rate | required | Rates. |" in page
    assert "### `numbers`\n\nTakes a plain list.\n" in page
