"""The command `postern`, and `python -m gateway`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; returns its exit status (contract §5)."""
    from gateway.compiled import stale

    if changed := stale():
        # Running what was compiled from other sources would be running something that nobody can read.
        print(
            f"postern: {len(changed)} compiled modules are older than their sources; run make install", file=sys.stderr
        )
        return 3
    from gateway.cli.main import main as command_line

    return command_line(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
