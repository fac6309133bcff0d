"""Seconds of a training step of the example, and the share of the solver, against POT's exact solver for the same plans.

    python benchmarks/training_time.py [--out benchmarks/results] [--repeats 9]

A step trains on 8 pairs of mocap6, 64 frames of each recording. `network`: forward, losses, backward, Adam. `solve`: the plans
of the 8 pairs, if they were solved in every step. The example solves the plans of the frozen features once for all 15 pairs, at
96 frames (`once`), so what a step pays is a share of that: `amortised`. Without entropy, 64 frames, if solved in every step:
`POT`, one call a pair, conditional gradient; `exact`, ours, one call for all pairs, tolerance 1e-9. POT has no price of unmatched
mass where there are structures: in the last row it is given the mass that each pair has at the price, found before and not timed.
Medians of processor time (the machine was shared; run with one thread), interleaved.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "procedure_learning"))
from config import Config
from data import load
from model import Embedder, intra_loss, plan_loss
from plans import FAMILIES, Batch, Family, solve_plans

PAIRS, FRAMES = 8, 64
HARD = replace(FAMILIES["partial FGW, segments"], price=None, m=0.3)


def network_step(batch: Batch) -> Callable[[], None]:
    """A training step without the solver."""
    config = Config()
    model = Embedder(batch.X.shape[2], config.hidden, config.dim, config.dropout)
    optimiser = torch.optim.Adam(model.parameters(), config.lr)
    x = torch.as_tensor(np.concatenate((batch.X, batch.Y)), dtype=torch.float32)
    T = torch.as_tensor(solve_plans(batch, HARD), dtype=torch.float32)

    def step() -> None:
        Z = model(x + config.noise * torch.randn_like(x))
        loss = config.w_intra * intra_loss(Z) + config.w_plan * plan_loss(Z[:PAIRS], Z[PAIRS:], T)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def pot_plans(batch: Batch, family: Family, masses: list[float | None]) -> np.ndarray:
    """The same problems without entropy by POT, at given masses."""
    import ot

    p, C1, C2 = np.full(FRAMES, 1 / FRAMES), *batch.structures(family.scale, family.sharpness)
    C1, C2 = (np.broadcast_to(C, (PAIRS, FRAMES, FRAMES)) for C in (C1, C2))
    if family.alpha == 0:
        if family.m is None:
            return np.stack([ot.emd(p, p, M) for M in batch.M])
        return np.stack([ot.partial.partial_wasserstein(p, p, M, m=m) for M, m in zip(batch.M, masses, strict=True)])
    out = []
    for M, A, B, m in zip(batch.M, C1, C2, masses, strict=True):
        scale = (A**2).mean() + (B**2).mean() - 2 * A.mean() * B.mean()  # structure term 1 at the product plan, as ours
        s = 1 / np.sqrt(scale)
        out.append(ot.gromov.partial_fused_gromov_wasserstein(M, s * A, s * B, p, p, m=m, alpha=family.alpha))
    return np.stack(out)


def exact_plans(batch: Batch, family: Family) -> np.ndarray:
    """The same problems without entropy by us."""
    return solve_plans(batch, replace(family, reg=0.0), tol=1e-9, max_iter=1000)


def values(plans: np.ndarray, batch: Batch, family: Family) -> np.ndarray:
    """Objective of each plan, from the definition: linear term, structures, less the price times the mass."""
    C1, C2 = (np.broadcast_to(C, (PAIRS, FRAMES, FRAMES)) for C in batch.structures(family.scale, family.sharpness))
    out = []
    for T, M, A, B in zip(plans, batch.M, C1, C2, strict=True):
        scale = (A**2).mean() + (B**2).mean() - 2 * A.mean() * B.mean()
        energy = np.sum((A**2 @ T.sum(1)) * T.sum(1)) + np.sum((B**2 @ T.sum(0)) * T.sum(0)) - 2 * np.sum((A @ T @ B.T) * T)
        price = (1 - family.alpha) * float(family.price or 0.0)
        out.append((1 - family.alpha) * np.sum(M * T) + family.alpha * energy / scale - price * T.sum())
    return np.array(out)


def median_seconds(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Processor time, interleaved, after one call each to compile."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for k in range(repeats + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if k:
                times[name].append(time.process_time() - start)
    return {name: float(np.median(t)) for name, t in times.items()}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    config, recordings = Config(), load("mocap6")
    pairs = list(combinations(range(len(recordings)), 2))
    Z = np.stack([r.resampled(FRAMES).features for r in recordings])
    grid = np.stack([r.resampled(config.grid).features for r in recordings])
    eight = pairs[:PAIRS]
    families = {"KOT": FAMILIES["KOT"], "partial KOT": FAMILIES["partial KOT"], "partial FGW": FAMILIES["partial FGW"]}
    families |= {"partial FGW, segments, m .3": HARD, "partial FGW, segments": FAMILIES["partial FGW, segments"]}
    report: dict[str, Any] = {"threads": torch.get_num_threads(), "iterations": config.iterations, "rows": {}}
    for name, family in families.items():
        calls: dict[str, Callable[[], Any]] = {
            "network": network_step(Batch.of(Z, eight, "euclidean")),
            "solve": lambda f=family: solve_plans(Batch.of(Z, eight, "euclidean"), f, tol=1e-2),
            "once": lambda f=family: solve_plans(Batch.of(grid, pairs, "euclidean"), f, tol=1e-2),
        }
        at = Batch.of(Z, eight, "euclidean")
        own = exact_plans(at, family)
        masses = [float(T.sum()) for T in own]
        calls["POT"] = lambda f=family, m=masses: pot_plans(Batch.of(Z, eight, "euclidean"), f, m)
        calls["exact"] = lambda f=family: exact_plans(Batch.of(Z, eight, "euclidean"), f)
        row = median_seconds(calls, args.repeats)
        difference = values(own, at, family) - values(pot_plans(at, family, masses), at, family)
        row["values"] = [float(difference.min()), float(difference.mean()), float(difference.max())]
        row["amortised"] = row["once"] / config.iterations
        row["share solved in every step"] = row["solve"] / (row["solve"] + row["network"])
        row["share of the example"] = row["amortised"] / (row["amortised"] + row["network"])
        row["share of POT"] = row["POT"] / (row["POT"] + row["network"])
        row["share of exact"] = row["exact"] / (row["exact"] + row["network"])
        report["rows"][name] = row
        print(name, {k: np.round(v, 4) for k, v in row.items()}, flush=True)
    (args.out / "training_time.json").write_text(json.dumps(report, indent=1) + "\n")
    (args.out / "training_time.md").write_text(text(report))


def text(report: dict[str, Any]) -> str:
    """The table in Markdown."""
    lines = ["# Time of a training step", "", *[x.strip() for x in (__doc__ or "").split("\n")[4:]]]
    lines += [f"{report['threads']} thread, {report['iterations']} iterations. Milliseconds.", ""]
    names = ("network", "solve", "POT", "exact", "once", "amortised")
    shares = ("share solved in every step", "share of POT", "share of exact", "share of the example")
    lines += ["| family | " + " | ".join((*names, *shares)) + " |", "| --- " * (len(names) + len(shares) + 1) + "|"]
    for family, row in report["rows"].items():
        cells = [f"{1000 * row[n]:.1f}" for n in names] + [f"{100 * row[n]:.0f} %" for n in shares]
        lines.append(f"| {family} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "Objective of `exact` minus that of POT's plan: smallest, mean and largest of the 8 pairs.",
        "",
    ]
    for family, row in report["rows"].items():
        lines.append(f"- {family}: " + ", ".join(f"{x:+.1e}" for x in row["values"]))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
