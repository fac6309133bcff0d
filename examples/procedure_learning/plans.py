"""Alignment plans of many pairs of recordings at once: the families that are compared, and one `solve` call for all pairs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fpgwot import solve, temporal
from fpgwot.metrics import keep_cheapest


@dataclass(frozen=True)
class Family:
    """A transport problem. Costs and structure term have mean 1 for every pair, so the numbers mean the same anywhere."""

    reg: float = 0.03
    m: float | str | None = None  # transported mass; None: balanced
    alpha: float = 0.0  # weight of the temporal structure
    scale: float = 0.05  # its width, as a share of the recording
    rho: float = 0.0  # price of being off the diagonal
    keep: float | None = None  # of the balanced plan keep the cheapest entries up to this mass: a control, not transport


FAMILIES = {
    "KOT": Family(),
    "KOT thresholded": Family(keep=0.3),
    "OPEL": Family(rho=1.0),
    "RGWOT": Family(rho=1.0, alpha=0.3),
    "partial KOT": Family(m=0.3),
    "partial FGW": Family(m=0.3, alpha=0.1),
    "R-FPGWOT": Family(m=0.3, alpha=0.1, rho=0.3),
}


def distances(X: np.ndarray, Y: np.ndarray, metric: str = "euclidean") -> np.ndarray:
    """Feature costs of B pairs of sequences, X (B, n, d) and Y (B, m, d), each pair divided by its mean."""
    if metric == "cosine":
        X, Y = (Z / np.maximum(np.linalg.norm(Z, axis=-1, keepdims=True), 1e-12) for Z in (X, Y))
    M = (X**2).sum(-1)[..., :, None] + (Y**2).sum(-1)[..., None, :] - 2 * X @ np.swapaxes(Y, -1, -2)
    M = np.maximum(M, 0)
    M = np.sqrt(M) if metric == "euclidean" else M
    mean = M.mean((-2, -1), keepdims=True)
    return np.asarray(M / np.where(mean > 0, mean, 1))


def solve_plans(M: np.ndarray, family: Family, tol: float = 1e-3, **options: Any) -> np.ndarray:
    """Plans (B, n, m) of a batch of costs (B, n, m) in one call."""
    _, n, k = M.shape
    problem: dict[str, Any] = {"reg": family.reg, "normalize": "mean", "m": family.m, "tol": tol, "on_fail": "ignore"}
    if family.alpha > 0:
        C1, C2 = (temporal.laplace_structure(size, family.scale) for size in (n, k))
        problem |= {"C1": C1, "C2": C2, "alpha": family.alpha}
    if family.rho > 0:  # rho <d, T> through the reference of the entropy: in units of the mean cost whatever alpha is
        problem["reference"] = np.exp(-family.rho / family.reg * temporal.diagonal_cost(n, k)) / (n * k)
    T = np.asarray(solve(M, **problem, **options).plan)
    if family.keep is not None:
        T = np.stack([keep_cheapest(t, c, family.keep) for t, c in zip(T, M, strict=True)])
    return T


def with_mass(family: Family, m: float) -> Family:
    """The family at another mass; nothing changes where all of the mass is transported."""
    if family.keep is not None:
        return replace(family, keep=m)
    return family if family.m is None else replace(family, m=m)
