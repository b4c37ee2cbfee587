"""The states of an exchange (`exchange`), in the order in which one passes through them.

* WAITING - the gateway has more to do than it can (`overload`); nothing but the head has been looked at.
* DECIDING - the pipeline has it; what comes of the body is held, 64 KiB at the most.
* CONNECTING - decided, no upstream connection yet (a name is being resolved, a slot is waited for, or it is being
  opened); still held.
* FORWARDING - head and body go to the upstream; the response has not begun.
* RESPONDING - the response's head has been written to the client; its body follows.
* TUNNELLING - a WebSocket: both connections have changed hands (`tunnel`), what is left is to record its end.
* DRAINING - answered; the rest of the request's body is read and thrown away.
* DONE - everything is recorded; nothing may be written or called any more.

Plain numbers: an enum's member costs a dictionary look-up each time it is named.
"""

from __future__ import annotations

from typing import Final

WAITING: Final = -1
DECIDING: Final = 0
CONNECTING: Final = 1
FORWARDING: Final = 2
RESPONDING: Final = 3
TUNNELLING: Final = 4
DRAINING: Final = 5
DONE: Final = 6
