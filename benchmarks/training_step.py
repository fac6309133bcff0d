"""A training step on pairs of 32 frames: entropic fused partial GW, its value, and the gradient in the features.

    python benchmarks/training_step.py [--batch 32] [--repeat 11] [--reg 0.05]

Against the same step through POT, whose partial solvers take one pair at a time and have no torch gradient: its plan comes from
detached arrays, and torch differentiates the objective at that plan. The plan is that of its exact conditional gradient, its
fastest; --entropic adds its entropic solver, once. That one takes seconds, and its gradient holds a sum in place of (1-alpha) M,
so M has no say: a time only. Runs are interleaved; medians of wall and of processor time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np
import ot
import torch

import fpgwot
from fpgwot import nn

MASS, ALPHA = 0.7, 0.5


def pairs(batch: int, n: int = 32, dim: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences of 8 steps in order, two of them swapped on one side, and a quarter of background frames."""
    rng, out = np.random.default_rng(0), ([], [])
    for _ in range(batch):
        steps = rng.normal(size=(8, dim))
        for side, order in zip(out, ((0, 1, 2, 3, 4, 5, 6, 7), (0, 1, 2, 4, 3, 5, 6, 7)), strict=True):
            Z = steps[np.array(order)[np.arange(n) * 8 // n]] + 0.4 * rng.normal(size=(n, dim))
            Z[rng.permutation(n)[: n // 4]] = rng.normal(size=(n // 4, dim))
            side.append(Z / np.linalg.norm(Z, axis=1, keepdims=True))
    return torch.tensor(np.array(out[0])), torch.tensor(np.array(out[1]))


def main() -> None:
    """Print one line for each way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=11)
    parser.add_argument("--reg", type=float, default=0.05)
    parser.add_argument("--entropic", action="store_true")
    args = parser.parse_args()
    X, Y = pairs(args.batch)
    n = X.shape[1]
    lag = torch.arange(n, dtype=torch.float64)
    C = (lag[:, None] - lag).abs() / n
    flat, C_ = np.full(n, 1 / n), C.numpy()

    def ours(x: torch.Tensor, what: str, tol: float | None = None) -> torch.Tensor:
        M = 1 - x @ Y.to(x.dtype).mT
        out = nn.solve(M, C.to(x.dtype), C.to(x.dtype), alpha=ALPHA, m=MASS, reg=args.reg, tol=tol)
        return out.value.mean() if what == "value" else (out.plan * M.detach()).sum((1, 2)).mean()

    def theirs(x: torch.Tensor, entropic: bool = False) -> torch.Tensor:
        M = 1 - x @ Y.mT
        problem = {"p": flat, "q": flat, "m": MASS, "alpha": ALPHA, "symmetric": True}
        costs = M.detach().numpy()
        if entropic:
            plans = [ot.gromov.entropic_partial_fused_gromov_wasserstein(c, C_, C_, reg=args.reg, **problem) for c in costs]
        else:
            plans = [ot.gromov.partial_fused_gromov_wasserstein(c, C_, C_, **problem) for c in costs]
        T = torch.tensor(np.array(plans))
        mu, nu = T.sum(2), T.sum(1)
        quad = ((C**2 @ mu.mT).mT * mu).sum(1) + ((C**2 @ nu.mT).mT * nu).sum(1) - 2 * ((C @ T @ C) * T).sum((1, 2))
        return ((1 - ALPHA) * (M * T).sum((1, 2)) + ALPHA * quad).mean()

    ways = {
        "fpgwot, value, float64": (torch.float64, lambda x: ours(x, "value")),
        "fpgwot, value, float64, tol 1e-4": (torch.float64, lambda x: ours(x, "value", 1e-4)),
        "fpgwot, value, float32": (torch.float32, lambda x: ours(x, "value")),
        "fpgwot, loss on the plan, float64": (torch.float64, lambda x: ours(x, "plan")),
        "POT exact + torch, value, float64": (torch.float64, theirs),
    }
    times: dict[str, list[tuple[float, ...]]] = {k: [] for k in ways}
    losses: dict[str, float] = {}

    def run(name: str, dtype: torch.dtype, way: Any) -> None:
        x = X.to(dtype).requires_grad_()
        wall, cpu = time.perf_counter(), time.process_time()
        loss = way(x)
        middle = time.process_time()
        loss.backward()
        row = time.perf_counter() - wall, time.process_time() - cpu, time.process_time() - middle
        times.setdefault(name, []).append(row)
        losses[name] = loss.item()

    for _ in range(args.repeat + 1):
        for name, (dtype, way) in ways.items():
            run(name, dtype, way)
    times = {name: rows[1:] for name, rows in times.items()}  # the first may compile
    if args.entropic:
        run("POT entropic + torch (M ignored), once", torch.float64, lambda x: theirs(x, entropic=True))
    print(f"fpgwot {fpgwot.__version__}, POT {ot.__version__}, torch {torch.__version__}; {args.batch} pairs of {n} frames")
    print(f"{'':40s}{'wall ms':>9s}{'cpu ms':>9s}{'of it backward':>16s}{'loss':>12s}")
    for name, rows in times.items():
        wall, cpu, back = (1e3 * statistics.median(column) for column in zip(*rows, strict=True))
        print(f"{name:40s}{wall:9.1f}{cpu:9.1f}{back:16.2f}{losses[name]:12.6f}")


if __name__ == "__main__":
    main()
