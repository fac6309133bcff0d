"""`python -m fpgwot script.py [arguments]` runs a script under `accelerate()`; any other argument is a command of the CLI."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run a script with POT's functions swapped, or the command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or not arguments[0].endswith(".py"):
        from .cli import main as cli

        return cli(arguments)
    if not Path(arguments[0]).is_file():
        sys.stderr.write(f"fpgwot: no such script: {arguments[0]}\n")
        return 2
    from ._accelerate import accelerate

    before = sys.argv, sys.path[0]
    sys.argv, sys.path[0] = arguments, str(Path(arguments[0]).resolve().parent)
    fast = accelerate()
    try:
        with fast:
            runpy.run_path(arguments[0], run_name="__main__")
    finally:
        sys.argv, sys.path[0] = before
        sys.stderr.write(f"fpgwot: {fast.text}\n".replace("\n", "\nfpgwot: ", fast.text.count("\n")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
