"""Conditional gradient with whole steps for small problems, where the general loop would cost more than the work in it.

On concave energies (and on most others nearly all the way) the line search takes the whole step, from vertex to vertex. This
does what the loop of `_solvers.frank_wolfe` does until a shorter step is due, and hands the state over to it there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ._jit import deferred, jit
from .elementary import add
from .lp import _gradient, _pairing, _product_factors, _square_matvec, _sums, nearest_rows
from .simplex import in_order, optimise, read_plan

CONVERGED, OUT_OF_STEPS, SHORTER_STEP, ENOUGH = range(4)
BY_PROGRAM, BY_ROW, BY_COLUMN = range(3)
_gradient_serial = _gradient.serial


@jit
def _squares(S: np.ndarray, K: np.ndarray, x: np.ndarray, is_square: bool) -> np.ndarray:
    if not is_square:
        return np.zeros(len(x))
    s = _square_matvec(S, x)
    if len(K):
        s += _square_matvec(K, x)
    return s


# Loops, not `np.dot` and array expressions: each of those takes .3 to 1 s to compile here.


@jit
def _times(S: np.ndarray, x: np.ndarray) -> np.ndarray:
    y = np.empty(len(S))
    for i in range(len(S)):
        t = 0.0
        for k in range(len(x)):
            t = add(t, S[i, k] * x[k])
        y[i] = t
    return y


@jit
def _pair(x: np.ndarray, y: np.ndarray) -> float:
    t = 0.0
    for k in range(len(x)):
        t = add(t, x[k] * y[k])
    return t


@jit
def _of_mass(p: np.ndarray, mass: float) -> np.ndarray:
    x, total = np.empty(len(p)), 0.0
    for k in range(len(p)):
        total = add(total, p[k])
    for k in range(len(p)):
        x[k] = p[k] * (mass / total)
    return x


@jit
def _add_product(S1: np.ndarray, mu: np.ndarray, S2: np.ndarray, nu: np.ndarray, mass: float, A: np.ndarray) -> float:
    """A += S1 T S2' for the product plan T = mu nu'/mass; returns its <T, S1 T S2'>."""
    left, right = _times(S1, mu), _times(S2, nu)
    for i in range(len(left)):
        a, x = A[i], left[i] / mass
        for j in range(len(right)):
            a[j] += x * right[j]
    return _pair(left, mu) * _pair(right, nu) / mass**2


@jit
def _add_factors(L: np.ndarray, R: np.ndarray, A: np.ndarray) -> None:
    """A += L' R, four terms of the sum at a time."""
    k, n = L.shape
    for i in range(n):
        a = A[i]
        for t in range(0, k - 3, 4):
            l0, l1, l2, l3 = L[t, i], L[t + 1, i], L[t + 2, i], L[t + 3, i]
            r0, r1, r2, r3 = R[t], R[t + 1], R[t + 2], R[t + 3]
            for j in range(len(a)):
                a[j] += l0 * r0[j] + l1 * r1[j] + l2 * r2[j] + l3 * r3[j]
        for t in range(k - k % 4, k):
            l0, r0 = L[t, i], R[t]
            for j in range(len(a)):
                a[j] += l0 * r0[j]


@jit
def _nearest_plan(G: np.ndarray, weights: np.ndarray, by: int) -> tuple[np.ndarray, np.ndarray]:
    """Every point of the hard side with its cheapest partner."""
    n, m = G.shape
    if by == BY_COLUMN:
        code = nearest_rows(G)
        for j in range(m):
            code[j] = code[j] * m + j
        return in_order(code, weights, m, n, m)
    code = np.empty(n, np.int64)
    for i in range(n):
        g, best, where = G[i], np.inf, 0
        for j in range(m):
            if g[j] < best:
                best, where = g[j], j
        code[i] = i * m + where
    return code, weights.copy()


