"""Soft marginals without entropy (reg = 0, a finite tau): proximal points, each an entropic problem that refers to the last plan.

    T+ = argmin F(T) + eps KL(T || T_last),     eps falling from step to step to a small share of the cost range

F never rises, and a plan that stays is stationary: the entropy is only a step. Off the support of the end result entries fall
geometrically, the faster the smaller eps is.

Certificate. With G the gradient at T of all but the prices of the marginals, the linearised problem and its dual are

    P = <G,T> + tau1 KL(T1 || p) + tau2 KL(T'1 || q)   and   D = sum_i c(f_i) + sum_j c(g_j),   f_i + g_j <= G_ij,

with c(f) = tau p (1 - e^(-f/tau)), which is p f on a hard side, and f = 0 on a free one. P - D >= 0 bounds what any other plan
gains to first order; stationarity is its ratio to |F|.

Ideas: Rockafellar (1976); Xie, Wang, Wang, Zha (2020) for proximal points of transport plans.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .._backends._protocol import FORBIDDEN, FORBIDDEN_FROM
from .._problem import Problem
from ..result import Status
from . import control, entropic
from ._loop import Watch
from ._outcome import Outcome
from .starts import cost_range

FIRST, SHRINK, LAST = 0.1, 0.4, 1e-6  # eps as a share of the cost range: at first, from step to step, at least
PASSES, STEPS = 500, 50  # reads and outer steps of a step up to which eps falls on: beyond, steps grow dearer than they are fewer
FLOOR = 1e-290  # smallest entry of a reference: one of 0 would forbid its pair for good
KEPT = 1e-14  # share of the largest entry below which an entry of the final plan is none
CUT = 1e-6  # residual of a step above which it counts as cut short: the next has a larger eps
PATIENCE = 12  # steps without a better certificate after which a solve has stalled


def solve(problem: Problem, T: Any, *, tol: float, max_iter: int, watch: Watch) -> Outcome:
    """Minimise F of a batch with soft marginals from the plan T (None: the product plan), in float64 on the host.

    Cost of a step: an entropic solve from the last plan, a few gradients and a dozen to some hundred reads of the n x m kernel.
    """
    dtype, B = problem.dtype, len(problem.size)
    problem = _in_double(problem)
    product, span = problem.product_plan(), cost_range(problem)
    reference = product if T is None else 0.9 * T.astype(float) + 0.1 * product  # no pair is out from the start
    masked = False if problem.bias is None else problem.bias >= FORBIDDEN_FROM
    eps, best, last, since, status = FIRST * span, np.full(B, np.inf), np.full(B, np.inf), 0, Status.MAX_ITER
    passes, gradients, history, end, fell = np.zeros(B, int), np.zeros(B, int), [], None, np.ones(B, bool)
    for iteration in range(max_iter):
        prior = np.where(masked, FORBIDDEN, -eps[:, None, None] * np.log(np.maximum(reference, FLOOR)))
        step = replace(problem, eps=eps, bias=prior, reference_mass=reference.sum((1, 2)))
        start = None if iteration == 0 and T is None else reference.copy()
        out = entropic.solve(step, start, tol=1e-9, max_iter=200, watch=Watch(), anneal=start is None, is_final=True)
        passes, gradients = passes + out.n_passes, gradients + out.n_gradients + 1
        plan = _onto_hard_side(problem, out.plan)
        found = _certified(problem, plan, masked, tol)
        if end is not None:  # a step that was cut short may rise: back to the plan before, with a shorter one
            fell = found[1].sum(1) <= end[1].sum(1) + 1e-12 * np.abs(end[1]).sum(1)
            plan, found = _where(fell, plan, reference), tuple(_where(fell, x, y) for x, y in zip(found, end, strict=True))
        reference, end = plan, found
        G, terms, f, g, station = end
        history.append((terms.sum(1), station))
        lost = np.array([x is Status.UNBOUNDED for x in out.status])  # costs far below -tau: the mass grows without end
        is_over = bool((lost | (station <= tol)).all())
        if is_over or watch(iteration, terms.sum(1), station):
            status = Status.CONVERGED if is_over else Status.STOPPED
            break
        since = 0 if (station < 0.9 * best).any() else since + 1
        best = np.minimum(best, station)
        if since > PATIENCE:
            status = Status.STALLED
            break
        is_easy, is_slow = (out.n_passes <= PASSES) & (out.n_iter <= STEPS), station > 0.5 * last
        factor = np.where(fell & (out.stationarity <= CUT), np.where(is_easy | is_slow, SHRINK, 1.0), 1 / SHRINK)
        eps, last = np.clip(eps * factor, LAST * span, FIRST * span), station
    plan = np.where(reference < KEPT * reference.max((1, 2))[:, None, None], 0.0, reference)
    return Outcome(
        plan.astype(dtype),
        G.astype(dtype),
        (f, g, np.zeros(B)),
        {"linear": terms[:, 0], "quad": terms[:, 1], "reg": np.zeros(B), "marginal": terms[:, 2]},
        station,
        [Status.UNBOUNDED if gone else Status.CONVERGED if x <= tol else status for gone, x in zip(lost, station, strict=True)],
        np.full(B, len(history)),
        passes,
        gradients,
        [np.array([(F[b], x[b]) for F, x in history]) for b in range(B)],
    )


def _where(which: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x for some of the problems, y for the others."""
    return np.where(np.expand_dims(which, tuple(range(1, x.ndim))), x, y)


