"""The chart: CPU microseconds a request as horizontal bars, written as SVG by hand.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bench.report import Result

_WIDTH, _LABEL, _ROW, _BAR = 860, 230, 34, 20
_INK, _GREY = "#1f2933", "#5b6b7a"
_COLOURS = {True: ("#0b7285", "#66d9e8"), False: ("#748194", "#c3cad3")}


def _step(largest: float) -> float:
    for step in (1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000):
        if largest / step <= 8:
            return step
    return largest / 8


def chart(results: Sequence[Result]) -> str:
    """The SVG text; the darker part of a bar is user time, the lighter one system time."""
    ordered = sorted(results, key=lambda result: result.cpu_us)
    largest = max((result.cpu_us for result in ordered), default=1) or 1
    space = _WIDTH - _LABEL - 90
    top, bottom = 64, 64 + _ROW * len(ordered)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {bottom + 46}" role="img"',
        f'font-family="system-ui, sans-serif" font-size="13" fill="{_INK}">',
        "<title>CPU microseconds a request</title>",
        f'<rect width="{_WIDTH}" height="{bottom + 46}" fill="#ffffff"/>',
        '<text x="16" y="26" font-size="17" font-weight="600">CPU microseconds a request (less is better)</text>',
        f'<text x="16" y="46" fill="{_GREY}">one core, 32 connections, 1,000 keys; medians;',
        "dark: user time, light: system time</text>",
    ]
    step, mark = _step(largest), 0.0
    while mark <= largest:
        x = _LABEL + mark / largest * space
        parts.append(f'<line x1="{x:.1f}" y1="{top - 6}" x2="{x:.1f}" y2="{bottom}" stroke="#e3e8ee"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle" fill="{_GREY}">{mark:g}</text>')
        mark += step
    for number, result in enumerate(ordered):
        y = top + number * _ROW
        dark, light = _COLOURS[result.name.startswith("postern")]
        user = min(result.user_us, result.cpu_us) / largest * space
        whole = result.cpu_us / largest * space
        weight = ' font-weight="600"' if result.name.startswith("postern") else ""
        parts += [
            f'<text x="{_LABEL - 10}" y="{y + 15}" text-anchor="end"{weight}>{escape(result.title)}</text>',
            f'<rect x="{_LABEL}" y="{y}" width="{whole:.1f}" height="{_BAR}" fill="{light}"/>',
            f'<rect x="{_LABEL}" y="{y}" width="{user:.1f}" height="{_BAR}" fill="{dark}"/>',
            f'<text x="{_LABEL + whole + 8:.1f}" y="{y + 15}"{weight}>{result.cpu_us:.1f}</text>',
        ]
    parts.append("</svg>")
    return "\n".join(parts) + "\n"
