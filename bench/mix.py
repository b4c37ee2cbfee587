"""`python -m bench.mix`: mixed traffic at a rate, every answer judged: bodies, denials, streams, sockets, aborts.

An open loop: kinds are drawn by weight (seeded, so that a run can be had again) and started at fixed instants,
whether or not earlier ones have ended; too many at once are counted as skipped.  Prints one JSON object: how often
each kind went well, and every fault with how often it came.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import uvloop

from bench.client import Unexpected
from bench.kinds import KINDS, Kind, Mix

_PATIENCE = 30.0
_AT_ONCE = 256


class Driver:
    """Starts kinds at a rate and keeps their score."""

    def __init__(self, mix: Mix) -> None:
        self._mix = mix
        self._running: set[asyncio.Task[None]] = set()
        self.done: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.skipped = 0

    async def run(self, rate: float, seconds: float) -> None:
        """Every kind once, then by weight at a rate."""
        loop = asyncio.get_running_loop()
        kinds, weights = list(KINDS), list(KINDS.values())
        begun, number = loop.time(), 0
        while loop.time() - begun < seconds or number < len(kinds):
            if len(self._running) < _AT_ONCE:
                kind = kinds[number] if number < len(kinds) else self._mix.chance.choices(kinds, weights)[0]
                task = loop.create_task(self._one(kind))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
            else:
                self.skipped += 1
            number += 1
            await asyncio.sleep(max(0.0, begun + number / rate - loop.time()))
        await asyncio.gather(*self._running)
        self._mix.kept.close()

    async def _one(self, kind: Kind) -> None:
        name = kind.__name__.strip("_")
        try:
            async with asyncio.timeout(_PATIENCE):
                await kind(self._mix)
        except TimeoutError:
            self.faults[f"{name}: nothing for {_PATIENCE:g} s"] += 1
        except (Unexpected, OSError, ValueError, asyncio.IncompleteReadError) as error:
            self.faults[f"{name}: {type(error).__name__}: {error}"[:300]] += 1
        else:
            self.done[name] += 1


async def _main(options: argparse.Namespace, tokens: Sequence[str]) -> dict[str, object]:
    driver = Driver(Mix(options.port, tokens, options.outsider, options.limited, options.seed))
    await driver.run(options.rate, options.seconds)
    return {"done": dict(driver.done), "faults": dict(driver.faults), "skipped": driver.skipped}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; prints one JSON object."""
    parser = argparse.ArgumentParser(prog="bench.mix", description="Mixed traffic, every answer judged.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, default=100, help="a second [%(default)s]")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--keys", required=True, help="file of tokens, one a line")
    parser.add_argument("--outsider", required=True, help="the token of a key that no ACL admits")
    parser.add_argument("--limited", required=True, help="the token of a key with hardly any budget")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    print(json.dumps(uvloop.run(_main(options, Path(options.keys).read_text().split()))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
