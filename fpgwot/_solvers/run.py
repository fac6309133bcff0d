"""One solve from each start; the lowest objective is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from . import entropic, exact, exact_kl, proximal
from ._loop import Watch
from ._outcome import Outcome
from .starts import starting_plans


def run(prep: Any, name: str, init: Any, n_init: int, seed: Any, limits: dict[str, Any], watch: Watch) -> tuple[Outcome, Any]:
    problem = prep.problem
    plans = starting_plans(prep, init, n_init, seed, exact=name != "entropic")
    B, low = len(problem.size), problem.dtype.itemsize < 8
    if name != "conditional_gradient":
        tol, T, many = limits["tol"] or (1e-5 if low else 1e-7), plans[0][0], _tiled(problem, len(plans))
        if len(plans) > 1:
            T = problem.be.xp.concatenate([problem.product_plan() if t is None else t for t, _ in plans])
    if name == "entropic":
        anneal = np.repeat([a for _, a in plans], B)
        out = entropic.solve(many, T, tol=tol, max_iter=limits["max_iter"] or 500, watch=watch, anneal=anneal, is_final=True)
    elif name == "proximal":
        out = proximal.solve(many, T, tol=tol, max_iter=limits["max_iter"] or 100, watch=watch)
    else:
        tol = limits["tol"] or 1e-9
        is_shifted = problem.loss == "kl" and problem.C1 is not None and problem.marginals.kind == "balanced"
        solver = exact_kl if is_shifted else exact
        out = solver.solve(problem, [t for t, _ in plans], tol=tol, max_iter=limits["max_iter"] or 1000, watch=watch)
    if len(plans) == 1:
        return out, None
    values = sum(out.terms.values()).reshape(len(plans), B)  # type: ignore[union-attr]
    best = np.argmin(np.where(np.isfinite(values), values, np.inf), axis=0) * B + np.arange(B)
    return out.take(best, problem.be.xp), (values * prep.scale).T


def _tiled(problem: Any, starts: int) -> Any:
    """The same problems once more for each start; costs and structures are shared."""
    if starts == 1:
        return problem
    xp = problem.be.xp
    given = {k: getattr(problem, k) for k in _PER_PROBLEM if getattr(problem, k) is not None}
    tile = {k: (np if isinstance(x, np.ndarray) else xp).concatenate([x] * starts) for k, x in given.items()}
    C = {}
    for k in ("C1", "C2"):
        D = getattr(problem, k)
        C[k] = D if D is None else D.take(xp.asarray(np.tile(np.arange(D.shape[0]), starts)))
    return replace(problem, **tile, **C)


_PER_PROBLEM = ("size", "wl", "wq", "eps", "p", "q", "r", "c", "cap", "mass", "reference_mass", "price", "smoothness")
