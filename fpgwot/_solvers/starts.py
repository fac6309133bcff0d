"""Starting plans: product, annealed, the solution for the features alone, monotone couplings in both directions, random plans.

The energy is not convex, and for structures |i-k| a plan and its time reversal tie: a few different starts are the honest way
to a good minimum.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .._problem import Problem
from . import control, entropic
from ._loop import Watch

NAMES = ("product", "features", "monotone", "reversed", "random")  # the order of `n_init`
ANNEALED, UNANNEALED = "annealed", "unannealed"  # on request only
STAGES, STEPS = 4, 8  # factors of the annealing between flat and the last entropy; outer steps, all stages together
TILT = 0.03  # standard deviation of the noise on the costs of further annealed starts, as a share of their range


def starting_plans(prep: Any, init: Any, n_init: int, seed: Any, exact: bool) -> list[tuple[Any, bool]]:
    """(plan (B, n, m) or None for the product plan, whether to anneal) for each start."""
    if n_init == 1 and (init is None or (isinstance(init, str) and init == "product")):
        return [(None, True)]
    problem: Problem = prep.problem
    is_random = n_init > 1 or (isinstance(init, str) and init == "random")
    rng = np.random.default_rng(seed) if is_random else None  # gathering entropy takes as long as a small program
    if init is None or isinstance(init, str):
        first = "product" if init is None else init
        if first not in (*NAMES, ANNEALED, UNANNEALED):
            raise ValueError(f"unknown init {init!r}; choose one of {(*NAMES, ANNEALED, UNANNEALED)}, or pass a plan")
        if first == ANNEALED and exact:
            return [(_annealed(problem, rng if k else None), False) for k in range(n_init)]
        first = "product" if first == ANNEALED else first  # the entropic solver anneals by itself
        rest = [x for x in NAMES if x not in (first, "random") and (x != "features" or problem.M is not None)]
        names = [first, *rest, *["random"] * n_init][:n_init]
        plans = [_plan(problem, name, rng, exact) for name in names]
    else:
        plans = [(_given(prep, init, exact), False)]
        rest = [x for x in NAMES if x != "random" and (x != "features" or problem.M is not None)]
        plans += [_plan(problem, name, rng, exact) for name in [*rest, *["random"] * n_init][: n_init - 1]]
    return plans


def _plan(problem: Problem, name: str, rng: Any, exact: bool) -> tuple[Any, bool]:
    if name in ("product", UNANNEALED):
        return None, name == "product"
    if name == "features":
        return _features(problem, exact), False
    if name == "random":
        return _random(problem, rng), exact
    return _monotone(problem, reverse=name == "reversed"), False


def _given(prep: Any, T: Any, exact: bool) -> Any:
    """A plan of the caller's, in the solver's order and units; of the right shape, finite, not negative, not empty."""
    problem, (B, n, k), xp = prep.problem, prep.full, prep.problem.be.xp
    T = T if hasattr(T, "dtype") else np.asarray(T)
    if T.dtype.kind not in "fiub":
        raise TypeError(f"init must hold real numbers, got an array of dtype {T.dtype}")
    T = xp.asarray(T).astype(float)
    if T.shape not in ((n, k), (B, n, k)) or not xp.isfinite(T).all() or (T < 0).any() or not (T.sum((-2, -1)) > 0).all():
        raise ValueError(f"init must be a plan ({n}, {k}) with finite entries, 0 or more, not all 0; got shape {T.shape}")
    T = xp.broadcast_to(T, (B, n, k)) / xp.asarray(prep.scale)[:, None, None]
    if prep.rows is not None or prep.cols is not None:
        rows, cols = (xp.asarray(x) for x in (prep.rows, prep.cols))
        T = xp.stack([T[b][rows[b][:, None], cols[b]] for b in range(B)])
    _, n, k = problem.shape
    return _fitted(problem, T[:, :n, :k], exact).astype(problem.dtype)


def _fitted(problem: Problem, T: Any, exact: bool) -> Any:
    """A plan with T's pattern that keeps the marginals and the mass: what is missing is filled with a product of the slacks."""
    xp = problem.be.xp
    out = xp.ascontiguousarray(T, dtype=float)
    tau1, tau2 = problem.marginals.tau
    for b in range(len(out)):
        p, q = problem.p[b], problem.q[b]
        mass = float(min(p.sum(), q.sum()) if np.isnan(problem.mass[b]) else problem.mass[b])
        t = out[b] * (mass / out[b].sum())
        if np.isinf(tau1):
            t *= xp.minimum(1, p / xp.maximum(t.sum(1), 1e-300))[:, None]
        if np.isinf(tau2):
            t *= xp.minimum(1, q / xp.maximum(t.sum(0), 1e-300))[None]
        a = p - t.sum(1) if np.isinf(tau1) else p
        c = q - t.sum(0) if np.isinf(tau2) else q
        a, c, missing = xp.maximum(a, 0), xp.maximum(c, 0), mass - t.sum()
        if missing > 1e-15 and a.sum() > 0 and c.sum() > 0:
            t += (a / a.sum())[:, None] * (c / c.sum()) * missing
        out[b] = t
    return out


