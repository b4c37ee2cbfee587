"""`python -m bench.watched FILE run …`: the gateway's own command, which tells on SIGUSR1 what it holds.

Written into FILE as JSON: `objects` (those that the collector sees, what it froze at the start left out), `blocks`
(of Python's allocator) and `types` (the most frequent ones).  Nothing else differs from `postern run`.
"""

from __future__ import annotations

import gc
import json
import signal
import sys
from collections import Counter
from pathlib import Path

_MOST = 40


def holdings() -> dict[str, object]:
    """What this process holds now, garbage collected first."""
    gc.collect()
    seen = gc.get_objects()
    types = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in seen)
    return {"objects": len(seen), "blocks": sys.getallocatedblocks(), "types": dict(types.most_common(_MOST))}


def main() -> int:
    """Run the command line that follows the file's name; returns its exit status."""
    report = Path(sys.argv[1])

    def tell(_number: int, _frame: object) -> None:
        made = report.with_suffix(".new")
        made.write_text(json.dumps(holdings()))
        made.replace(report)

    signal.signal(signal.SIGUSR1, tell)
    from gateway.__main__ import main as command

    sys.argv = ["postern", *sys.argv[2:]]
    return command()


if __name__ == "__main__":
    sys.exit(main())
