"""The whole corpus through our parsers, without sockets: what they take is what a strict reader takes, field by field.

Each case is read twice, cold and with its lines remembered; the sockets' part is in `tests/integration`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from gateway.proxy.lines import forget_lines
from tests.proxy import ours, strict
from tests.proxy.corpus import Case, named, numbered, spoiled


def differences(cases: list[Case]) -> list[str]:
    """Every case that is read in another way than the reference reads it."""
    wrong = []
    for case in cases:
        expected, malformed, left = strict.read_all(case.raw)
        for _ in range(2):
            found, status, waiting = ours.read_all(case.raw)
            if malformed is not None:
                # Several faults in one request may be named in any order; what is refused is refused.
                good = status == malformed.status or (status in (400, 414, 431, 501, 505) and malformed.status == 400)
            else:
                # What can no longer become legal need not be waited for.
                good = waiting == bool(left) or (bool(left) and status == 400)
            if found != expected or not good:
                wrong.append(f"{case.name}: {found} {status} {waiting}, expected {expected} {malformed!r} {left!r}")
                break
    return wrong


@pytest.mark.parametrize("make", [named, spoiled])
def test_we_read_the_corpus_as_a_strict_reader_does(make: Callable[[], Iterator[Case]]) -> None:
    forget_lines()
    cases = numbered(make())
    assert len(cases) > 2000
    wrong = differences(cases)
    assert not wrong, f"{len(wrong)} of {len(cases)}\n" + "\n".join(wrong[:20])