def _annealed(problem: Problem, rng: Any) -> Any:
    """Where a few outer steps of the entropic solver get on the way from a flat kernel to a sharp one.

    The coarse shape of the problem decides there, not the details that the first linear program sees. The steps are few, their
    marginals inexact: the exact solver does the rest at a lower price. With `rng` the costs are tilted by noise for these steps,
    which leads them to another minimum of about the same depth.
    """
    spread = cost_range(problem)
    smooth = replace(problem, eps=np.maximum(control.FLAT * control.ANNEAL**-STAGES * spread, 1e-300))
    if rng is not None:
        noise = TILT * spread[:, None, None] * rng.standard_normal(problem.shape)
        smooth = replace(smooth, bias=(noise if problem.bias is None else problem.bias + noise).astype(problem.dtype))
    out = entropic.solve(smooth, None, tol=1e-6, max_iter=STEPS, watch=Watch())
    return _fitted(problem, out.plan, True).astype(problem.dtype)


def cost_range(problem: Problem) -> np.ndarray:
    """Range of the gradient at the product plan, for each problem; 1 where it is constant."""
    xp, (B, n, k) = problem.be.xp, problem.shape
    A, s1, s2 = xp.zeros((B, n, k), problem.dtype), xp.zeros((B, n)), xp.zeros((B, k))
    if problem.C1 is not None:
        problem.cross_of_product(A)
        if problem.loss != "product":
            mu, nu = (x.astype(float) for x in problem._product())
            s1, s2 = problem.squares(mu * nu.sum(1)[:, None], nu * mu.sum(1)[:, None])
    out = np.ones(B)
    for b, (rows, cols) in enumerate(problem.size):
        w = 2 * float(problem.wq[b])
        G = float(problem.weight_of_cross[b]) * A[b, :rows, :cols] + w * (s1[b, :rows, None] + s2[b, None, :cols])
        if problem.M is not None:
            G = G + float(problem.wl[b]) * problem.M[b % len(problem.M), :rows, :cols]
        out[b] = float(G.max() - G.min()) or 1.0
    return out


def _features(problem: Problem, exact: bool) -> Any:
    """The solution for the linear cost alone, at an entropy of a hundredth of its range where there is none."""
    layers = [problem.M[b % len(problem.M), :n, :k] for b, (n, k) in enumerate(problem.size)]
    span = np.array([float(x.max() - x.min()) for x in layers]) * problem.wl
    linear = np.where(problem.wl > 0, problem.wl, 1.0)
    eps = np.where(problem.eps > 0, problem.eps, 0.01 * np.where(span > 0, span, 1.0))
    alone = replace(problem, C1=None, C2=None, wl=linear, wq=np.zeros_like(problem.wq), eps=eps)
    out = entropic.solve(alone, None, tol=1e-3, max_iter=50, watch=Watch())
    return _fitted(problem, out.plan, exact).astype(problem.dtype)


def _monotone(problem: Problem, reverse: bool) -> Any:
    """The coupling that keeps (or reverses) the order of the points: north-west corner rule, a walk that is done on the host."""
    out = np.zeros(problem.shape)
    all_p, all_q = problem.be.host(problem.p), problem.be.host(problem.q)
    for b, (n, k) in enumerate(problem.size):
        p, q = all_p[b, :n] / all_p[b].sum(), all_q[b, :k] / all_q[b].sum()
        q = q[::-1] if reverse else q
        ends_p, ends_q = np.cumsum(p), np.cumsum(q)
        cuts = np.unique(np.minimum(np.concatenate((ends_p, ends_q)), 1.0))
        mass = np.diff(cuts, prepend=0.0)
        middle = cuts - mass / 2
        i = np.minimum(np.searchsorted(ends_p, middle), n - 1)
        j = np.minimum(np.searchsorted(ends_q, middle), k - 1)
        np.add.at(out[b], (i, k - 1 - j if reverse else j), mass)
    return _fitted(problem, problem.be.xp.asarray(out), True).astype(problem.dtype)


def _random(problem: Problem, rng: np.random.Generator) -> Any:
    """The product plan with log-normal noise (the same everywhere), brought back to the marginals by a few scalings."""
    xp = problem.be.xp
    T = problem.p[:, :, None] * problem.q[:, None, :] * xp.asarray(np.exp(2.0 * rng.standard_normal(problem.shape)))
    for _ in range(10):
        T *= (problem.p / xp.maximum(T.sum(2), 1e-300))[:, :, None]
        T *= (problem.q / xp.maximum(T.sum(1), 1e-300))[:, None, :]
    return _fitted(problem, T, True).astype(problem.dtype)
