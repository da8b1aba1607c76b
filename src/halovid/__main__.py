"""`halovid` and `python -m halovid`."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command; Ctrl-C while it is still being imported ends with one line, too."""
    try:
        from halovid.cli.main import main as command
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted before anything was begun\n")
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()
