"""The exact solver on the problems of a batch: one conditional gradient run for each problem and start, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._backends._protocol import FORBIDDEN, FORBIDDEN_FROM
from .._problem import Problem
from ..marginals import Marginals, partial_mass
from ..result import Status
from ..structure import Dense, Structure
from . import frank_wolfe
from ._loop import Watch
from ._outcome import Outcome

_STATUS = {"converged": Status.CONVERGED, "max_iter": Status.MAX_ITER, "stopped": Status.STOPPED}


def solve(problem: Problem, starts: list[Any], *, tol: float, max_iter: int, watch: Watch) -> Outcome:
    """Solve every problem from every start (None: the product plan); start s of problem b is item s B + b of the outcome.

    stationarity = (Frank-Wolfe gap + rounding of the linear program) / (|F| + rounding of F).
    """
    B, n, m = problem.shape
    total = B * len(starts)
    solved: list[frank_wolfe.Exact] = []
    linear, marginal, station = [], [], []
    for item in range(total):
        b, start = item % B, starts[item // B]
        rows, cols = problem.size[b].tolist()
        T0 = None if start is None else np.ascontiguousarray(start[b, :rows, :cols], dtype=float)
        one = _solve_one(problem, b, T0, tol, max_iter, watch)
        solved.append(one)
        mass = float(np.add.reduce(one.plan, axis=None))
        saved = 0.0 if problem.price is None else 2 * float(problem.price[b]) * mass
        linear.append(one.value_linear + saved)
        marginal.append(0.0 if problem.price is None else problem.price[b] * (problem.p[b].sum() + problem.q[b].sum()) - saved)
        noise = 1e-14 / tol * one.top * mass
        station.append((one.gap + one.rounding) / max(abs(one.value_linear + one.value_quad) + noise, 1e-300))
    terms = {
        "linear": np.array(linear),
        "quad": np.array([one.value_quad for one in solved]),
        "reg": np.zeros(total),
        "marginal": np.array(marginal),
    }
    f, g = _stacked([one.f for one in solved], (n,)), _stacked([one.g for one in solved], (m,))
    return Outcome(
        _stacked([one.plan for one in solved], (n, m), problem.dtype),
        _stacked([one.gradient for one in solved], (n, m), problem.dtype),
        (f, g, np.array([one.h for one in solved])),
        terms,
        np.array(station),
        [_STATUS[one.status] for one in solved],
        np.array([one.n_iter for one in solved]),
        np.array([one.n_rounds for one in solved]),
        np.array([one.n_gradients for one in solved]),
        [one.history for one in solved],
    )


def _stacked(arrays: list[np.ndarray], shape: tuple[int, ...], dtype: Any = np.float64) -> np.ndarray:
    """Arrays of several problems in one, padded with zeros; a single one of that shape is not copied."""
    if len(arrays) == 1 and arrays[0].shape == shape:
        return arrays[0].astype(dtype, copy=False)[None]
    out = np.zeros((len(arrays), *shape), dtype)
    for x, y in zip(out, arrays, strict=True):
        x[tuple(slice(k) for k in y.shape)] = y
    return out


def forbidden_mass(be: Any, problem: Problem, b: int, forbidden: np.ndarray) -> float:
    """The least mass that any plan of problem b must send through the forbidden pairs."""
    n, k = problem.size[b]
    cost = np.ascontiguousarray(forbidden[:n, :k], dtype=float)
    rules, mass = _rules(problem, b)
    p, q = problem.p[b, :n], problem.q[b, :k]
    return frank_wolfe.solve(be, cost, None, None, p, q, w_lin=1.0, w_quad=0.0, marginals=rules, mass=mass).value_linear


def _solve_one(problem: Problem, b: int, T0: Any, tol: float, max_iter: int, watch: Watch) -> frank_wolfe.Exact:
    n, k = problem.size[b].tolist()
    w_lin, M = float(problem.wl[b]), None if problem.M is None else _layer(problem.M, b, n, k)
    if problem.bias is not None:  # a mask: forbidden pairs are marked in the cost itself
        bias = _layer(problem.bias, b, n, k)
        M, w_lin = bias if M is None else np.minimum(w_lin * M + bias, FORBIDDEN), 1.0
    C1, C2 = _single(problem.C1, b, n), _single(problem.C2, b, k)
    rules, mass = _rules(problem, b)
    if problem.price is not None:  # unmatched mass costs lambda on both sides: every pair is cheaper by 2 lambda
        shift = 2 * float(problem.price[b])
        M = np.full((n, k), -shift) if M is None else np.where(M < FORBIDDEN_FROM, w_lin * M - shift, FORBIDDEN)
        w_lin = 1.0
    return frank_wolfe.solve(
        problem.be, M, C1, C2, problem.p[b, :n], problem.q[b, :k], w_lin=w_lin, w_quad=float(problem.wq[b]),
        marginals=rules, mass=mass, loss=problem.loss, T0=T0, tol=tol, max_iter=max_iter,
        smoothness=0.0 if problem.smoothness is None else float(problem.smoothness[b]),
        callback=None if (watch.callback is None and not watch.verbose) or watch.enough is not None else watch,
        enough=watch.enough or 0.0,
    )  # fmt: skip


def _layer(x: Any, b: int, n: int, k: int) -> np.ndarray:
    return np.ascontiguousarray(x[b % len(x), :n, :k], dtype=float)


def _single(D: Structure | None, b: int, n: int) -> Structure | None:
    """The structure of one problem, in float64."""
    if D is None or (D.shape[:2] == (1, n) and not (isinstance(D, Dense) and D.array.dtype != np.float64)):
        return D
    return D.single(b, n)


def _rules(problem: Problem, b: int) -> tuple[Marginals, float | None]:
    """Marginals and mass of one problem: a side that is used up is an equality."""
    if problem.marginals.kind != "partial":
        return problem.marginals, None
    rows, cols = (x == np.inf for x in problem.cap[b].tolist())
    if rows or cols:
        return partial_mass(rows, cols), float(min(problem.p[b].sum(), problem.q[b].sum()))
    return partial_mass(), float(problem.mass[b])
