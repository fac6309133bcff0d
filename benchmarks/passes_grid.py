"""Passes and gradients of the entropic solver on the grid of the reference prototype, and what fails.

    python -m benchmarks.passes_grid [--out FILE.json] [--short] [--worms witvliet8.npz]

A pass is one read of the n x m kernel; counts do not depend on the machine. W = passes + 3 gradients. 23 problems a cell: T
(n 64: seeds 0-4, n 256: 0-4), random symmetric structures (n 64: 0-4, n 256: 0-2), three pairs of mocap6, two pairs of
C. elegans connectomes where `--worms` names the file (the constructions of the last two are ours); and n 512 (T 0, 1, random
0) apart. alpha .3, entropy reg sum T (log T - 1). A run fails if `solve` did not certify 1e-7, or if the residual recomputed here
in plain NumPy from the plan and the potentials is above 3e-7. `REFERENCE` holds what the prototype of the method (NumPy, with a
sparse factor as preconditioner, 30 of W each) needed on the same problems, its failures by its own certificate.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

import fpgwot

from .measure import save
from .problems import Problem, mocap_problem, problem_t, random_problem, worm_problem

MODES: dict[str, dict[str, Any]] = {
    "balanced": {},
    "m .8": {"m": 0.8},
    "m .5": {"m": 0.5},
    "KL .1": {"tau": 0.1},
    "KL 1": {"tau": 1.0},
}
REGS = (0.05, 0.01, 0.003, 0.001)
TOL = 1e-7
REFERENCE = Path(__file__).parent / "results" / "passes_reference.json"


def problems(size: int, worms: Path | None = None) -> list[Problem]:
    """The problems of one size; 0 stands for the recordings."""
    if size == 64:
        return [problem_t(64, s) for s in range(5)] + [random_problem(64, s) for s in range(5)]
    if size == 256:
        return [problem_t(256, s) for s in range(5)] + [random_problem(256, s) for s in range(3)]
    if size == 512:
        return [problem_t(512, s) for s in range(2)] + [random_problem(512)]
    out = [mocap_problem(0, 3), mocap_problem(1, 4), mocap_problem(2, 5)]
    return out + ([worm_problem(worms, 0, 7), worm_problem(worms, 2, 5)] if worms else [])


def residual(z: Problem, result: fpgwot.Result) -> float:
    """||exp((f + g + h - G)/reg) - T||_1 plus the violation of the marginal conditions, from the definitions.

    Relative to the mass, or to the smaller total weight (1 here) where a price makes the mass smaller, as in the package.
    """
    T, (f, g, h) = np.asarray(result.plan), result.potentials
    mu, nu, mass = T.sum(1), T.sum(0), T.sum()
    alpha = float(z.alpha or 0)
    G = (1 - alpha) * z.M + 2 * alpha * ((z.C1**2 @ mu)[:, None] + (z.C2**2 @ nu)[None] - 2 * z.C1 @ T @ z.C2)
    total = np.abs(np.exp(np.minimum((f[:, None] + g[None] + h - G) / z.reg, 50)) - T).sum()
    for pot, got, want in ((f, mu, z.p), (g, nu, z.q)):
        if z.tau is not None:
            total += np.abs(got - want * np.exp(-pot / z.tau)).sum()
        elif z.m is None:
            total += np.abs(got - want).sum()
        else:  # capped: at most `want`, and `want` wherever the potential is below its cap 0
            total += np.maximum(got - want, 0).sum() + np.abs(np.where(pot < -1e-9, got - want, 0)).sum()
    total += abs(mass - z.m) if z.m is not None else 0.0
    return float(total / max(mass, 1.0 if z.m is None else z.m))


def run(z: Problem, mode: str) -> dict[str, Any]:
    """One solve as a flat record."""
    start = time.perf_counter()
    result = fpgwot.solve(z.M, z.C1, z.C2, z.p, z.q, **z.options, tol=TOL, on_fail="ignore")
    seconds = time.perf_counter() - start
    recomputed = residual(z, result)
    return {
        "problem": z.name,
        "n": z.shape[0],
        "mode": mode,
        "reg": z.reg,
        "passes": result.n_passes,
        "gradients": result.n_gradients,
        "W": result.n_passes + 3 * result.n_gradients,
        "certified": bool(result.converged),
        "status": result.status.name,
        "residual": float(result.residuals.stationarity),
        "residual_recomputed": recomputed,
        "failed": bool(not result.converged or not recomputed <= 3 * TOL),
        "value": float(result.value),
        "seconds": seconds,
    }


def cells(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians of each (mode, reg), the grid and n = 512 apart, beside the reference's on the same problems."""
    reference = {(r["problem"], r["mode"], r["reg"]): r for r in json.loads(REFERENCE.read_text())}
    out = []
    for large in (False, True):
        for mode in MODES:
            for reg in REGS:
                some = [r for r in rows if r["mode"] == mode and r["reg"] == reg and (r["n"] == 512) == large]
                if not some:
                    continue
                cell: dict[str, Any] = {"mode": mode, "reg": reg, "n": 512 if large else "grid"}
                theirs = [reference[k] for r in some if (k := (r["problem"], mode, reg)) in reference]
                for name, runs in (("", some), ("_reference", theirs)):
                    cell |= {key + name: float(np.median([r[key] for r in runs])) for key in ("passes", "gradients", "W") if runs}
                    cell |= {"runs" + name: len(runs), "failed" + name: sum(r["failed"] for r in runs)}
                    cell["W_worst" + name] = max((r["W"] for r in runs), default=0)
                out.append(cell)
    return out


