"""Which node of a cluster holds which slots, as CLUSTER SLOTS tells it.  Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

from gateway.core.counters_url import Address
from gateway.core.errors import CountersError
from gateway.counters.redis.questions import SLOTS


class Range(NamedTuple):
    """The slots from `first` to `last`, both included, and the node that is their master."""

    first: int
    last: int
    master: Address


def ranges_of(reply: Any, asked: Address) -> list[Range]:
    """What the answer says, in its order; `asked` is the node that answered, which may not know by which host it is
    reached.  Raises `CountersError`: the answer makes no sense."""
    ranges: list[Range] = []
    try:
        for first, last, (host, port, *_), *_ in reply:
            name = host.decode() if isinstance(host, bytes) else host
            master = Address(asked.host if not name or name == "?" else str(name), int(port))
            if not 0 <= first <= last < SLOTS:
                raise ValueError
            ranges.append(Range(first, last, master))
    except (TypeError, ValueError):
        raise CountersError("does not say which slots it has") from None
    return ranges
