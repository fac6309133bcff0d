"""Action segmentation on the two affinity matrices that ASOT publishes: its iteration against our solution of the same problem.

    python benchmarks/asot_table.py --data FOLDER [--out benchmarks/results/asot]

FOLDER holds affinity/*.npy (frames x steps) and gt/* (one label a line), from the authors' repository (MIT licence).
The problem, with T1 = p hard and the steps relaxed (what the published iteration descends on, see `presets.asot`):

    F(T) = (1-a) <C,T> + a/2 <Cx T Cy, T> + eps sum T (log T - 1) + lambda KL(T'1 || q),
    C = 1 - affinity + rho |i/n - j/k|,  Cx band (1/r within a share r of the frames),  Cy = 1 - I.

The iteration is written here from its description: T <- T exp(-eta grad F), rows rescaled to p, eta = 4 / max grad at the start,
25 steps from p q'. Frames are decoded by argmax; steps are matched to labels by the assignment of most frames.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from fpgwot import presets, solve
from fpgwot.structure import Dense, Toeplitz
from fpgwot.temporal import diagonal_cost, different_structure

EARLY = 8  # outer steps of the run that is stopped early
ALPHA, RADIUS, EPS, LAMBDA = 0.3, 0.04, 0.07, 0.05
SETTINGS = [(rho, lam) for rho in (0.15, 0.25) for lam in (0.05, 0.1)]
NAMES = {"2020-04-19_14-03-25": "desktop assembly, 745 x 22", "P36_webcam01_P36_salat": "Breakfast salad, 5292 x 8"}


def band(n: int) -> Toeplitz:
    """1/r where 1 <= |i-k| <= r n, as an operator."""
    weights = np.zeros(n)
    weights[1 : int(n * RADIUS) + 1] = 1 / RADIUS
    return Toeplitz(weights)


def product(Cx: Toeplitz, Cy: np.ndarray, T: np.ndarray, be: Any) -> np.ndarray:
    """Cx T Cy."""
    return Cx.matmul(be, T[None])[0] @ Cy


def objective(T: np.ndarray, C: np.ndarray, A: np.ndarray, q: np.ndarray, lam: float) -> float:
    """F of the header, from the plan and A = Cx T Cy."""
    nu = T.sum(0)
    entropy = np.sum(T * (np.log(np.maximum(T, 1e-300)) - 1))
    kl = np.sum(nu * np.log(np.maximum(nu, 1e-300) / q) - nu + q)
    return float((1 - ALPHA) * np.sum(C * T) + ALPHA / 2 * np.sum(A * T) + EPS * entropy + lam * kl)


def published(C: np.ndarray, Cx: Toeplitz, Cy: np.ndarray, lam: float, be: Any, steps: int = 25) -> np.ndarray:
    """The iteration as it is described."""
    n, k = C.shape
    p, q = np.full(n, 1 / n), np.full(k, 1 / k)
    T, eta = np.outer(p, q), 0.0
    for step in range(steps):
        grad = (1 - ALPHA) * C + ALPHA * product(Cx, Cy, T, be) + EPS * np.log(np.maximum(T, 1e-300))
        grad += lam * np.log(np.maximum(T.sum(0), 1e-300) / q)
        if step == 0:
            eta = 4 / grad.max()
        T = T * np.exp(-eta * (grad - grad.min()))
        T *= (p / T.sum(1))[:, None]
    return T


def accuracy(T: np.ndarray, labels: np.ndarray) -> float:
    """Share of frames right after decoding by argmax and the best assignment of steps to labels."""
    names, truth = np.unique(labels, return_inverse=True)
    table = np.zeros((T.shape[1], len(names)))
    np.add.at(table, (T.argmax(1), truth), 1)
    i, j = linear_sum_assignment(table, maximize=True)
    return float(table[i, j].sum() / len(truth))


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    from fpgwot._dispatch import load_backend

    be, rows = load_backend("numba"), []
    for file in sorted((args.data / "affinity").glob("*.npy")):
        affinity = np.load(file, allow_pickle=False).astype(float)
        labels = np.array((args.data / "gt" / file.stem).read_text().split("\n"))[: len(affinity)]
        n, k = affinity.shape
        Cx, Cy, q = band(n), different_structure(k), np.full(k, 1 / k)
        for rho, lam in SETTINGS:
            C = 1 - affinity + rho * diagonal_cost(n, k)
            options = presets.asot(alpha=ALPHA, eps=EPS, lambda_columns=lam)
            solve(C, Cx, Dense(Cy), **options, on_fail="ignore")  # compile
            start = time.perf_counter()
            result = solve(C, Cx, Dense(Cy), **options, on_fail="ignore")
            ours_s = time.perf_counter() - start
            start = time.perf_counter()
            theirs = published(C, Cx, Cy, lam, be)
            theirs_s = time.perf_counter() - start
            ours = result.plan
            early = solve(C, Cx, Dense(Cy), **options, max_iter=EARLY, on_fail="ignore").plan
            bar = objective(theirs, C, product(Cx, Cy, theirs, be), q, lam)
            for steps in range(EARLY, 100):  # until the objective is the published one
                level = solve(C, Cx, Dense(Cy), **options, max_iter=steps, on_fail="ignore").plan
                if objective(level, C, product(Cx, Cy, level, be), q, lam) <= bar:
                    break
            row = {
                "data": NAMES.get(file.stem, file.stem),
                "rho": rho,
                "lambda": lam,
                "F": objective(ours, C, product(Cx, Cy, ours, be), q, lam),
                "F_published": bar,
                "F_early": objective(early, C, product(Cx, Cy, early, be), q, lam),
                "accuracy": accuracy(ours, labels),
                "accuracy_early": accuracy(early, labels),
                "accuracy_level": accuracy(level, labels),
                "steps_level": steps,
                "accuracy_published": accuracy(theirs, labels),
                "accuracy_affinity": accuracy(affinity, labels),
                "seconds": ours_s,
                "seconds_published": theirs_s,
                "converged": bool(result.converged),
            }
            rows.append(row)
            print({key: round(v, 5) if isinstance(v, float) else v for key, v in row.items()}, flush=True)
    lines = [
        "# ASOT's iteration and the solution of its problem",
        "",
        f"alpha {ALPHA}, band {RADIUS}, eps {EPS}, frames hard, steps relaxed; see the head of `benchmarks/asot_table.py`.",
        f"`published`: its 25 steps. `early`: our solver stopped after {EARLY} steps (`max_iter={EARLY}`). `level`: at its first",
        "step whose objective is the published one or lower, with the number of that step.",
        "",
        "The solution has the lower objective everywhere, and its frames are right less often on the long video: the published",
        "steps stop before the minimum, and stopping early works as a regulariser there. It does so for ours too: after eight",
        "steps the objective is a little above the published one and the frames are right as often or more; where it is level,",
        "the accuracy is within .006, above or below. A better solver does not mend a model.",
        "",
        "| data | rho | lambda | F ours | early | published | accuracy ours | early | level | published | affinity | converged |",
        "| --- " * 12 + "|",
    ]
    for r in rows:
        lines.append(
            f"| {r['data']} | {r['rho']} | {r['lambda']} | {r['F']:.6f} | {r['F_early']:.6f} | {r['F_published']:.6f} | "
            f"{r['accuracy']:.3f} | {r['accuracy_early']:.3f} | {r['accuracy_level']:.3f} ({r['steps_level']}) | "
            f"{r['accuracy_published']:.3f} | {r['accuracy_affinity']:.3f} | "
            f"{r['converged']} |"
        )
    if args.out:
        args.out.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
        args.out.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