def _in_double(problem: Problem) -> Problem:
    M, bias = (None if x is None else x.astype(float) for x in (problem.M, problem.bias))
    C1, C2 = (None if C is None else C.in_double() for C in (problem.C1, problem.C2))
    return replace(problem, dtype=np.dtype(float), M=M, bias=bias, C1=C1, C2=C2)


def _onto_hard_side(problem: Problem, T: np.ndarray) -> np.ndarray:
    """The plan with the marginal of a hard side (there is at most one) met to the last digit."""
    for axis, (w, tau) in enumerate(zip((problem.p, problem.q), problem.marginals.tau, strict=True)):
        if tau == np.inf:
            T = T * np.expand_dims(w / np.maximum(T.sum(2 - axis), 1e-300), 2 - axis)
    return T


def _certified(problem: Problem, T: np.ndarray, masked: Any, tol: float) -> tuple[np.ndarray, ...]:
    """Gradient at T without the prices of the marginals; linear, quadratic and marginal terms; duals f and g; stationarity."""
    (B, n, k), on = problem.shape, np.ones(len(T), bool)
    plain = replace(problem, eps=np.ones(B), bias=None)
    G, work, mu, nu = np.empty_like(T), np.empty_like(T), T.sum(2), T.sum(1)
    sums = plain.gradient(T, mu, nu, mu, nu, G, work, T, T, plain.allocate(), on, on)
    values = np.zeros((B, 4))
    rules = control.rules(problem.be)
    rules.begin(control.numbers(plain.eps), control.facts(plain), values, *sums, problem.loss != "product", problem.is_quadratic)
    terms = values[:, [0, 1, 3]]
    G = np.where(masked, FORBIDDEN, G)
    f, g, gap = np.zeros((B, n)), np.zeros((B, k)), np.zeros(B)
    for b, (rows, cols) in enumerate(problem.size):
        G_, T_, p, q = G[b, :rows, :cols], T[b, :rows, :cols], problem.p[b, :rows], problem.q[b, :cols]
        f[b, :rows], g[b, :cols] = _duals(G_, mu[b, :rows], nu[b, :cols], p, q, *problem.marginals.tau)
        dual = _conjugate(f[b, :rows], p, problem.marginals.tau[0]) + _conjugate(g[b, :cols], q, problem.marginals.tau[1])
        gap[b] = float(np.sum(G_ * T_)) + terms[b, 2] - dual
    size = np.abs(terms.sum(1)) + 1e-14 / tol * np.abs(terms).sum(1)
    return G, terms, f, g, np.abs(gap) / np.maximum(size, 1e-300)  # below 0 by more than rounding, the duals are wrong


def _duals(
    G: np.ndarray, mu: np.ndarray, nu: np.ndarray, p: np.ndarray, q: np.ndarray, tau1: float, tau2: float
) -> tuple[np.ndarray, np.ndarray]:
    """Feasible duals: those that the marginals of a soft side stand for, the others as large as they may be."""
    if not 0 < tau1 < np.inf:
        g, f = _duals(G.T, nu, mu, q, p, tau2, tau1)
        return f, g
    f = -tau1 * np.log(np.maximum(mu, 1e-300) / p)
    g = (G - f[:, None]).min(0) if tau2 > 0 else np.zeros(len(q))
    return (G - g).min(1), g


def _conjugate(f: np.ndarray, p: np.ndarray, tau: float) -> float:
    if tau == np.inf:
        return float(p @ f)
    with np.errstate(over="ignore"):  # of a lost problem
        return float(-tau * np.sum(p * np.expm1(-f / tau))) if tau > 0 else 0.0
