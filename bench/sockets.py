"""Which client is connected to which process, as the kernel knows it (`/proc`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

#: The states of /proc/net/tcp in which a connection belongs to somebody who accepted it (not LISTEN, not SYN_RECV).
_LISTEN, _SYN_RECV = "0A", "03"


def parse(text: str, port: int) -> dict[int, int]:
    """Read `/proc/net/tcp`: `{inode: the other end's port}` of the connections that arrived at a local port."""
    found: dict[int, int] = {}
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 10 or fields[3] in (_LISTEN, _SYN_RECV):
            continue
        if int(fields[1].rpartition(":")[2], 16) == port:
            found[int(fields[9])] = int(fields[2].rpartition(":")[2], 16)
    return found


def inodes(process: int) -> set[int]:
    """The sockets that a process has open."""
    found: set[int] = set()
    for entry in _entries(process):
        # It may be closed while we look.
        with contextlib.suppress(OSError):
            target = str(entry.readlink())
            if target.startswith("socket:["):
                found.add(int(target[8:-1]))
    return found


def _entries(process: int) -> Iterable[Path]:
    with contextlib.suppress(OSError):
        return list(Path(f"/proc/{process}/fd").iterdir())
    return ()


def clients_of(process: int, port: int) -> set[int]:
    """The ports of the clients whose connections to `port` this process has accepted.

    What waits in a listening socket belongs to nobody yet, and has no inode that anybody has open.
    """
    table = parse(Path("/proc/net/tcp").read_text(), port)
    return {table[inode] for inode in inodes(process) if inode in table}


def state(process: int) -> str:
    """The state letter of a process ("T": stopped), empty where it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    return ""