def table(out: dict[str, Any]) -> str:
    """The cells and the failures as Markdown."""
    lines = ["| n | mode | reg | runs | passes + gradients | reference | W median / worst | reference | failed | reference |"]
    lines.append("| --- " * 10 + "|")
    for c in out["cells"]:
        known = c["runs_reference"] > 0
        lines.append(
            f"| {c['n']} | {c['mode']} | {c['reg']} | {c['runs']} | {c['passes']:.0f} + {c['gradients']:.0f} | "
            + (f"{c['passes_reference']:.0f} + {c['gradients_reference']:.0f} | " if known else "- | ")
            + f"{c['W']:.0f} / {c['W_worst']} | "
            + (f"{c['W_reference']:.0f} / {c['W_worst_reference']} | " if known else "- | ")
            + f"{c['failed']} | "
            + (f"{c['failed_reference']} |" if known else "- |")
        )
    bad = [r for r in out["rows"] if r["failed"]]
    lines += ["", f"{len(bad)} of {len(out['rows'])} runs fail."]
    lines += [f"- {failure(r)}" for r in bad]
    return "\n".join(lines)


def failure(r: dict[str, Any]) -> str:
    """A run that failed, in one line that names everything needed to repeat it."""
    return (
        f"{r['problem']}, {r['mode']}, reg {r['reg']}: {r['status']}, residual {r['residual']:.1e} "
        f"(recomputed {r['residual_recomputed']:.1e}), {r['passes']} passes"
    )


def grid(sizes: tuple[int, ...], worms: Path | None, deadline: float | None = None, path: Path | None = None) -> dict[str, Any]:
    """All runs; stops before the next problem where `deadline` seconds have passed; writes after every problem to `path`."""
    rows: list[dict[str, Any]] = []
    start = time.perf_counter()
    for z in (z for size in sizes for z in problems(size, worms)):
        if deadline is not None and time.perf_counter() - start > deadline:
            print(f"passes: time is up before {z.name}")
            break
        for mode, options in MODES.items():
            for reg in REGS:
                rows.append(run(z.but(**options, reg=reg, reference=1.0), mode))
                if rows[-1]["failed"]:
                    print(f"passes: {failure(rows[-1])}", flush=True)
        if path is not None:  # the grid takes long: what is done is kept
            save(path, {"rows": rows, "cells": cells(rows)})
        print(f"passes: {z.name}: {sum(r['failed'] for r in rows)} of {len(rows)} failed so far", flush=True)
    return {"rows": rows, "cells": cells(rows)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/passes.json"))
    parser.add_argument("--worms", type=Path, help="witvliet8.npz")
    parser.add_argument("--short", action="store_true", help="n 64 and the recordings of mocap6 only")
    args = parser.parse_args()
    out = grid((64, 0) if args.short else (64, 0, 256, 512), args.worms, path=args.out)
    print(table(out))


if __name__ == "__main__":
    main()
