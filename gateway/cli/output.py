"""How commands print data: a table to read, JSON, or CSV (`--output`, contract §5)."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer


class Output(StrEnum):
    """The forms of `--output`."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


#: The type of a command's parameter `output`; its default is the command's to name.
OutputOption = Annotated[Output, typer.Option("--output", help="How to print it.")]


def print_record(record: Mapping[str, Any], output: Output) -> None:
    """Print one object: a line a field, a JSON object, or CSV with one row."""
    if output is Output.JSON:
        print(json.dumps(record, indent=2))
    elif output is Output.CSV:
        _print_csv([record], list(record))
    else:
        width = max(map(len, record), default=0)
        for name, value in record.items():
            print(f"{name:<{width}}  {_text(value)}")


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], output: Output) -> None:
    """Print a list of objects: a table or CSV of the named columns, or a JSON array of the whole objects."""
    if output is Output.JSON:
        print(json.dumps(list(rows), indent=2))
    elif output is Output.CSV:
        _print_csv(rows, columns)
    else:
        lines = [[column.upper().replace("_", " ") for column in columns]]
        lines += [[_text(row.get(column)) for column in columns] for row in rows]
        widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        for line in lines:
            print("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def _print_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_text(row.get(column)) for column in columns])


def _text(value: object) -> str:
    """A value as one cell: nothing for None, lists separated by blanks, control characters escaped."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " ".join(_text(inner) for inner in value)
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(value))