def _descend(
    M: Any, S1: np.ndarray, K1: np.ndarray, S2: np.ndarray, K2: np.ndarray, p: np.ndarray, q: np.ndarray,
    mass: float, w_lin: float, w: float, kappa: float, tol: float, enough: float, max_iter: int,
    by: int, hard: np.ndarray, a: np.ndarray, b: np.ndarray, whole: int, corner: bool, tree: np.ndarray, flow: np.ndarray,
    pi: np.ndarray, weights: np.ndarray, unit: float, scale: float, G: np.ndarray,
):  # type: ignore[no-untyped-def] # fmt: skip
    """Whole steps from the product plan of marginals proportional to p and q, until one is not the best of the segment.

    Returns a reason; F and the gap at each program; whether the plan is a vertex, its codes and entries; A, marginals and
    squares of the plan; w_lin <M,T> and w E; max|G| and slope at it; of the last program codes, entries, lowest reduced cost,
    its limit, and reads of G in all.
    """
    n, m = G.shape
    is_square, skew = kappa < 0.0, len(K1) > 0 and len(K2) > 0
    mu, nu = _of_mass(p, mass), _of_mass(q, mass)
    A = np.zeros((n, m))
    cross = 0.0
    for part in range(1 + skew):
        X1, X2 = (S1, S2) if part == 0 else (K1, K2)
        cross += _add_product(X1, mu, X2, nu, mass, A)
    lin = 0.0 if M is None else w_lin * _pair(mu, _times(M, nu)) / mass
    s1, s2 = _squares(S1, K1, mu, is_square), _squares(S2, K2, nu, is_square)
    E = w * (_pair(mu, s1) + _pair(nu, s2) + kappa * cross)
    history = np.empty((16, 2))
    code, x, on_vertex = np.empty(0, np.int64), np.empty(0), False
    reason, iteration, reads = OUT_OF_STEPS, 0, 0
    while True:
        top = _gradient_serial(M, A, s1, s2, w_lin, 2.0 * w, 2.0 * w * kappa, G)
        if by == BY_PROGRAM:
            low, limit, sweeps = optimise(G, a, b, whole, corner, tree, flow, pi, top)
            code_D, x_D = read_plan(n, m, len(a), weights, unit, tree, flow)
            x_D /= scale
        else:
            low, limit, sweeps = 0.0, 0.0, 1
            code_D, x_D = _nearest_plan(G, hard, by)
        reads += sweeps
        mu_D, nu_D, on_M, on_G = _sums(code_D, x_D, M, G)
        F, slope = lin + E, lin + 2.0 * E - on_G
        if iteration == len(history):
            history = np.concatenate((history, np.empty(history.shape)))
        history[iteration, 0], history[iteration, 1] = F, max(slope, 0.0)
        iteration += 1
        if slope <= tol * abs(F) + 1e-14 * max(mass * top, w * (_pair(mu, s1) + _pair(nu, s2))):
            reason = CONVERGED
            break
        if slope <= enough:
            reason = ENOUGH
            break
        if iteration >= max_iter:
            break
        none = np.empty(0, np.int64), np.empty(0)
        before, entries = (code, x) if on_vertex else none
        A_D = A.copy() if on_vertex else np.zeros((n, m))
        for part in range(1 + skew):
            X1, X2 = (S1, S2) if part == 0 else (K1, K2)
            L, R = _product_factors(code_D, x_D, before, entries, X1, X2)
            _add_factors(L, R, A_D)
        s1_D, s2_D = _squares(S1, K1, mu_D, is_square), _squares(S2, K2, nu_D, is_square)
        E_D = w * _pairing(code_D, x_D, s1_D, s2_D, A_D, kappa)
        curvature = E - 2.0 * w * _pairing(code_D, x_D, s1, s2, A, kappa) + E_D
        if 2.0 * curvature > slope:
            reason = SHORTER_STEP
            break
        code, x, on_vertex, A, mu, nu, s1, s2 = code_D, x_D, True, A_D, mu_D, nu_D, s1_D, s2_D
        lin, E = w_lin * on_M, E_D
    return (
        reason, history[:iteration], on_vertex, code, x, A, mu, nu, s1, s2, lin, E, top, slope,
        (code_D, x_D, low, limit, reads),
    )  # fmt: skip


# compiled, each saves a few calls of a microsecond a step, for 10 s
FUSED, PURE = (deferred(_descend, 20.0, suffix) for suffix in ("_fused", "_pure"))


def descend(M: Any, *rest: Any) -> Any:
    """`_descend`, for problems with and without features."""
    return (PURE if M is None else FUSED)(M, *rest)
