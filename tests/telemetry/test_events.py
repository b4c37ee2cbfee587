"""Events: JSON lines without secrets, the libraries' warnings among them."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.telemetry import events


class Captured:
    """Standard error as a pipe."""

    def __init__(self) -> None:
        self._read, self.descriptor = os.pipe()

    def text(self) -> str:
        assert events.flush()
        os.set_blocking(self._read, False)
        try:
            return os.read(self._read, 1 << 20).decode()
        except BlockingIOError:
            return ""

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture
def captured() -> Iterator[Captured]:
    output = Captured()
    yield output
    events.configure("auto", "warning")
    logging.getLogger().removeHandler(events._library_handler)
    logging.captureWarnings(False)
    os.close(output._read)
    os.close(output.descriptor)


def test_an_event_is_one_line_of_json(captured: Captured) -> None:
    events.configure("json", descriptor=captured.descriptor)
    events.get_logger("gateway.app").info("listening", address="127.0.0.1:8000", routes=3, text="a\nb é")
    [line] = captured.lines()
    assert list(line) == ["time", "level", "logger", "event", "address", "routes", "text"]
    assert line["time"].endswith("Z")
    assert {name: line[name] for name in line if name != "time"} == {
        "level": "info",
        "logger": "gateway.app",
        "event": "listening",
        "address": "127.0.0.1:8000",
        "routes": 3,
        "text": "a\nb é",
    }


def test_a_logger_may_be_older_than_the_configuration(captured: Captured) -> None:
    logger = events.get_logger("early")
    events.configure("json", "error", descriptor=captured.descriptor)
    logger.warning("too quiet")
    events.configure("json", "debug", descriptor=captured.descriptor)
    logger.debug("heard")
    assert [line["event"] for line in captured.lines()] == ["heard"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"token": "abc"}, {"token": "***"}),
        ({"Authorization": "Bearer x"}, {"Authorization": "***"}),
        ({"password": "x", "secret_key": "y"}, {"password": "***", "secret_key": "***"}),
        ({"key": "pnpub_a.pnsec_b"}, {"key": "pnpub_a.pnsec_***"}),
        ({"store": "postgresql://u:p@h/db"}, {"store": "postgresql://u:***@h/db"}),
        ({"error": ValueError("bad pnsec_b")}, {"error": "bad pnsec_***"}),
        ({"config": {"headers": [{"cookie": "x"}]}}, {"config": {"headers": [{"cookie": "***"}]}}),
        ({"credential": "pnpub_a", "tokens": 3}, {"credential": "pnpub_a", "tokens": 3}),
    ],
)
def test_secrets_stay_out(captured: Captured, fields: dict[str, Any], expected: dict[str, Any]) -> None:
    events.configure("json", descriptor=captured.descriptor)
    events.get_logger("x").info("event", **fields)
    [line] = captured.lines()
    assert {name: line[name] for name in expected} == expected


def test_the_prefix_of_secrets_is_the_configurations(captured: Captured) -> None:
    events.configure("json", secret_prefix="sk-", descriptor=captured.descriptor)
    events.get_logger("x").info("event sk-abc")
    assert captured.lines()[0]["event"] == "event sk-***"


@pytest.mark.parametrize("kind", ["json", "console"])
def test_an_exception_is_told_without_its_secrets(captured: Captured, kind: events.Kind) -> None:
    events.configure(kind, descriptor=captured.descriptor)
    try:
        raise RuntimeError("cannot use pnsec_b")
    except RuntimeError:
        events.get_logger("x").exception("broken")
    text = captured.text()
    assert "RuntimeError: cannot use pnsec_***" in text
    assert "pnsec_b" not in text


def test_libraries_join_from_warning_upwards(captured: Captured) -> None:
    events.configure("json", descriptor=captured.descriptor)
    library = logging.getLogger("some.library")
    library.debug("secret token pnsec_b")
    library.info("nothing")
    library.warning("slow: %s s", 3)
    library.error("broken pnsec_b")
    warnings.warn("careful", UserWarning, stacklevel=1)
    lines = captured.lines()
    assert [(line["logger"], line["level"], line["event"]) for line in lines[:2]] == [
        ("some.library", "warning", "slow: 3 s"),
        ("some.library", "error", "broken pnsec_***"),
    ]
    assert lines[2]["logger"] == "py.warnings"
    assert "careful" in lines[2]["event"]


def test_our_own_rooms_join_with_good_news_too(captured: Captured) -> None:
    events.configure("json", descriptor=captured.descriptor)
    ours = logging.getLogger("postern.store")
    ours.debug("a detail")
    ours.info("the changes are followed again")
    logging.getLogger("postern_of_somebody_else").info("nothing")
    assert [(line["level"], line["event"]) for line in captured.lines()] == [("info", "the changes are followed again")]


def test_configuring_twice_tells_things_once(captured: Captured) -> None:
    for _ in range(2):
        events.configure("json", descriptor=captured.descriptor)
    logging.getLogger("library").warning("once")
    assert len(captured.lines()) == 1


def test_a_person_gets_lines_to_read(captured: Captured) -> None:
    events.configure("console", descriptor=captured.descriptor)
    events.get_logger("gateway.app").warning("listening", port=8000)
    text = captured.text()
    assert "listening" in text
    assert "port=8000" in text
    assert "\x1b" not in text, "no colours for what is not a terminal"


def test_a_pipe_is_no_person(captured: Captured) -> None:
    events.configure("auto", descriptor=captured.descriptor)
    events.get_logger("x").warning("hello")
    assert captured.lines()[0]["event"] == "hello"


def test_rich_stays_out_of_the_process_and_last_words_are_heard() -> None:
    program = (
        "import sys\n"
        "from gateway.telemetry.events import configure, get_logger\n"
        "configure('json')\n"
        "get_logger('x').warning('rich' if 'rich' in sys.modules else 'lean')\n"
        "import rich\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stderr)["event"] == "lean"
