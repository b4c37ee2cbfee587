"""Policies for tests of the configuration room, and a shorthand for loading text."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, RootModel

from gateway.config.loader import Loaded, load_bytes
from gateway.config.types import ConsumerName, Group, RateText, Settings
from gateway.core.context import Context
from gateway.core.decision import ALLOW, Decision
from gateway.core.errors import ConfigError
from gateway.core.policy import Environment, Policy


class _Fake(Policy):
    phase = 500

    def __init__(self, config: Any, environment: Environment) -> None:
        self.config = config

    def check(self, context: Context) -> Decision:
        return ALLOW


class Door(_Fake):
    """Says who comes in."""

    name: ClassVar[str] = "door"
    bare: ClassVar[dict[str, dict[str, Any]]] = {"none": {"none": True}}
    authenticates: ClassVar[bool] = True

    class Config(Settings):
        """Who comes in."""

        none: bool = Field(default=False, description="Everybody.")
        anonymous: ConsumerName | None = Field(default=None, description="A stand-in.")
        kinds: tuple[Literal["key", "token"], ...] = Field(default=(), description="Kinds.")


class Lists(_Fake):
    """Lists groups."""

    name: ClassVar[str] = "lists"

    class Config(Settings):
        """Groups."""

        allow: frozenset[Group] = Field(min_length=1, description="Groups.")


class Rule(Settings):
    """One rule."""

    limits: tuple[RateText, ...] = Field(min_length=1, description="Rates.")


class Rules(_Fake):
    """Takes one rule or a list of rules."""

    name: ClassVar[str] = "rules"

    class Config(RootModel[Rule | tuple[Rule, ...]]):
        """Rules."""


class Numbers(_Fake):
    """Takes a plain list."""

    name: ClassVar[str] = "numbers"
    Config: ClassVar[Any] = list[int]


class Moody(_Fake):
    """Its settings' model breaks."""

    name: ClassVar[str] = "moody"

    class Config(Settings):
        """Breaks."""

        def model_post_init(self, context: Any) -> None:
            raise RuntimeError("hunter2")


POLICIES: dict[str, type[Policy]] = {each.name: each for each in (Door, Lists, Rules, Numbers, Moody)}

#: A service with one open route, to add to.
OPEN = """\
services:
  - name: lms
    url: http://127.0.0.1:9000
    routes:
      - name: all
        policies: {door: none}
"""


def load_text(text: str, environ: dict[str, str] | None = None, folder: Path = Path()) -> Loaded:
    return load_bytes(text.encode(), folder / "config.yaml", environ=environ or {}, policies=POLICIES)


def problems(text: str, environ: dict[str, str] | None = None, folder: Path = Path()) -> list[str]:
    """The report of a text that does not load, without the file's name; empty for one that does."""
    found: list[str] = []
    try:
        load_text(text, environ, folder)
    except ConfigError as error:
        found = error.problems
    prefix = f"{folder / 'config.yaml'}:"
    assert all(line.startswith(prefix) for line in found)
    return [line.removeprefix(prefix) for line in found]
