"""A node's limits over its workers: how much of one each slot gets, pure.

Law: the shares of all slots are together exactly the limit, so that an upstream never sees more connections than the
file says; but none is less than 1, since a worker that may do nothing would answer nothing.  So a limit that is smaller
than the number of slots comes to one a slot.  0 stands for no limit, and stays 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


def share(total: int, slot: int, slots: int) -> int:
    """What slot number `slot` (from 0) of so many `slots` gets of a limit; the first ones get what does not divide."""
    if total <= 0:
        return total
    return max(1, total // slots + (slot < total % slots))


@dataclass(frozen=True)
class Share:
    """The place of one worker: slot number `slot` (from 0) of `slots`."""

    slot: int = 0
    slots: int = 1

    def of(self, total: int) -> int:
        """Its part of a limit of the whole node."""
        return share(total, self.slot, self.slots)


#: The place of a process that is alone.
WHOLE: Final = Share()
