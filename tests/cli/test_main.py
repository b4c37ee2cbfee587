"""The root of the command line: every end has its exit status, its text, and no traceback."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from typing import NoReturn

import pytest
import typer

import gateway
from gateway.cli.main import COMMANDS, main
from gateway.core.errors import (
    ConfigError,
    ConflictError,
    CountersError,
    InvalidInputError,
    NotFoundError,
    StartError,
    StoreError,
)


class Raising:
    """A command that ends with an exception, beside one that does nothing."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def register(self, app: typer.Typer) -> None:
        @app.command()
        def fail() -> NoReturn:
            raise self._error

        @app.command()
        def work(count: int = 0) -> None:
            """Do nothing."""


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (
            ConfigError(["config.yaml:1:1: a: bad", "config.yaml:2:1: b: bad"]),
            2,
            "config.yaml:1:1: a: bad\nconfig.yaml:2:1: b: bad\n",
        ),
        (InvalidInputError("bad key", {"name": "is empty"}), 2, "postern: bad key\n  name: is empty\n"),
        (NotFoundError("no key x"), 2, "postern: no key x\n"),
        (ConflictError("key x is revoked"), 2, "postern: key x is revoked\n"),
        (StartError("port 8000 is in use"), 3, "postern: port 8000 is in use\n"),
        (StoreError("the store is away"), 3, "postern: the store is away\n"),
        (CountersError("Redis is away"), 3, "postern: Redis is away\n"),
        (
            FileNotFoundError(2, "No such file or directory", "x.yaml"),
            3,
            "postern: x.yaml: No such file or directory\n",
        ),
        (OSError("odd"), 3, "postern: input/output: odd\n"),
        (
            ValueError("odd"),
            3,
            "postern: an unexpected error occurred: ValueError: odd (POSTERN_DEBUG=1 shows where)\n",
        ),
        (KeyboardInterrupt(), 130, ""),
        (SystemExit(1), 1, ""),
        (SystemExit(), 0, ""),
        (typer.Exit(1), 1, ""),
    ],
)
def test_every_end_has_its_status_and_its_text(
    error: BaseException, status: int, text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POSTERN_DEBUG", raising=False)
    assert main(["fail"], [Raising(error)]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err == text


def test_who_hunts_a_bug_sees_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTERN_DEBUG", "1")
    with pytest.raises(ValueError, match="odd"):
        main(["fail"], [Raising(ValueError("odd"))])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nonsense"], "No such command"),
        (["--nonsense"], "No such option"),
        (["work", "--nonsense"], "No such option"),
        (["work", "--count", "many"], "count"),
        (["work", "unexpected"], "unexpected"),
        ([], "Usage: postern"),
    ],
)
def test_bad_usage_is_2(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments, [Raising(ValueError())]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert text in err
    assert "Traceback" not in err


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([option]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Usage: postern")
    assert "version" in out
    assert "2 bad input" in out
    assert err == ""


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    listing = capsys.readouterr().out.split("Commands:")[1].split("Exit status")[0]
    names = re.findall(r"^  (\S+)", listing, re.MULTILINE)
    assert len(names) == len(COMMANDS)
    for name in names:
        assert main([name, "--help"]) == 0
        text = capsys.readouterr().out
        assert f"Usage: postern {name}" in text
        if "Commands:" in text:
            below = re.findall(r"^  (\S+)", text.split("Commands:")[1], re.MULTILINE)
            assert below
            for command in below:
                assert main([name, command, "--help"]) == 0
                assert "--config" in capsys.readouterr().out
        else:
            assert "--config" in text


def test_version_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"postern {gateway.__version__}\n"


Read = Callable[[str], list[str]]


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        (["version"], lambda text: [line.split("  ", 1)[0] for line in text.splitlines()]),
        (["version", "--output", "table"], lambda text: [line.split("  ", 1)[0] for line in text.splitlines()]),
        (["version", "--output", "json"], lambda text: list(json.loads(text))),
        (["version", "--output", "csv"], lambda text: text.splitlines()[0].split(",")),
    ],
)
def test_version_prints_what_runs(arguments: list[str], read: Read, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert [name.strip() for name in read(out)] == ["version", "python", "hot_path", "platform"]
    assert gateway.__version__ in out


def start(*arguments: str, program: str = "") -> subprocess.Popen[str]:
    command = ["-c", program] if program else ["-m", "gateway", *arguments]
    return subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_reader_that_has_gone_is_no_news() -> None:
    process = start("version")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(60) == 1


def test_printing_a_version_loads_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from gateway.cli.main import main\n"
        "main(['version'])\n"
        "heavy = {'aiohttp', 'alembic', 'prometheus_client', 'rich', 'sqlalchemy', 'structlog', 'uvloop'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    out, err = start(program=program).communicate(timeout=60)
    assert out.splitlines()[-1] == "[]"
    assert err == ""
