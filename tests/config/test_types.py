"""The types of settings: what YAML gives, what comes out, what editors are told."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter, ValidationError

from gateway.config import types
from gateway.config.types import Settings
from gateway.core.units import Rate, parse_duration, parse_size


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (types.Duration, "500ms", 0.5),
        (types.Duration, "90d", 90 * 86400.0),
        (types.Duration, 0, 0.0),
        (types.Size, "64KiB", 65536),
        (types.Size, "1MB", 1000000),
        (types.Size, 4096, 4096),
        (types.RateText, "600/minute", Rate(600, 60, "minute")),
        (types.RateText, "20/30s", Rate(20, 30, "30s")),
        (types.Network, "10.0.0.0/8", ip_network("10.0.0.0/8")),
        (types.Network, "2001:db8::1", ip_network("2001:db8::1/128")),
        (types.Name, "mobile_app", "mobile_app"),
        (types.Group, "courses:teacher", "courses:teacher"),
        (types.HttpMethod, "PROPFIND", "PROPFIND"),
        (types.HeaderName, "X-Request-ID", "X-Request-ID"),
        (types.ConsumerName, "nobody-asked", "nobody-asked"),
    ],
)
def test_good(kind: Any, value: Any, expected: Any) -> None:
    adapter = TypeAdapter(kind)
    assert adapter.validate_python(value) == expected
    schema = adapter.json_schema()
    assert isinstance(value, str) or "integer" in schema["type"] or value == 0
    if isinstance(value, str) and "pattern" in schema:
        assert re.search(schema["pattern"], value)


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (types.Duration, 5, "with its unit"),
        (types.Duration, 5.0, "with its unit"),
        (types.Duration, False, "with its unit"),
        (types.Duration, "5 parsecs", "not a duration"),
        (types.Size, True, "must be a size"),
        (types.Size, -1, "must be a size"),
        (types.Size, "much", "not a size"),
        (types.RateText, 600, "must be a rate"),
        (types.RateText, "0/minute", "at least 1"),
        (types.Network, "10.0.0.1/8", "host bits"),
        (types.Network, 10, "must be an address"),
        (types.Name, "two words", "must be a name"),
        (types.Name, "-x", "must be a name"),
        (types.Name, "x\n", "must be a name"),
        (types.Group, "a,b", "must be a group"),
        (types.HttpMethod, "get", "in capitals"),
        (types.HttpMethod, "trace", "refuses TRACE"),
        (types.HeaderName, "X Y", "name of a header"),
        (types.HeaderName, "X:", "name of a header"),
    ],
)
def test_bad(kind: Any, value: Any, text: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(text)):
        TypeAdapter(kind).validate_python(value)


class Example(Settings):
    names: tuple[str, ...] = Field(default=(), description="Names.")
    unique: frozenset[str] = frozenset()
    """Told by a docstring."""
    number: int = 1


def test_settings_are_strict_and_take_lists() -> None:
    example = Example.model_validate({"names": ["a", "b"], "unique": ["x", "x"]})
    assert example.names == ("a", "b")
    assert example.unique == {"x"}
    assert Example.model_fields["unique"].description == "Told by a docstring."
    for wrong in ({"number": "1"}, {"number": True}, {"number": 1.0}, {"names": "a"}, {"names": [1]}, {"more": 1}):
        with pytest.raises(ValidationError):
            Example.model_validate(wrong)
    with pytest.raises(ValidationError):
        example.number = 2


def test_errors_do_not_show_the_value() -> None:
    with pytest.raises(ValidationError) as caught:
        Example.model_validate({"number": "hunter2"})
    assert "hunter2" not in str(caught.value)


@given(st.integers(min_value=0, max_value=10**12))
def test_formats_are_read_back(number: int) -> None:
    assert parse_size(types.format_size(number)) == number
    assert parse_duration(types.format_duration(number / 1000)) == pytest.approx(number / 1000)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.25, "250ms"), (5, "5s"), (75, "75s"), (600, "10m"), (3600, "1h"), (86400, "1d"), (1.5, "1500ms")],
)
def test_format_duration(seconds: float, text: str) -> None:
    assert types.format_duration(seconds) == text
