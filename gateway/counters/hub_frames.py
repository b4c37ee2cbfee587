"""How the two ends of the hub write to each other: frames of a marshalled list, four bytes of length in front.

Both ends are the same interpreter running the same code, and the socket is inherited, never listened on: nobody
else can write to it.  So `marshal`, which must not be fed by strangers and may change with each Python, is right here,
and it is the fastest there is.

A worker's list holds, in the order of asking:

* `number, key` for a question about one demand, whose rates and algorithm were defined under `number`;
* `-1 - count, number, key, number, key, …` for a question about `count` demands, none or several;
* `(algorithm, ((limit, seconds, name), …))`: the definition of the next number, counted from 0;
* None: all definitions are forgotten.

The hub's list holds `admitted, states` for each question, in the same order: so answers need no numbers.
"""

from __future__ import annotations

import marshal
from typing import Any, Final

from gateway.core.errors import CountersError

#: Definitions that a connection has at a time.
DEFINITIONS: Final = 4096
#: The largest frame that is read, in bytes.
LARGEST: Final = 16 << 20
#: A format without references, which cost more to find than they save.
_FORMAT: Final = 2


def frame(items: list[Any]) -> bytes:
    """The bytes of one list."""
    payload = marshal.dumps(items, _FORMAT)
    return len(payload).to_bytes(4, "little") + payload


class Frames:
    """Cuts what arrives into lists; what is torn waits for its rest."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> list[Any]:
        """The items of all lists that are whole by now, one after another.

        Raises `CountersError` for what no end of ours has written; nothing of that is returned.
        """
        if self._held:
            data = self._held + data
        size = len(data)
        length = int.from_bytes(data[:4], "little")
        if size == length + 4:
            self._held = b""
            return _items(data[4:])
        items: list[Any] = []
        at = 0
        while size - at >= 4:
            length = int.from_bytes(data[at : at + 4], "little")
            if length > LARGEST:
                raise CountersError(f"a frame of {length} bytes")
            if size - at < length + 4:
                break
            items += _items(data[at + 4 : at + 4 + length])
            at += length + 4
        self._held = data[at:]
        return items


def _items(payload: bytes) -> list[Any]:
    try:
        items = marshal.loads(payload)  # noqa: S302 - our own process at the other end of an inherited socket
    except (EOFError, ValueError, TypeError) as error:
        raise CountersError(f"a frame that cannot be read: {error}") from None
    if not isinstance(items, list):
        raise CountersError("a frame that holds no list")
    return items
