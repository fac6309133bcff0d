"""Kernels of the exact solver: passes over the matrix of linearised costs, and sums over the entries of a sparse plan.

A pair (i, j) is coded as i*m + j. A cost of FORBIDDEN_FROM or more marks a pair that may carry no mass.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from ._jit import copy, helper, jit, kernel
from .elementary import add

FORBIDDEN, FORBIDDEN_FROM = 1e30, 1e29
EPS = float(np.finfo(np.float64).eps)
GROUP = 16  # entries that share one minimum in the candidate search, in a large matrix
ROWS, COLS = 64, 512  # block of rows (columns) that one work item takes
WORTH = 16  # each pass is a few operations an entry, between serial simplex calls: threads pay off late, and cost dear if shared


@helper
def _largest(x: np.ndarray) -> float:
    top = 0.0
    for t in range(len(x)):
        top = max(top, abs(x[t]))
    return top


@helper
def _insert(r: float, j: int, val: np.ndarray, idx: np.ndarray) -> None:
    """Insert (r, j) into the list of the smallest values, which is sorted."""
    t = len(val) - 1
    while t > 0 and val[t - 1] > r:
        val[t], idx[t] = val[t - 1], idx[t - 1]
        t -= 1
    val[t], idx[t] = r, j


@helper
def _groups(n: int, k: int) -> int:
    """Interleaved groups of n entries: twice as many as are asked for, or the k-th smallest minimum is a poor limit."""
    return min(n, max((n + GROUP - 1) // GROUP, 2 * k))


# ---------------------------------------------------------------------------------------------- passes over the matrix
@kernel
def _gradient(
    M: Any, A: np.ndarray, s1: np.ndarray, s2: np.ndarray, w_lin: float, w_s: float, w_A: float, G: np.ndarray
) -> float:
    n, m = G.shape
    blocks = (n + ROWS - 1) // ROWS
    top = np.zeros(blocks)
    for b in prange(blocks):
        x = 0.0
        for i in range(b * ROWS, min(n, (b + 1) * ROWS)):
            g, c = G[i], w_s * s1[i]
            if M is None:
                for j in range(m):
                    g[j] = c + w_s * s2[j] + w_A * A[i, j]
                    x = max(x, abs(g[j]))
            else:
                for j in range(m):
                    t = w_lin * M[i, j] + c + w_s * s2[j] + w_A * A[i, j]
                    allowed = M[i, j] < FORBIDDEN_FROM
                    g[j] = t if allowed else FORBIDDEN
                    x = max(x, abs(t) if allowed else 0.0)
        top[b] = x
    return _largest(top)


def fgw_gradient(
    M: Any, A: np.ndarray, s1: np.ndarray, s2: np.ndarray, w_lin: float, w_s: float, w_A: float, G: np.ndarray
) -> float:
    """G <- w_lin M + w_s (s1 1' + 1 s2') + w_A A, forbidden pairs at FORBIDDEN; returns max |G| of the others.

    M may be None: no such term. One read of each matrix.
    """
    return float(_gradient(G.size // WORTH, M, A, s1, s2, w_lin, w_s, w_A, G))


@jit
def _reduce(G: np.ndarray, top: float) -> tuple[np.ndarray, np.ndarray]:
    n, m = G.shape
    u, v = np.empty(n), np.full(m, 2.0 * top)
    for i in range(n):
        g, x = G[i], top
        for j in range(m):
            x = min(x, g[j])
        u[i] = x
        for j in range(m):
            v[j] = min(v[j], g[j] - x)
    return u, v


def lp_reduce(G: np.ndarray, top: float) -> tuple[np.ndarray, np.ndarray]:
    """Potentials to start from: u = row minima of G, v = column minima of G - u; top = max|G| caps a row of forbidden pairs."""
    return _reduce(G, top)  # type: ignore[no-any-return]


@kernel
def _column_limits(G: np.ndarray, u: np.ndarray, v: np.ndarray, k: int) -> np.ndarray:
    """k-th smallest minimum over interleaved groups of rows, so that at least k reduced costs of each column lie below."""
    n, m = G.shape
    blocks, groups = (m + COLS - 1) // COLS, _groups(n, k)
    kc, limit = min(k, groups), np.empty(m)
    for block in prange(blocks):
        j0, j1 = block * COLS, min(m, (block + 1) * COLS)
        near, best = np.full((groups, j1 - j0), np.inf), np.full((kc, j1 - j0), np.inf)
        for i in range(n):
            g, c, ui = G[i, j0:j1], near[i % groups], u[i]
            for j in range(j1 - j0):
                c[j] = min(c[j], g[j] - ui)
        for b in range(groups):
            c = near[b]
            for s in range(kc):
                d = best[s]
                for j in range(j1 - j0):
                    x, y = c[j], d[j]
                    d[j], c[j] = min(x, y), max(x, y)
        for j in range(j1 - j0):
            x = best[kc - 1, j]
            # a few roundings more: the same difference may be rounded otherwise below
            limit[j0 + j] = x - v[j0 + j] + 8e-16 * (abs(x) + abs(v[j0 + j]))
    return limit


@kernel
def _near_pairs(G: np.ndarray, u: np.ndarray, v: np.ndarray, k: int, limit: np.ndarray) -> np.ndarray:
    """Allowed pairs below the limit of their column or of their row, which is found alike."""
    n, m = G.shape
    take = np.empty((n, m), np.bool_)
    blocks, groups = (n + ROWS - 1) // ROWS, _groups(m, k)
    kr = min(k, groups)
    for block in prange(blocks):
        best, r, near, where = np.empty(groups), np.empty(m), np.empty(kr), np.empty(kr, np.int64)
        for i in range(block * ROWS, min(n, (block + 1) * ROWS)):
            g, ui, t = G[i], u[i], take[i]
            for j in range(m):
                r[j] = g[j] - ui - v[j]
            copy(r[:groups], best)
            for o in range(groups, m, groups):
                for b in range(min(groups, m - o)):
                    best[b] = min(best[b], r[o + b])
            near[:] = np.inf
            for b in range(groups):
                if best[b] < near[kr - 1]:
                    _insert(best[b], b, near, where)
            w = near[kr - 1]
            for j in range(m):
                t[j] = (r[j] <= max(limit[j], w)) & (g[j] < FORBIDDEN_FROM)
    return take


@jit
def _codes(take: np.ndarray) -> np.ndarray:
    flat = take.reshape(-1)
    count = 0
    for c in range(len(flat)):
        count += flat[c]
    codes, t = np.empty(count, np.int64), 0
    for c0 in range(0, len(flat), 32):
        c1, hit = min(c0 + 32, len(flat)), 0
        for c in range(c0, c1):
            hit += flat[c]
        if hit > 0:
            for c in range(c0, c1):
                if flat[c]:
                    codes[t] = c
                    t += 1
    return codes


def lp_candidates(G: np.ndarray, u: np.ndarray, v: np.ndarray, k: int) -> np.ndarray:
    """Sorted codes of at least the k smallest reduced costs G - u - v of every row and column, forbidden pairs left out.

    Two reads of G; about 1.3 times as many codes as k neighbours have.
    """
    limit = _column_limits(G.size // WORTH, G, u, v, k)
    return _codes(_near_pairs(G.size // WORTH, G, u, v, k, limit))  # type: ignore[no-any-return]


@jit
def nearest_rows(G: np.ndarray) -> np.ndarray:
    """Row of the smallest entry of each column."""
    best, where = G[0].copy(), np.zeros(G.shape[1], np.int64)
    for i in range(1, len(G)):
        g = G[i]
        for j in range(len(g)):
            where[j] = i if g[j] < best[j] else where[j]
            best[j] = min(best[j], g[j])
    return where


def lp_nearest(G: np.ndarray, by_row: bool) -> np.ndarray:
    """The cheapest partner of each row (or column): its column (row)."""
    return G.argmin(1) if by_row else nearest_rows(G)


# ------------------------------------------------------------------------------------------------ sums over a sparse plan
@jit
def _sums(code: np.ndarray, x: np.ndarray, M: Any, G: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, float]:
    n, m = G.shape
    mu, nu, on_M, on_G = np.zeros(n), np.zeros(m), 0.0, 0.0
    for t in range(len(code)):
        i = code[t] // m
        j = code[t] - i * m
        mu[i] += x[t]
        nu[j] += x[t]
        on_G += x[t] * G[i, j]
        if M is not None:
            on_M += x[t] * M[i, j]
    return mu, nu, on_M, on_G


def plan_sums(code: np.ndarray, x: np.ndarray, M: Any, G: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Marginals D 1 and D' 1 of a sparse plan D, <M,D> (0 without M) and <G,D>."""
    return _sums(code, x, M, G)  # type: ignore[no-any-return]


