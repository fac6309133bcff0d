"""Alignment plans of many pairs of recordings at once: the families that are compared, and one `solve` call for all pairs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from fpgwot import presets, solve, temporal
from fpgwot.metrics import keep_cheapest, kendall_tau
from fpgwot.nulls import null_price


@dataclass(frozen=True)
class Family:
    """A transport problem. Costs and structure term have mean 1 for every pair, so the numbers mean the same anywhere."""

    reg: float = 0.02
    m: float | str | None = None  # transported mass, or "auto"; without m and price: balanced
    # or instead a price of unmatched mass: pairs are matched where their cost is below it; "null": `null_price` of each pair
    price: float | str | None = None
    alpha: float = 0.0  # weight of the structure
    scale: float = 0.05  # its reach in time, as a share of the recording
    sharpness: float = 0.0  # 0: time alone; else neighbours in time that look alike, `temporal.segment_structure`
    rho: float = 0.0  # price of being off the diagonal
    keep: float | None = None  # control: of the balanced plan keep the cheapest entries up to this mass
    keep_below: float | None = None  # control: of the balanced plan keep the entries whose cost is below this
    published: str | None = None  # "opel" or "vava": the whole published problem with its sink; nothing above is read


SEGMENTS = Family(reg=0.01, alpha=0.3, scale=0.1, sharpness=2.0)
FAMILIES = {
    "KOT": Family(),
    "KOT thresholded": Family(keep=0.3),
    "OPEL": Family(rho=1.0),  # KOT with a Laplace prior: what is left of OPEL once it is solved to the end, without its sink
    "RGWOT": Family(alpha=0.3, rho=1.0),  # balanced FGW with that prior
    "partial KOT": Family(m=0.3),
    "partial FGW": Family(m=0.3, alpha=0.1),
    "partial FGW, segments": replace(SEGMENTS, price=0.8),
    "partial FGW, segments, null price": replace(SEGMENTS, price="null"),
    "R-FPGWOT": Family(m=0.3, alpha=0.1, rho=0.3),
    "OPEL, published": Family(published="opel"),  # its entropy is so large that the plan is mostly the prior
}
ORDER_TEST = Family(m=0.3, alpha=0.1)


class Batch:
    """B pairs of sequences X (B, n, d) and Y (B, m, d), and their costs M (B, n, m), each pair divided by its mean."""

    def __init__(self, X: np.ndarray, Y: np.ndarray, metric: str) -> None:
        if metric not in ("euclidean", "cosine"):
            raise ValueError(f"metric must be euclidean or cosine, got {metric!r}")
        if metric == "cosine":
            X, Y = (Z / np.maximum(np.linalg.norm(Z, axis=-1, keepdims=True), 1e-12) for Z in (X, Y))
        squares = (X**2).sum(-1)[:, :, None] + (Y**2).sum(-1)[:, None, :] - 2 * X @ Y.transpose(0, 2, 1)
        M = np.maximum(squares, 0)
        M = np.sqrt(M) if metric == "euclidean" else M
        mean = M.mean((1, 2), keepdims=True)
        self.X, self.Y, self.M = X, Y, np.asarray(M / np.where(mean > 0, mean, 1))

    @classmethod
    def of(cls, Z: np.ndarray, pairs: list[tuple[int, int]], metric: str) -> Batch:
        """Pairs of the recordings Z (recordings, n, d)."""
        i, j = np.array(pairs).T
        return cls(Z[i], Z[j], metric)

    @cached_property
    def _known(self) -> dict[tuple[float, float], tuple[np.ndarray, np.ndarray]]:
        return {}

    def structures(self, scale: float, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
        """Of both sides, (B, n, n) and (B, m, m), or without the batch axis where they depend on time alone."""
        if sharpness == 0:
            return tuple(temporal.laplace_structure(size, scale) for size in self.M.shape[1:])  # type: ignore[return-value]
        if (scale, sharpness) not in self._known:
            C1, C2 = (np.stack([temporal.segment_structure(z, scale, sharpness) for z in Z]) for Z in (self.X, self.Y))
            self._known[scale, sharpness] = C1, C2
        return self._known[scale, sharpness]


def solve_plans(batch: Batch, family: Family, tol: float = 1e-3, max_iter: int = 60) -> np.ndarray:
    """Plans (B, n, m) of all pairs of a batch in one call; few pairs need more than 40 outer iterations."""
    if family.published is not None:
        return published_plans(batch, family.published, tol)
    _, n, m = batch.M.shape
    problem: dict[str, Any] = {"reg": family.reg, "normalize": "mean", "m": family.m, "on_fail": "ignore"}
    problem |= {"tol": tol, "max_iter": max_iter}
    if family.alpha > 0:
        C1, C2 = batch.structures(family.scale, family.sharpness)
        problem |= {"C1": C1, "C2": C2, "alpha": family.alpha}
    if family.rho > 0:  # rho <d, T> through the reference of the entropy: in units of the mean cost whatever alpha is
        problem["reference"] = np.exp(-family.rho / family.reg * temporal.diagonal_cost(n, m)) / (n * m)
    if family.price == "null":
        same = {k: problem[k] for k in ("reg", "normalize", "C1", "C2", "alpha", "reference") if k in problem}
        problem["sink"] = null_price(batch.M, **same, random_state=0)
    elif family.price is not None:
        problem["sink"] = (1 - family.alpha) * float(family.price)
    T = np.asarray(solve(batch.M, **problem).plan)
    if family.keep is not None:
        T = np.stack([keep_cheapest(t, c, family.keep) for t, c in zip(T, batch.M, strict=True)])
    if family.keep_below is not None:
        T = T * np.less(batch.M, family.keep_below)
    return T


def published_plans(batch: Batch, name: str, tol: float) -> np.ndarray:
    """OPEL or VAVA on squared distances, without the sink's row and column: a plan of about n/(n + 1) of the mass."""
    calls = [{"opel": presets.opel, "vava": presets.vava}[name](M) for M in batch.M**2]
    stacked = {key: np.stack([call[key] for call in calls]) for key in ("M", "reference", "p", "q")}
    return np.asarray(solve(**stacked, reg=calls[0]["reg"], tol=tol, on_fail="ignore").plan)[:, 1:, 1:]


