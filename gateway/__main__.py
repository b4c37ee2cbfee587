"""The command `postern`, and `python -m gateway`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; returns its exit status (contract §5)."""
    from gateway.cli.main import main as command_line

    return command_line(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
