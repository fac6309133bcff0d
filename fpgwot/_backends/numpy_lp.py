"""The primitives of the exact solver in plain NumPy: the same names and meaning as the compiled ones, written for reading."""

from __future__ import annotations

import numpy as np

FORBIDDEN, FORBIDDEN_FROM = 1e30, 1e29
EPS = float(np.finfo(np.float64).eps)


def fgw_gradient(
    M: np.ndarray | None, A: np.ndarray, s1: np.ndarray, s2: np.ndarray, w_lin: float, w_quad: float, G: np.ndarray
) -> float:
    """G <- w_lin M + 2 w_quad (s1 1' + 1 s2' - 2A), forbidden pairs at FORBIDDEN; returns max |G| of the others."""
    allowed = np.ones(G.shape, bool) if M is None else M < FORBIDDEN_FROM
    G[:] = 2 * w_quad * (s1[:, None] + s2 - 2 * A) + (0.0 if M is None else w_lin * M)
    G[~allowed] = FORBIDDEN
    return float(np.abs(G[allowed]).max(initial=0.0))


def lp_reduce(G: np.ndarray, top: float) -> tuple[np.ndarray, np.ndarray]:
    """Potentials to start from: u = row minima of G, v = column minima of G - u; top = max|G| caps a row of forbidden pairs."""
    u = np.minimum(G.min(1), top)
    return u, np.minimum((G - u[:, None]).min(0), 2 * top)


def lp_candidates(G: np.ndarray, u: np.ndarray, v: np.ndarray, k: int, extra: np.ndarray) -> np.ndarray:
    """Sorted codes i*m + j of the k smallest reduced costs G - u - v of every row and column, and of all `extra`."""
    n, m = G.shape
    r = G - u[:, None] - v
    rows, cols = np.argsort(r, 1)[:, :k], np.argsort(r, 0)[:k]
    codes = np.concatenate(((np.arange(n)[:, None] * m + rows).ravel(), (cols * m + np.arange(m)).ravel()))
    return np.union1d(codes[G.ravel()[codes] < FORBIDDEN_FROM], extra)


def lp_violated(G: np.ndarray, u: np.ndarray, v: np.ndarray, k: int, limit: float) -> tuple[np.ndarray, float]:
    """Sorted codes of the k nearest allowed pairs of each row with a reduced cost below `limit`; the smallest one, or 0."""
    r = G - v - u[:, None]
    rows = np.flatnonzero(r.min(1) < limit)
    codes = np.sort((rows[:, None] * G.shape[1] + np.argsort(r[rows], 1, kind="stable")[:, :k]).ravel())
    return codes[G.ravel()[codes] < FORBIDDEN_FROM], float(min(r.min(), 0.0))


def lp_arcs(
    G: np.ndarray, codes: np.ndarray, rows: np.ndarray, cols: np.ndarray, wall: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Arcs of a linear program: sorted pairs at their cost, at most `wall`, then dummy arcs (rows, cols) at cost zero."""
    i, j = np.divmod(codes, G.shape[1])
    cost = np.concatenate((np.minimum(G[i, j], wall), np.zeros(len(rows))))
    return np.concatenate((i, rows)).astype(np.uint64), np.concatenate((j, cols)).astype(np.uint64), cost


def lp_flow(i: np.ndarray, j: np.ndarray, x: np.ndarray, n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted codes and entries of the flow between real points (i < n, j < m)."""
    real = (i < n) & (j < m) & (x > 0)
    code = i[real].astype(np.int64) * m + j[real].astype(np.int64)
    order = np.argsort(code)
    return code[order], x[real][order]


def plan_sums(
    code: np.ndarray, x: np.ndarray, M: np.ndarray | None, G: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Marginals D 1 and D' 1 of a sparse plan D, <M,D> (0 without M) and <G,D>."""
    (n, m), (i, j) = G.shape, np.divmod(code, G.shape[1])
    on_M = 0.0 if M is None else float(x @ M[i, j])
    return np.bincount(i, x, n), np.bincount(j, x, m), on_M, float(x @ G[i, j])


def plan_pairing(code: np.ndarray, x: np.ndarray, s1: np.ndarray, s2: np.ndarray, A: np.ndarray) -> float:
    """E(T, D) = <s1 1' + 1 s2' - 2A, D>: the bilinear form of the energy, from the products of T and the entries of D."""
    i, j = np.divmod(code, A.shape[1])
    return float(x @ (s1[i] + s2[j] - 2 * A[i, j]))


def product_factors(
    code: np.ndarray, x: np.ndarray, code0: np.ndarray, x0: np.ndarray, X1: np.ndarray, X2: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Factors L (r, n), R (r, m) with L' R = X1' (D - D0) X2 for sparse plans D, D0; changes at rounding are left out."""
    S = np.zeros((len(X1), len(X2)))
    S.flat[code] += x
    S.flat[code0] -= x0
    S[np.abs(S) <= 4 * EPS * max(np.abs(x).max(), np.abs(x0).max(initial=0.0))] = 0.0
    rows, cols = np.flatnonzero(S.any(1)), np.flatnonzero(S.any(0))
    return (X1[rows], S[rows] @ X2) if len(rows) <= len(cols) else (S[:, cols].T @ X1, X2[cols])


def square_matvec(C: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(C*C) x, elementwise square."""
    return (C * C) @ x


def plan_energy(i: np.ndarray, j: np.ndarray, x: np.ndarray, C1: np.ndarray, C2: np.ndarray) -> float:
    """E(T) = sum_ab (C1[i_a, i_b] - C2[j_a, j_b])^2 x_a x_b by its definition."""
    return float(x @ (C1[np.ix_(i, i)] - C2[np.ix_(j, j)]) ** 2 @ x)


def active_weights(H: np.ndarray, c: np.ndarray, w: np.ndarray, tol: float, max_steps: int) -> np.ndarray:
    """Weights that lower c.w + w'Hw over the simplex by pairwise steps with exact line search, until <g, away - to> <= tol."""
    w = w.copy()
    for _ in range(max_steps):
        g = c + 2 * H @ w
        hi, lo = int(np.argmax(np.where(w > 0, g, -np.inf))), int(np.argmin(g))
        slope = g[hi] - g[lo]
        if slope <= tol:
            break
        curvature = H[hi, hi] - 2 * H[hi, lo] + H[lo, lo]
        step = w[hi] if 2 * curvature * w[hi] <= slope else slope / (2 * curvature)
        w[lo] += step
        w[hi] = 0.0 if step == w[hi] else w[hi] - step
    return w
