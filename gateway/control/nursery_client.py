"""The control process' side of the nursery: started, asked for workers, started again when it has died.

A worker lives on when its nursery dies; only the next one has to wait until there is a new nursery, which is begun at
once.  Environment: the nursery and the workers get what an interpreter and its libraries look for, and nothing that
may hold a secret.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Final

from gateway.control.messages import Exited, NotSpawned, NurseryReady, Settings, Spawn, Spawned
from gateway.control.nursery import IGNORED, MESSAGE
from gateway.control.patience import Backoff
from gateway.control.process import Process
from gateway.core.errors import PosternError, StartError
from gateway.telemetry.events import get_logger

_log = get_logger("postern.control")

#: Seconds that a nursery has to answer, and to end when it is closed: past it there is something wrong with it.
PATIENCE: Final = 30.0
_ENDING: Final = 10.0
#: How often it may end before it is ready until the gateway gives up starting.
_ATTEMPTS: Final = 3

_VARIABLES: Final = frozenset(
    {"PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TZDIR", "TMPDIR", "TERM", "NO_COLOR", "FORCE_COLOR", "GLIBC_TUNABLES"}
    | {"RES_OPTIONS", "LOCALDOMAIN"}
)
_FAMILIES: Final = ("PYTHON", "LC_", "LD_", "MALLOC_", "SSL_CERT_", "OPENSSL_", "CARES_")


class NurseryError(PosternError):
    """No worker could be had this time."""


class Nursery:
    """See the module.  Belongs to the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, exited: Callable[[int, int], None]) -> None:
        """`exited(pid, status)` is told of each worker's end: its exit status, or minus the signal's number."""
        self._loop = loop
        self._exited = exited
        self._backoff = Backoff()
        self._socket: socket.socket | None = None
        self._popen: subprocess.Popen[bytes] | None = None
        self._ready = asyncio.Event()
        self._failed = asyncio.Event()
        self._closed = False
        self._began = 0.0
        self._numbers = 0
        self._waiting: dict[int, asyncio.Future[Process]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._again: asyncio.TimerHandle | None = None
        #: Ends one that does not become ready.
        self._patience: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int | None:
        """The process that there is now."""
        return None if self._popen is None else self._popen.pid

    async def start(self) -> None:
        """Return once it is ready to fork.  Raises `StartError`."""
        self._launch()
        ready, failed = (asyncio.create_task(event.wait()) for event in (self._ready, self._failed))
        try:
            await asyncio.wait({ready, failed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            failed.cancel()
        if not self._ready.is_set():
            raise StartError("workers: the process that forks them ends as it starts; standard error says why")

    async def spawn(self, descriptors: Mapping[str, int], settings: Settings) -> Process:
        """A new worker, which gets a duplicate of each descriptor, under its name.  Raises `NurseryError`."""
        await self._ready.wait()
        if self._socket is None:
            raise NurseryError("the nursery has just ended")
        self._numbers += 1
        number = self._numbers
        answer: asyncio.Future[Process] = self._loop.create_future()
        self._waiting[number] = answer
        order = pickle.dumps(Spawn(number, tuple(descriptors), settings), protocol=5)
        try:
            socket.send_fds(self._socket, [order], list(descriptors.values()))
            return await asyncio.wait_for(answer, PATIENCE)
        except TimeoutError:
            self._end_silent()
            raise NurseryError("the nursery does not answer") from None
        except (BrokenPipeError, ConnectionResetError) as error:
            self._poll()
            raise NurseryError("the nursery has died") from error
        except OSError as error:
            raise NurseryError(f"the nursery cannot be asked: {error.strerror}") from error
        finally:
            self._waiting.pop(number, None)

    async def close(self) -> None:
        """End it; it is gone when this returns."""
        self._closed = True
        if self._again is not None:
            self._again.cancel()
        popen = self._popen
        if popen is not None and not self._ready.is_set():
            # Nobody depends on it yet.
            popen.kill()
        self._disconnect()
        if popen is not None:
            try:
                async with asyncio.timeout(_ENDING):
                    await asyncio.to_thread(popen.wait, _ENDING)
            except (TimeoutError, subprocess.TimeoutExpired):
                popen.kill()
                await asyncio.to_thread(popen.wait)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ── the process ──────────────────────────────────────────────────────────────────────────

    def _launch(self) -> None:
        if self._closed:
            return
        self._began = self._loop.time()
        try:
            ours, self._popen = _execute()
        except OSError as error:
            _log.error("nursery_not_started", error=os.strerror(error.errno or 0))
            self._launch_again(0.0)
            return
        ours.setblocking(False)
        self._socket = ours
        self._patience = self._loop.call_later(PATIENCE, self._end_silent)
        self._loop.add_reader(ours.fileno(), self._readable)

    def _end_silent(self) -> None:
        """It says nothing: another one may.  Its end is told by its socket."""
        _log.error("nursery_silent", pid=self.pid)
        if self._popen is not None:
            self._popen.kill()

    def _launch_again(self, lived: float) -> None:
        self._again = self._loop.call_later(self._backoff.delay(lived), self._launch)
        if self._backoff.failures >= _ATTEMPTS:
            self._failed.set()

    def _poll(self) -> None:
        """It has died: hear what it had still said, and that."""
        sock = self._socket
        while sock is not None and self._socket is sock:
            self._readable()

    def _readable(self) -> None:
        assert self._socket is not None  # noqa: S101 - there is a reader as long as there is a socket
        try:
            data, descriptors, _, _ = socket.recv_fds(self._socket, MESSAGE, 1)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, descriptors = b"", []
        if not data:
            self._lost()
            return
        # Our own child wrote it, over a socket that has no name.
        message = pickle.loads(data)  # noqa: S301
        if isinstance(message, NurseryReady):
            self._be_patient()
            self._ready.set()
        elif isinstance(message, Exited):
            self._exited(message.pid, message.status)
        elif isinstance(message, Spawned):
            self._spawned(message, descriptors)
        elif isinstance(message, NotSpawned):
            answer = self._waiting.get(message.number)
            if answer is not None and not answer.done():
                answer.set_exception(NurseryError(f"no process for a worker: {message.reason}"))

    def _spawned(self, message: Spawned, descriptors: list[int]) -> None:
        process = Process(self._loop, message.pid, descriptors[0] if descriptors else None)
        answer = self._waiting.get(message.number)
        if answer is None or answer.done():
            # Whoever wanted it has given up, and closed its link: it has never served and ends by itself.
            process.kill()
            return
        answer.set_result(process)

    def _lost(self) -> None:
        """It has died: begin another one."""
        popen = self._popen
        self._disconnect()
        if popen is not None:
            popen.kill()
            task = self._loop.create_task(self._wait_for(popen), name="nursery-end")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        lived = self._loop.time() - self._began if self._ready.is_set() else 0.0
        self._ready.clear()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(NurseryError("the nursery has died"))
        if not self._closed:
            self._launch_again(lived)

    @staticmethod
    async def _wait_for(popen: subprocess.Popen[bytes]) -> None:
        status = await asyncio.to_thread(popen.wait)
        _log.error("nursery_died", pid=popen.pid, status=status)

    def _be_patient(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _disconnect(self) -> None:
        self._be_patient()
        sock, self._socket, self._popen = self._socket, None, None
        if sock is not None:
            self._loop.remove_reader(sock.fileno())
            sock.close()


def _execute() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """The program, and our end of its socket.  Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # What is sent to the group while it is being made is to be ignored by it; blocked, it waits until it is.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)
    try:
        with theirs:
            return ours, subprocess.Popen(  # noqa: S603 - this very program
                [sys.executable, "-P", "-m", "gateway.control.nursery", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=environment(),
            )
    except BaseException:
        ours.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def environment() -> dict[str, str]:
    """What the nursery and its workers see: no variable that somebody may have put a secret into.

    The modules come from where ours came from.
    """
    known = {name: value for name, value in os.environ.items() if name in _VARIABLES or name.startswith(_FAMILIES)}
    return known | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
