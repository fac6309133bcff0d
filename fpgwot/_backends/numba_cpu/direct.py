"""A linear program of ordinary input in one compiled call: checks, program, certificate and sums of the plan.

The program of a small problem takes a tenth of the time that the steps of a general call take around it. What is out of the
ordinary is left to these: the first number says so.
"""

from __future__ import annotations

import numpy as np

from ._jit import jit
from .lp import FORBIDDEN_FROM
from .simplex import _basis, optimise, read_plan

ONE, ROUNDING, TOTALS = 1e-13, 1e-12, 1e-9  # as in `_validate` and `LinearProgram`: a total of one, no slack, equal totals


@jit
def _sum_of_weights(w: np.ndarray) -> float:
    """Their total; NaN unless each is positive and finite."""
    total, low = 0.0, np.inf
    for x in w:
        total += x
        low = min(low, x)
    return total if low > 0.0 and total < np.inf else np.nan


@jit
def linear(M: np.ndarray, p: np.ndarray, q: np.ndarray, mass: float):  # type: ignore[no-untyped-def]
    """min <M,T> over T1 = p, T'1 = q, or where `mass` is not NaN over T1 <= p, T'1 <= q, sum T = mass.

    Returns whether the input is ordinary (finite costs below those of forbidden pairs, positive weights of total one, a mass
    between the heaviest point and the whole), and then plan, its marginals, f, g, h, value, what it may lack (bound of the
    rounding in the program), what of that is rounding of the costs, the largest cost, sweeps, the largest violation and the mass.
    """
    (n, m), zero = M.shape, np.zeros(0)
    P, Q = _sum_of_weights(p), _sum_of_weights(q)
    least = min(P, Q)
    top = total = 0.0
    for i in range(n):
        for j in range(m):
            top = max(top, abs(M[i, j]))
            total += M[i, j]
    whole = mass != mass
    good = abs(least - 1.0) < ONE and abs(total) < np.inf and top < FORBIDDEN_FROM
    if whole:
        good = good and abs(P - Q) <= TOTALS * max(P, Q)
    else:
        good = good and mass > 0.0 and mass < least * (1.0 - ROUNDING) and max(p.max(), q.max()) <= mass
    if not good:
        return False, np.zeros((0, 0)), zero, zero, zero, zero, 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0.0, 0.0
    moved = P if whole else mass
    scale = 2.0 ** -np.floor(np.log2(moved))
    by_p, by_q = (scale, scale * moved / Q) if whole else (scale, scale)
    a, b, weights, units, unit, tree, flow, pi = _basis(p * by_p, q * by_q, scale * moved, not whole, not whole)
    rows = len(a)
    low, limit, sweeps = optimise(M, a, b, units, False, tree, flow, pi, top)
    code, x = read_plan(n, m, rows, weights, unit, tree, flow)
    T, mu, nu, value, sent = np.zeros((n, m)), np.zeros(n), np.zeros(m), 0.0, 0.0
    for t in range(len(code)):
        i = code[t] // m
        j = code[t] - i * m
        y = x[t] / scale
        T[i, j] = y
        mu[i] += y
        nu[j] += y
        sent += y
        value += y * M[i, j]
    f, g, h = pi[:n].copy(), pi[rows : rows + m].copy(), 0.0
    if not whole:
        row, col = pi[n], pi[rows + m]
        for i in range(n):
            f[i] = min(f[i] + col, 0.0)
        for j in range(m):
            g[j] = min(g[j] + row, 0.0)
        h = -(row + col)
    worst = 0.0
    for i in range(n):
        off = (mu[i] - p[i]) / p[i]
        worst = max(worst, abs(off) if whole else off)
    for j in range(m):
        off = (nu[j] - q[j]) / q[j]
        worst = max(worst, abs(off) if whole else off)
    return True, T, mu, nu, f, g, h, value, -low * moved, -limit * moved, top, sweeps, worst, sent