def with_mass(family: Family, m: float | str) -> Family:
    """The family at another mass; nothing changes where all of the mass is transported."""
    if family.keep is not None and not isinstance(m, str):
        return replace(family, keep=m)
    return family if family.m is None and family.price is None else replace(family, m=m, price=None)


def order_is_fixed(batch: Batch, threshold: float = 0.55) -> bool:
    """Whether recordings do the steps in one order, from unlabelled pairs.

    A partial plan without prior matches what is alike wherever it is; where the order is fixed its mass lies along the diagonal
    all the same, in nearly every pair. The test is on the lower quartile over pairs of Kendall's tau of that plan: the median
    does not see that some pairs swap steps.
    """
    return float(np.nanquantile([kendall_tau(T) for T in solve_plans(batch, ORDER_TEST)], 0.25)) > threshold


def for_fixed_order(family: Family) -> Family:
    """With a mild price of being off the diagonal, which settles what the features leave open, and with more of the mass.

    rho .5 gains most of what a prior can gain where it is right, and loses little where lengths of steps vary; 1 and more do not.
    """
    return replace(family, m=None, price=None if family.price is None else 1.0, rho=max(family.rho, 0.5))


def dtw(M: np.ndarray) -> np.ndarray:
    """Control: plan of mass 1 along the path of dynamic time warping for a cost (n, m)."""
    n, m = M.shape
    best = np.full((n + 1, m + 1), np.inf)
    best[0, 0] = 0
    for i in range(n):
        for j in range(m):
            best[i + 1, j + 1] = M[i, j] + min(best[i, j], best[i, j + 1], best[i + 1, j])
    T, i, j = np.zeros((n, m)), n, m
    while i and j:
        T[i - 1, j - 1] = 1
        step = np.argmin([best[i - 1, j - 1], best[i - 1, j], best[i, j - 1]])
        i, j = i - (step != 2), j - (step != 1)
    return T / T.sum()
