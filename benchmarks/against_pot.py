"""fpgwot and POT on problem T, side by side in one process: time, objective, marginal violation.

    python benchmarks/against_pot.py [--out FILE.json] [--sizes 128 256 512] [--entropic-size 512]

Objective and feasibility are computed here from the plans, not by the solvers. Repeats interleave the two; medians are shown.
POT gets numItermax=1e7 in the exact calls (its default stops inside the linear program from n = 640 on). Its entropic partial
call ignores the feature cost (a fault of version 0.9.7: the gradient adds a number instead of the matrix), so its objective is
that of another problem; the time is what users wait.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import ot
import scipy
from problems import problem_t

import fpgwot

ALPHA = 0.3


def measures(T: np.ndarray, M: np.ndarray, C1: np.ndarray, C2: np.ndarray, m: float, reg: float) -> dict[str, float]:
    """Objective (1-alpha)<M,T> + alpha E + reg sum T(log T - 1), worst marginal violation over a weight, mass error."""
    n, k = T.shape
    mu, nu = T.sum(1), T.sum(0)
    energy = mu @ (C1**2) @ mu + nu @ (C2**2) @ nu - 2 * np.sum((C1 @ T @ C2) * T)
    entropy = np.sum(T * (np.log(np.where(T > 0, T, 1)) - 1)) if reg > 0 else 0.0
    excess = (np.abs if m == 1 else np.asarray)(np.concatenate((mu * n - 1, nu * k - 1)))
    return {
        "objective": float((1 - ALPHA) * np.sum(M * T) + ALPHA * energy + reg * entropy),
        "violation": float(max(excess.max(), 0)),
        "mass_error": float(abs(T.sum() - m)),
    }


def compare(ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int) -> tuple[Any, Any, float, float]:
    """Plans and median seconds of both, interleaved."""
    ours()  # compile and load
    times: tuple[list[float], list[float]] = ([], [])
    plans: list[Any] = [None, None]
    for _ in range(repeats):
        for k, call in enumerate((ours, theirs)):
            start = time.perf_counter()
            plans[k] = call()
            times[k].append(time.perf_counter() - start)
    return plans[0], plans[1], float(np.median(times[0])), float(np.median(times[1]))


def rows(sizes: list[int], entropic_size: int) -> list[dict[str, Any]]:
    """One row for each task and size."""
    out = []
    for n in sizes:
        M, C1, C2 = problem_t(n)
        p = np.full(n, 1 / n)
        repeats = 7 if n <= 256 else 3
        for m in (0.8, 1.0):
            task = "exact partial FGW" if m < 1 else "exact FGW"

            def ours(m: float = m) -> np.ndarray:
                return fpgwot.solve(M, C1, C2, alpha=ALPHA, m=m).plan  # noqa: B023

            def theirs(m: float = m) -> np.ndarray:
                if m < 1:
                    return ot.gromov.partial_fused_gromov_wasserstein(M, C1, C2, p, p, m=m, alpha=ALPHA, numItermax=10**7)  # noqa: B023
                return ot.gromov.fused_gromov_wasserstein(M, C1, C2, p, p, alpha=ALPHA)  # noqa: B023

            out.append(row(task, n, m, 0.0, *compare(ours, theirs, repeats), (M, C1, C2)))
        for reg in (0.05, 0.01):

            def ours(reg: float = reg) -> np.ndarray:
                return fpgwot.solve(M, C1, C2, alpha=ALPHA, reg=reg).plan  # noqa: B023

            def theirs(reg: float = reg) -> np.ndarray:
                return ot.gromov.entropic_fused_gromov_wasserstein(M, C1, C2, p, p, alpha=ALPHA, epsilon=reg)  # noqa: B023

            out.append(row("entropic FGW", n, 1.0, reg, *compare(ours, theirs, 3), (M, C1, C2)))
    if entropic_size:
        n, m, reg = entropic_size, 0.8, 0.05
        M, C1, C2 = problem_t(n)
        p = np.full(n, 1 / n)
        result = compare(
            lambda: fpgwot.solve(M, C1, C2, alpha=ALPHA, m=m, reg=reg).plan,
            lambda: ot.gromov.entropic_partial_fused_gromov_wasserstein(M, C1, C2, p, p, reg, m=m, alpha=ALPHA),
            1,
        )
        out.append(row("entropic partial FGW", n, m, reg, *result, (M, C1, C2)))
    return out


def row(task: str, n: int, m: float, reg: float, ours: Any, theirs: Any, t: float, t_pot: float, problem: Any) -> dict[str, Any]:
    """One comparison as a flat record."""
    a, b = (measures(np.asarray(T), *problem, m, reg) for T in (ours, theirs))
    record = {"task": task, "n": n, "m": m, "reg": reg, "seconds": t, "seconds_pot": t_pot, "ratio": t_pot / t}
    record |= {**a, **{f"{key}_pot": value for key, value in b.items()}}
    print(
        f"{task:21s} n {n:5d}  m {m:.1f}  reg {reg:.2f}  {1e3 * t:9.1f} ms  POT {1e3 * t_pot:10.1f} ms  ratio {t_pot / t:8.1f}   "
        f"F {a['objective']:.8f}  POT {b['objective']:.8f}   violation {a['violation']:.0e}  POT {b['violation']:.0e}",
        flush=True,
    )
    return record


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sizes", type=int, nargs="*", default=[128, 256, 512])
    parser.add_argument("--entropic-size", type=int, default=512, help="0 leaves out the call that takes POT minutes")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    machine = {
        "fpgwot": fpgwot.__version__,
        "POT": ot.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "numba": numba.__version__,
        "python": platform.python_version(),
        "threads": numba.get_num_threads(),
    }
    table = rows(args.sizes, args.entropic_size)
    if args.out:
        args.out.write_text(json.dumps({"machine": machine, "rows": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
