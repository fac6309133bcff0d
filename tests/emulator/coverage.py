"""Which lines of the kernels were run: g++'s counters, read by gcov."""

from __future__ import annotations

import json
import subprocess
from collections import defaultdict
from pathlib import Path


def line_coverage(cache: Path) -> dict[str, tuple[set[int], set[int]]]:
    """File of a kernel (as its `#line` names it) -> (lines with code, lines that ran), over all `coverage` builds in a cache.

    A template line has run if any instance of it ran. Functions that nobody instantiates have no code, hence no lines.
    """
    code: dict[str, set[int]] = defaultdict(set)
    ran: dict[str, set[int]] = defaultdict(set)
    for counters in sorted(cache.glob("*/*.gcda")):
        done = subprocess.run(
            ["gcov", "--json-format", "--stdout", counters.name], capture_output=True, text=True, check=True, cwd=counters.parent
        )
        for text in done.stdout.splitlines():
            for file in json.loads(text)["files"]:
                if not file["file"].endswith((".cu", ".cuh")):
                    continue
                name = Path(file["file"]).name
                code[name] |= {x["line_number"] for x in file["lines"]}
                ran[name] |= {x["line_number"] for x in file["lines"] if x["count"]}
    return {name: (code[name], ran[name]) for name in sorted(code)}


def share(lines: dict[str, tuple[set[int], set[int]]]) -> float:
    """Share of all lines that ran, 0 where there are none."""
    total = sum(len(code) for code, _ in lines.values())
    return sum(len(ran) for _, ran in lines.values()) / total if total else 0.0


def report(lines: dict[str, tuple[set[int], set[int]]]) -> str:
    """One line for each file, with the numbers of the lines that did not run."""
    rows = []
    for name, (code, ran) in lines.items():
        missed = ", ".join(map(str, sorted(code - ran)))
        rows.append(f"{name}: {len(ran)} of {len(code)} lines" + (f", not {missed}" if missed else ""))
    return "\n".join(rows)
