"""`python -m upstream_stub`: the LMS on a port or a Unix socket until SIGINT, SIGTERM or, if asked, its parent's end.

Prints one line on standard output once it serves: `stub LMS ready on http://127.0.0.1:9000`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop
from aiohttp import web

from upstream_stub.app import build_runner

#: Could not run (as of the gateway's commands).
EXIT_COULD_NOT_RUN = 3


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="upstream_stub", description="A small LMS to put behind the gateway.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on [%(default)s]")
    parser.add_argument("--port", type=int, default=9000, help="port to listen on, 0 for a free one [%(default)s]")
    parser.add_argument("--unix", metavar="PATH", help="listen on a Unix socket instead")
    parser.add_argument("--exit-with-parent", action="store_true", help="exit when standard input, a pipe, ends")
    return parser.parse_args(arguments)


async def _watch_parent(stop: asyncio.Event) -> None:
    """Set `stop` at the end of standard input: whoever held its other end has gone."""
    kind = os.fstat(sys.stdin.fileno()).st_mode
    if not (stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)):
        return  # a terminal or a file says nothing about who lives
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.read(4096):
        pass  # what the parent says is of no interest, only that it lives
    stop.set()


async def _serve(options: argparse.Namespace) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    runner = build_runner()
    await runner.setup()
    site: web.BaseSite
    site = web.UnixSite(runner, options.unix) if options.unix else web.TCPSite(runner, options.host, options.port)
    try:
        await site.start()
    except OSError as error:
        print(f"stub LMS cannot listen: {error}", file=sys.stderr)
        await runner.cleanup()
        return EXIT_COULD_NOT_RUN
    if options.unix:
        where = f"unix://{options.unix}"
    else:
        host, port = runner.addresses[0][:2]
        where = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    print(f"stub LMS ready on {where}", flush=True)
    watcher = asyncio.create_task(_watch_parent(stop)) if options.exit_with_parent else None
    await stop.wait()
    if watcher is not None:
        watcher.cancel()
    await runner.cleanup()
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stub; returns the exit status."""
    options = _parse(arguments)
    try:
        return uvloop.run(_serve(options))
    finally:
        if options.unix:
            Path(options.unix).unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
