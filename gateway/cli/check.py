"""`postern check`: is the file right, do its tests hold, and does it mean what it says?

Exit status: 2 for a file that does not load (every problem on standard error), 1 for a test that fails, and,
with `--strict`, for a lint.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.output import Output, OutputOption, print_rows

if TYPE_CHECKING:
    from gateway.analysis.offline import TestResult

#: Of a test: what it asks, whether it holds, what came out, and what is wrong with that.
_COLUMNS = ("request", "as", "passed", "status", "route", "message")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(check)


def check(
    config: Annotated[Path, typer.Option("--config", "-c", help="The configuration file.")] = Path("config.yaml"),
    strict: Annotated[bool, typer.Option("--strict", help="Fail on warnings and lints too.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Validate the configuration, run its tests offline, and point out what it hardly means."""
    from gateway.analysis.lint import lint
    from gateway.analysis.offline import run_tests
    from gateway.config.loader import load

    loaded = load(config)
    advice = [*loaded.warnings, *lint(loaded)]
    for line in advice:
        print(line, file=sys.stderr)
    # Compiles as well, which finds what reading alone does not.
    results = run_tests(loaded)
    failed = sum(not result.passed for result in results)
    if output is Output.TABLE:
        for result in results:
            sentence = f"{result.test.request} as {result.test.as_}"
            if result.passed:
                print(f"ok    {sentence}: {result.got_status} {result.got_route or ''}".rstrip())
            else:
                print(f"FAIL  {sentence}: {result.message}")
        verdict = "is valid" if not advice else f"is valid, with {len(advice)} remark{'s' if len(advice) > 1 else ''}"
        print(f"{config} {verdict}; {len(results) - failed} of {len(results)} tests hold")
    else:
        print_rows([_row(result) for result in results], _COLUMNS, output)
    if failed or (strict and advice):
        raise typer.Exit(1)


def _row(result: TestResult) -> dict[str, Any]:
    test = result.test
    values = (test.request, test.as_, result.passed, result.got_status, result.got_route, result.message)
    return dict(zip(_COLUMNS, values, strict=True))
