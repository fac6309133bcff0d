"""Runs the benchmarks and writes JSON, tables and plots.

    python -m benchmarks [--full] [--only SUITE ...] [--threads N] [--clock cpu] [--minutes M] [--out FOLDER]
                         [--worms FILE]

Suites: methods (every package on problem T over sizes, and time against objective reached), alignment (KOT, FPGW, R-FPGWOT on
recordings and simulations), goals, sizes (is any function slower than POT's?), passes, bandwidth. The short version takes about
five minutes in all; the first run compiles for a minute or two of them. It has small sizes, mostly in one thread (kernels compile
their threaded forms once they have earned them), and writes to out/bench; --full writes to benchmarks/results, docs and README.
In one process the methods run in turn; medians are reported; every number has the machine beside it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import bandwidth, passes_grid, report, suite_alignment, suite_goals, suite_methods, suite_sizes
from .measure import machine, save, use_clock
from .methods.ours import warm_up

ROOT = Path(__file__).parents[1]
SHARE = {"goals": 0.3, "methods": 0.15, "sizes": 0.15, "alignment": 0.05, "passes": 0.05, "bandwidth": 0.1}  # of the time left


def suites(full: bool, time_left: float, worms: Path | None) -> dict[str, Callable[[], dict[str, Any]]]:
    """Name -> function that measures; each stops between two measurements when its share of the seconds left is used."""
    seconds = {name: time_left * share for name, share in SHARE.items()}

    def methods() -> dict[str, Any]:
        begin = time.perf_counter()
        reach = suite_methods.reach(256 if full else 96, 5 if full else 1)
        return suite_methods.run(full, seconds["methods"] - (time.perf_counter() - begin)) | {"reach": reach}

    return {
        "goals": lambda: suite_goals.run(full, seconds["goals"]),
        "methods": methods,
        "sizes": lambda: suite_sizes.run(full, seconds["sizes"]),
        "alignment": lambda: suite_alignment.run(full),
        "passes": lambda: passes_grid.grid((64, 0, 256, 512) if full else (64,), worms, None if full else seconds["passes"]),
        "bandwidth": lambda: bandwidth.run(full, (1, 2) if full else (1,)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--full", action="store_true", help="all sizes and the slow peers; about an hour and a half")
    parser.add_argument("--only", nargs="+", choices=list(SHARE), default=list(SHARE), metavar="SUITE")
    parser.add_argument("--threads", type=int, help="pins every library to this many threads; default: their own choice")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: processor time, for a busy machine")
    parser.add_argument("--minutes", type=float, help="time for all suites together (5, with --full 90)")
    parser.add_argument("--out", type=Path, help="folder of the JSON files (out/bench, with --full benchmarks/results)")
    parser.add_argument("--worms", type=Path, help="witvliet8.npz: adds two pairs of connectomes to the grid of passes")
    args = parser.parse_args()
    use_clock(args.clock)
    minutes = args.minutes or (90 if args.full else 5)
    folder = args.out or (ROOT / "benchmarks" / "results" if args.full else ROOT / "out" / "bench")
    about = machine()
    print(f"{about['processor']}, {about['cores']} cores, load {about['load']}, commit {about['commit']}, {about['threads']}")
    start = time.perf_counter()
    warm_up(args.full)
    print(f"kernels ready after {time.perf_counter() - start:.0f} s")
    for name, suite in suites(args.full, 60 * minutes - (time.perf_counter() - start), args.worms).items():
        if name not in args.only:
            continue
        begin = time.perf_counter()
        print(f"\n--- {name}", flush=True)
        save(folder / f"{name}.json", {"full": args.full, "suite": name, **suite()})
        print(f"--- {name}: {time.perf_counter() - begin:.0f} s", flush=True)
    into_docs = folder == ROOT / "benchmarks" / "results"
    page = report.write(folder, ROOT / "docs" if into_docs else folder, ROOT / "README.md" if into_docs else None)
    print(f"\ntotal {time.perf_counter() - start:.0f} s; JSON in {folder}, report {page}")
