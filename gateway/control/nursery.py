"""The nursery: a small process that has imported all that a worker needs, and forks workers when it is asked to.

What it has imported its children share with it, page by page, until they write to it; and a child is there within
milliseconds.  Only a process with a single thread and without an event loop can be forked soundly, and this one
never has another: a signal's wake-up and a socket are all that it waits for.  It outlives no control process: at the
end of the socket it gives its children the time to end by themselves, ends those that do not, and goes.

Signals from a terminal or a service manager reach the whole group; they are meant for the control process, which
says what follows.  So here, and in the workers, they are ignored from the first moment on (`nursery_client.py`
blocks them until then).

`python -m gateway.control.nursery DESCRIPTOR`: nothing secret stands in its arguments or environment.
"""

from __future__ import annotations

import gc
import os
import pickle
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from gateway.control.messages import Exited, NotSpawned, NurseryReady, Settings, Spawn, Spawned

#: What a worker and the nursery do not listen to.
IGNORED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
#: The largest message, and the most descriptors with one (Linux takes 253).
MESSAGE: Final = 65536
DESCRIPTORS: Final = 64
#: Seconds that workers have to end by themselves once the control process is gone: they drain for 5 at the most, say
#: goodbye to WebSockets and write their last lines.
_ORPHANED: Final = 9.0
#: More descriptors than a nursery can have: the system gives the lowest number that is free.
_MANY: Final = 4096


@dataclass(slots=True)
class _Birth:
    """What a child needs to know of itself."""

    settings: Settings
    descriptors: dict[str, int] = field(default_factory=dict)


class _Nursery:
    """The loop over the socket and the children's ends."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._children: set[int] = set()
        self._wakes, self._wake = socket.socketpair()
        for end in (self._wakes, self._wake):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _hear)

    def run(self) -> _Birth | None:
        """Serve until the socket ends; returns None then, and in each child what it is to become."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._wakes, select.POLLIN)
        # The control process may be gone before it is told something, which EOF would have said as well.
        with suppress(BrokenPipeError, ConnectionResetError):
            self._send(NurseryReady())
            while True:
                ready = {descriptor for descriptor, _ in poll.poll()}
                if self._wakes.fileno() in ready:
                    self._reap()
                if self._sock.fileno() in ready:
                    data, descriptors, _, _ = socket.recv_fds(self._sock, MESSAGE, DESCRIPTORS)
                    if not data:
                        break
                    # The control process wrote it, over a socket that has no name.
                    birth = self._spawn(pickle.loads(data), descriptors)  # noqa: S301
                    if birth is not None:
                        return birth
        self._farewell()
        return None

    def _spawn(self, order: Spawn, descriptors: list[int]) -> _Birth | None:
        """Fork; returns, in the child alone, what it is."""
        try:
            pid = os.fork()
        except OSError as error:
            self._send(NotSpawned(order.number, os.strerror(error.errno or 0)))
        else:
            if not pid:
                self._leave(descriptors)
                return _Birth(order.settings, dict(zip(order.names, descriptors, strict=True)))
            self._children.add(pid)
            pidfd = _pidfd(pid)
            self._send(Spawned(order.number, pid), pidfd)
            for descriptor in pidfd:
                os.close(descriptor)
        for descriptor in descriptors:
            os.close(descriptor)
        return None

    def _leave(self, own: list[int]) -> None:
        """In the child: be no nursery any more.  What is not its own is closed, whoever opened it.

        Randomness needs nothing: the system's has no state here, OpenSSL's notices a fork, and the interpreter seeds
        `random` anew in a child.
        """
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for sock in (self._sock, self._wakes, self._wake):
            sock.close()
        last = 2
        for descriptor in sorted({0, 1, 2, *own}):
            if descriptor > last:
                os.closerange(last + 1, descriptor)
                last = descriptor
        os.closerange(last + 1, max(_MANY, last + 1))

    def _reap(self) -> None:
        """Tell of every child that has ended."""
        while True:
            try:
                if not self._wakes.recv(4096):
                    break
            except BlockingIOError:
                break
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            self._children.discard(pid)
            self._send(Exited(pid, os.waitstatus_to_exitcode(status)))

    def _farewell(self) -> None:
        """The control process is gone: nobody can tell the workers of a revocation any more, so they have to end."""
        until = time.monotonic() + _ORPHANED
        while self._children and time.monotonic() < until:
            self._bury(os.WNOHANG)
            if self._children:
                time.sleep(0.05)
        for pid in self._children:
            # They have not been reaped, so the numbers are theirs.
            os.kill(pid, signal.SIGKILL)
        while self._children:
            self._bury(0)

    def _bury(self, options: int) -> None:
        pid, _ = os.waitpid(-1, options)
        self._children.discard(pid)

    def _send(self, message: object, descriptors: tuple[int, ...] = ()) -> None:
        socket.send_fds(self._sock, [pickle.dumps(message, protocol=5)], descriptors)


def _hear(_number: int, _frame: object) -> None:
    """A handler there must be, or the wake-up is not written."""


def _pidfd(pid: int) -> tuple[int, ...]:
    """The child's pidfd, nothing where there are none; the child cannot have been reaped yet."""
    try:
        return (os.pidfd_open(pid),)
    except (AttributeError, OSError):
        return ()


def main(descriptor: int) -> int:
    """Be the nursery at this end of the control process' socket (in a child: the worker); returns the exit status."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # Not to be walked through by anybody's collector: that would write to every page.
    gc.disable()
    from gateway.control import worker

    worker.name_process("postern-nursery")
    worker.preload()
    gc.collect()
    gc.freeze()
    sock = socket.socket(fileno=descriptor)
    birth = _Nursery(sock).run()
    del sock
    if birth is None:
        return 0
    gc.enable()
    # Not by way of the interpreter's own end: that would close the link before the process is gone.
    os._exit(worker.main(birth.settings, birth.descriptors))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