@jit
def _pairing(code: np.ndarray, x: np.ndarray, s1: np.ndarray, s2: np.ndarray, A: np.ndarray, kappa: float) -> float:
    m, y = A.shape[1], 0.0
    for t in range(len(code)):
        i = code[t] // m
        j = code[t] - i * m
        y += x[t] * (s1[i] + s2[j] + kappa * A[i, j])  # in order: vectors of gathered entries differ from caller to caller
    return y


def plan_pairing(code: np.ndarray, x: np.ndarray, s1: np.ndarray, s2: np.ndarray, A: np.ndarray, kappa: float) -> float:
    """E(T, D) = <s1 1' + 1 s2' + kappa A, D>: the bilinear form of the energy, from the products of T and the entries of D."""
    return float(_pairing(code, x, s1, s2, A, kappa))


@jit
def _changes(
    code: np.ndarray, x: np.ndarray, code0: np.ndarray, x0: np.ndarray, n: int, m: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    i, j, d = np.empty(len(x) + len(x0), np.int64), np.empty(len(x) + len(x0), np.int64), np.empty(len(x) + len(x0))
    rows, cols = np.empty(n, np.int64), np.empty(m, np.int64)
    for r in range(n):
        rows[r] = -1
    for r in range(m):
        cols[r] = -1
    drop = 4.0 * EPS * max(_largest(x), _largest(x0))
    a = b = t = 0
    while a < len(code) or b < len(code0):
        take = a < len(code) and (b >= len(code0) or code[a] <= code0[b])
        take0 = b < len(code0) and (a >= len(code) or code0[b] <= code[a])
        c, y = (code[a] if take else code0[b]), 0.0
        if take:
            y += x[a]
            a += 1
        if take0:
            y -= x0[b]
            b += 1
        if abs(y) > drop:
            i[t], j[t], d[t] = c // m, c % m, y
            rows[i[t]], cols[j[t]] = 0, 0
            t += 1
    return i[:t], j[:t], d[:t], rows, cols


def plan_changes(
    code: np.ndarray, x: np.ndarray, code0: np.ndarray, x0: np.ndarray, n: int, m: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and entries of D - D0 for sparse plans with sorted codes; changes at rounding are left out."""
    return _changes(code, x, code0, x0, n, m)[:3]  # type: ignore[no-any-return]


@jit
def add_laplacians(code: np.ndarray, x: np.ndarray, weight: float, A: np.ndarray) -> None:
    """A += weight (L D + D L') for a sparse plan D and the Laplacians L of the paths through rows and columns."""
    n, m = A.shape
    for t in range(len(code)):
        i, y = code[t] // m, weight * x[t]
        j = code[t] - i * m
        for k in (i - 1, i + 1):
            if 0 <= k < n:
                A[i, j] += y
                A[k, j] -= y
        for k in (j - 1, j + 1):
            if 0 <= k < m:
                A[i, j] += y
                A[i, k] -= y


@helper
def _mixed_rows(group: np.ndarray, row: np.ndarray, d: np.ndarray, X: np.ndarray, k: int) -> np.ndarray:
    Y = np.zeros((k, X.shape[1]))
    for t in range(len(d)):
        y, x, w = Y[group[t]], X[row[t]], d[t]
        for j in range(len(x)):
            y[j] += w * x[j]
    return Y


@jit
def _product_factors(
    code: np.ndarray, x: np.ndarray, code0: np.ndarray, x0: np.ndarray, X1: np.ndarray, X2: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    i, j, d, rows, cols = _changes(code, x, code0, x0, len(X1), len(X2))
    k = np.int64(0)  # a literal 0 would have `_mixed_rows` compiled twice
    for r in range(len(rows)):
        k += rows[r] == 0
    for c in range(len(cols)):
        k -= cols[c] == 0
    by_row = k <= 0
    kept, group, X, Y = (rows, i, X1, X2) if by_row else (cols, j, X2, X1)
    k = np.int64(0)
    for r in range(len(kept)):
        if kept[r] == 0:
            kept[r] = k
            k += 1
    for t in range(len(d)):
        group[t] = kept[group[t]]
    thick = np.empty((k, X.shape[1]))
    for r in range(len(kept)):
        if kept[r] >= 0:
            copy(X[r], thick[kept[r]])
    thin = _mixed_rows(group, j if by_row else i, d, Y, k)
    return (thick, thin) if by_row else (thin, thick)


def product_factors(
    code: np.ndarray, x: np.ndarray, code0: np.ndarray, x0: np.ndarray, X1: np.ndarray, X2: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Factors L (r, n), R (r, m) with L' R = X1' (D - D0) X2 for sparse plans D, D0 with sorted codes.

    r is the number of rows, or of columns if those are fewer, in which D and D0 differ by more than rounding.
    """
    return _product_factors(code, x, code0, x0, X1, X2)  # type: ignore[no-any-return]


@jit
def _square_matvec(C: np.ndarray, x: np.ndarray) -> np.ndarray:
    y = np.empty(len(C))
    for i in range(len(C)):
        c, t = C[i], 0.0
        for k in range(len(x)):
            t = add(t, c[k] * c[k] * x[k])
        y[i] = t
    return y


def square_matvec(C: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(C*C) x, elementwise square; one read of C."""
    return _square_matvec(C, x)  # type: ignore[no-any-return]


@kernel
def _plan_energy(i: np.ndarray, j: np.ndarray, x: np.ndarray, C1: np.ndarray, C2: np.ndarray) -> float:
    k = len(x)
    part = np.zeros(k)
    for a in prange(k):
        c1, c2, y = C1[i[a]], C2[j[a]], 0.0
        for b in range(k):
            e = c1[i[b]] - c2[j[b]]
            y = add(y, x[b] * (e * e))
        part[a] = y * x[a]
    energy = 0.0  # not part.sum(): Numba makes that a parallel sum, whose order depends on the threads
    for a in range(k):
        energy += part[a]
    return energy


def plan_energy(i: np.ndarray, j: np.ndarray, x: np.ndarray, C1: np.ndarray, C2: np.ndarray) -> float:
    """E(T) = sum_ab (C1[i_a, i_b] - C2[j_a, j_b])^2 x_a x_b by its definition: no cancellation, O(k^2) for k entries."""
    return float(_plan_energy(len(x) * len(x) // WORTH, i, j, x, C1, C2))


# ---------------------------------------------------------------------------------------------------- the active set
@jit
def _active_weights(H: np.ndarray, c: np.ndarray, w: np.ndarray, tol: float, max_steps: int) -> np.ndarray:
    w = w.copy()
    g = c + 2.0 * (H @ w)
    for _ in range(max_steps):
        hi, lo = -1, 0
        for s in range(len(w)):
            if w[s] > 0.0 and (hi < 0 or g[s] > g[hi]):
                hi = s
            if g[s] < g[lo]:
                lo = s
        slope = g[hi] - g[lo]
        if slope <= tol:
            break
        curvature = H[hi, hi] - H[hi, lo] - H[lo, hi] + H[lo, lo]
        step = w[hi] if 2.0 * curvature * w[hi] <= slope else slope / (2.0 * curvature)
        w[lo] += step
        w[hi] = 0.0 if step == w[hi] else w[hi] - step
        g += 2.0 * step * (H[:, lo] - H[:, hi])
    return w


def active_weights(H: np.ndarray, c: np.ndarray, w: np.ndarray, tol: float, max_steps: int) -> np.ndarray:
    """Weights that lower c.w + w'Hw over the simplex by pairwise steps with exact line search, until <g, away - to> <= tol."""
    return _active_weights(H, c, w, tol, max_steps)  # type: ignore[no-any-return]
