"""Balanced problems of the KL loss by the exact solver of the square loss.

With both marginals fixed the two losses differ by a constant: E_kl(T) = E_sq(T) + mu' D1 mu + nu' D2 nu for the structures
h1(C1) and h2(C2) that carry the cross term, D = f(C) - h(C)^2. The plan is the same; value, gradient, potentials and history
follow by adding the constant's share, and the compiled loop serves both. Other marginals are `exact`'s own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .._problem import Problem
from . import exact
from ._loop import Watch
from ._outcome import Outcome


def solve(problem: Problem, starts: list[Any], *, tol: float, max_iter: int, watch: Watch) -> Outcome:
    """As `exact.solve`; the tolerance is kept relative to the KL value, which may be far below that of the square loss."""
    problem = replace(problem, loss="square")  # of the transformed structures
    out = exact.solve(problem, starts, tol=tol, max_iter=max_iter, watch=watch)
    kl, ratio = _in_kl(problem, out)
    if (kl.stationarity <= tol).all() or ratio.min() >= 1:
        return kl
    B = len(problem.size)
    again = [out.plan[s * B : (s + 1) * B] for s in range(len(starts))]
    more = exact.solve(problem, again, tol=max(tol * float(ratio.min()), 1e-15), max_iter=max_iter, watch=watch)
    work = {k: getattr(out, k) + getattr(more, k) for k in ("n_iter", "n_passes", "n_gradients")}
    history = [np.concatenate(pair) for pair in zip(out.history, more.history, strict=True)]
    return _in_kl(problem, replace(more, history=history, **work))[0]


def _in_kl(problem: Problem, out: Outcome) -> tuple[Outcome, np.ndarray]:
    """The outcome in terms of the KL loss, and |F_kl| / |F_sq|."""
    B = len(problem.size)
    gradient, f, g, h = out.gradient.copy(), out.potentials[0].copy(), out.potentials[1].copy(), out.potentials[2]
    quad, history, ratio = out.terms["quad"].copy(), [], np.ones(len(out.plan))
    for item in range(len(quad)):
        b = item % B
        n, k = problem.size[b]
        T, w = out.plan[item, :n, :k], float(problem.wq[b])
        d1, d2 = _difference(problem.C1, b, n) @ T.sum(1, dtype=float), _difference(problem.C2, b, k) @ T.sum(0, dtype=float)
        shift = w * float(d1 @ T.sum(1) + d2 @ T.sum(0))
        before = sum(float(out.terms[key][item]) for key in out.terms)
        quad[item] += shift
        gradient[item, :n, :k] += (2 * w * (d1[:, None] + d2[None])).astype(gradient.dtype)
        f[item, :n] += 2 * w * d1
        g[item, :k] += 2 * w * d2
        history.append(out.history[item] + np.array([shift, 0.0]))
        ratio[item] = abs(before + shift) / max(abs(before), 1e-300)
    station = out.stationarity / np.maximum(ratio, 1e-300)
    terms = {**out.terms, "quad": quad}
    return replace(out, gradient=gradient, potentials=(f, g, h), terms=terms, stationarity=station, history=history), ratio


def _difference(C: Any, b: int, n: int) -> np.ndarray:
    """Symmetric part of f(C) - h(C)^2 of problem b."""
    one = C.single(b, n)
    D = one.squares[0] - one.array[0] ** 2
    return np.asarray((D + D.T) / 2)
