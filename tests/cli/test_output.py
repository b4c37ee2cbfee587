"""`--output`: the same data as a table, JSON and CSV."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.cli.output import Output, print_record, print_rows

ROWS: list[dict[str, Any]] = [
    {"id": "1", "consumer": "mobile_app", "scopes": ["a", "b"], "read_only": True, "expires_at": None},
    {"id": "22", "consumer": "x,\x1b[2J", "scopes": [], "read_only": False, "expires_at": 5},
]
COLUMNS = ["id", "consumer", "scopes", "read_only", "expires_at"]


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (
            Output.TABLE,
            """\
ID  CONSUMER    SCOPES  READ ONLY  EXPIRES AT
1   mobile_app  a b     yes
22  x,\\x1b[2J           no         5
""",
        ),
        (
            Output.CSV,
            'id,consumer,scopes,read_only,expires_at\n1,mobile_app,a b,yes,\n22,"x,\\x1b[2J",,no,5\n',
        ),
    ],
)
def test_rows(output: Output, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(ROWS, COLUMNS, output)
    assert capsys.readouterr().out == expected


def test_rows_as_json_are_whole(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([{"id": "1", "more": [1]}], ["id"], Output.JSON)
    assert capsys.readouterr().out == '[\n  {\n    "id": "1",\n    "more": [\n      1\n    ]\n  }\n]\n'


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (Output.TABLE, "id    1\nname  a b\n"),
        (Output.CSV, "id,name\n1,a b\n"),
        (Output.JSON, '{\n  "id": 1,\n  "name": [\n    "a",\n    "b"\n  ]\n}\n'),
    ],
)
def test_a_record(output: Output, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_record({"id": 1, "name": ["a", "b"]}, output)
    assert capsys.readouterr().out == expected


def test_no_rows_are_a_heading(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([], ["id"], Output.TABLE)
    assert capsys.readouterr().out == "ID\n"
