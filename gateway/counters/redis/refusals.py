"""What an error reply of Redis means for us: whom it concerns, and what an operator should read.  Pure.

A script reports what stopped it inside its own error: Redis 6 writes `ERR Error running script (…): @user_script: …
-OOM command not allowed …`, Redis 7 and Valkey `OOM command not allowed … script: …`.  Either is known by its code.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from gateway.core.counters_url import Address

#: The server has forgotten the script: load it and ask again.
NO_SCRIPT: Final = "script"
#: The slot lies elsewhere: from now on (MOVED), for this once (ASK), or is just being moved (TRYAGAIN).
MOVED: Final = "moved"
ASK: Final = "ask"
AGAIN: Final = "again"
#: The server cannot count for anybody now.
SERVER: Final = "server"
#: This one question cannot be answered.
QUESTION: Final = "question"

_CODES: Final = {
    "OOM": "is out of memory (maxmemory)",
    "READONLY": "is a replica that takes no writes",
    "LOADING": "is loading its data",
    "MASTERDOWN": "is a replica that has lost its master",
    "MISCONF": "takes no writes, since it cannot save them",
    "NOREPLICAS": "takes no writes, since too few replicas follow it",
    "BUSY": "is busy with somebody's script",
    "CLUSTERDOWN": "says that its cluster is down",
    "NOAUTH": "wants a password",
    "WRONGPASS": "does not take this user and password",
    "NOPERM": "does not let this user count (~postern:* +evalsha +script|load +get +set +del +getrange +setrange "
    "+pexpire +time)",
}
_CODE: Final = re.compile(r"(?:^|[ :]-?)(" + "|".join(_CODES) + r")\b")
_ELSEWHERE: Final = re.compile(r"(MOVED|ASK) (\d+) (\S*):(\d+)")
_LONGEST: Final = 160


class Refusal(NamedTuple):
    """`kind` is one of those above, `text` is for people; `slot` and `address` say where else to ask (an empty host
    is the one that was asked)."""

    kind: str
    text: str
    slot: int = -1
    address: Address | None = None


def refusal_of(reply: object) -> Refusal:
    """What the error reply `reply` means; anything that is neither an answer nor an error is a fault, too."""
    text = str(reply)
    if text.startswith("NOSCRIPT"):
        return Refusal(NO_SCRIPT, "does not know the script")
    elsewhere = _ELSEWHERE.match(text)
    if elsewhere is not None:
        kind = MOVED if elsewhere[1] == "MOVED" else ASK
        address = Address(elsewhere[3].strip("[]"), int(elsewhere[4]))
        return Refusal(kind, "is part of a cluster: write redis+cluster://…", int(elsewhere[2]), address)
    if text.startswith("TRYAGAIN"):
        return Refusal(AGAIN, "is moving what was asked for")
    code = _CODE.search(text)
    if code is not None:
        return Refusal(SERVER, _CODES[code[1]])
    if "can't run this command" in text or "can't access at least one of the keys" in text:
        return Refusal(SERVER, _CODES["NOPERM"])
    return Refusal(QUESTION, f"answered: {_printable(text)}")


def _printable(text: str) -> str:
    """One line without control characters, and not too long: a reply may repeat what was sent."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return line if len(line) <= _LONGEST else line[:_LONGEST] + "…"
