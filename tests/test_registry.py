"""The registry: policies by entry point, loaded when asked for, with clear words for one that is broken."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from gateway import registry
from gateway.config.loader import load_bytes
from gateway.core.errors import ConfigError
from gateway.core.policy import Policy
from gateway.registry import PolicyLoadError, Registry
from tests.config.fakes import Door

FAKES = "tests.config.fakes"


def point(name: str, value: str) -> EntryPoint:
    return EntryPoint(name=name, value=value, group=registry.GROUP)


def test_ours_are_there_and_declare_what_they_must() -> None:
    ours = registry.policies()
    names = {"auth", "acl", "rate-limiting", "ip-restriction", "request-size-limiting", "cors", "correlation-id"}
    assert names | {"request-termination"} <= set(ours)
    for name in names:
        assert issubclass(ours[name], Policy)
        assert ours[name].__doc__
    assert registry.policies() is ours


def test_a_policy_is_loaded_when_it_is_asked_for() -> None:
    found = Registry([point("door", f"{FAKES}:Door"), point("gone", "no.such.module:Thing")])
    assert list(found) == ["door", "gone"]
    assert len(found) == 2
    assert "gone" in found
    assert found["door"] is Door
    with pytest.raises(KeyError):
        found["other"]


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        ("gone", ["no.such.module:Thing"], "cannot be loaded: ModuleNotFoundError: No module named 'no'"),
        ("gone", [f"{FAKES}:Missing"], "cannot be loaded: AttributeError"),
        ("rule", [f"{FAKES}:Rule"], "cannot be used: it is not a subclass"),
        ("open", [f"{FAKES}:OPEN"], "cannot be used: it is not a subclass"),
        ("gate", [f"{FAKES}:Door"], "cannot be used: its name is 'door'"),
        ("door", [f"{FAKES}:Door", f"{FAKES}:Lists"], "the policy door is claimed by"),
    ],
)
def test_one_that_cannot_be_used(name: str, values: list[str], text: str) -> None:
    found = Registry([point(name, value) for value in values])
    with pytest.raises(PolicyLoadError, match=text):
        found[name]
    with pytest.raises(ConfigError, match=text) as caught:
        load_bytes(f"policies: {{{name}: {{}}}}".encode(), Path("config.yaml"), environ={}, policies=found)
    assert caught.value.problems[0].startswith(f"config.yaml:1:12: policies.{name}: ")


def test_the_same_claim_twice_is_one() -> None:
    assert Registry([point("door", f"{FAKES}:Door")] * 2)["door"] is Door
