"""The primitives of the exact solver in plain NumPy: the same names and meaning as the compiled ones, written for reading."""

from __future__ import annotations

import numpy as np

from .network_simplex import sparse_lp

FORBIDDEN, FORBIDDEN_FROM = 1e30, 1e29
EPS = float(np.finfo(np.float64).eps)


def fgw_gradient(
    M: np.ndarray | None, A: np.ndarray, s1: np.ndarray, s2: np.ndarray, w_lin: float, w_s: float, w_A: float, G: np.ndarray
) -> float:
    """G <- w_lin M + w_s (s1 1' + 1 s2') + w_A A, forbidden pairs at FORBIDDEN; returns max |G| of the others."""
    allowed = np.ones(G.shape, bool) if M is None else M < FORBIDDEN_FROM
    G[:] = w_s * (s1[:, None] + s2) + w_A * A + (0.0 if M is None else w_lin * M)
    G[~allowed] = FORBIDDEN
    return float(np.abs(G[allowed]).max(initial=0.0))


def lp_basis(
    p: np.ndarray, q: np.ndarray, mass: float, spare_p: bool, spare_q: bool, corner: bool
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Supplies and demands with their dummies: T1 <= p where `spare_p`, else T1 = p; T'1 alike; any mass with `corner`."""
    if corner:
        return np.append(p, q.sum()), np.append(q, p.sum()), True
    if spare_q:
        p = np.append(p, q.sum() - (mass if spare_p else p.sum()))
    if spare_p:
        q = np.append(q, p[: len(p) - spare_q].sum() - (mass if spare_q else q.sum()))
    return p, q * (p.sum() / q.sum()), False


def lp_solve(
    basis: tuple[np.ndarray, np.ndarray, bool], G: np.ndarray, top: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float, float, int]:
    """min <G,T> by POT's network simplex on all arcs; returns what the compiled one does, with no use of earlier calls."""
    (a, b, corner), (n, m) = basis, G.shape
    wall = 2.0 * (len(a) + len(b) + 2) * top + 1.0
    cost = np.zeros((len(a), len(b)))
    cost[:n, :m] = np.minimum(G, wall)
    arcs = np.ones(cost.shape, bool)
    if len(a) > n and len(b) > m:
        arcs[n, m] = corner
    i, j = np.nonzero(arcs)
    r, c, x, u, v = sparse_lp(a, b, i.astype(np.uint64), j.astype(np.uint64), cost[i, j])
    real = (r < n) & (c < m) & (x > 0)
    code = (r[real] * np.uint64(m) + c[real]).astype(np.int64)
    order = np.argsort(code)
    low = float(min((cost - u[:, None] - v)[arcs].min(), 0.0))
    limit = -4.0 * EPS * (len(a) + len(b)) * (wall if (G >= FORBIDDEN_FROM).any() else top)
    return code[order], x[real][order], u, v, low, limit, 1


def lp_nearest(G: np.ndarray, by_row: bool) -> np.ndarray:
    """The cheapest partner of each row (or column): its column (row)."""
    return G.argmin(1 if by_row else 0)


def plan_sums(
    code: np.ndarray, x: np.ndarray, M: np.ndarray | None, G: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Marginals D 1 and D' 1 of a sparse plan D, <M,D> (0 without M) and <G,D>."""
    (n, m), (i, j) = G.shape, np.divmod(code, G.shape[1])
    on_M = 0.0 if M is None else float(x @ M[i, j])
    return np.bincount(i, x, n), np.bincount(j, x, m), on_M, float(x @ G[i, j])


def plan_pairing(code: np.ndarray, x: np.ndarray, s1: np.ndarray, s2: np.ndarray, A: np.ndarray, kappa: float) -> float:
    """E(T, D) = <s1 1' + 1 s2' + kappa A, D>: the bilinear form of the energy, from the products of T and the entries of D."""
    i, j = np.divmod(code, A.shape[1])
    return float(x @ (s1[i] + s2[j] + kappa * A[i, j]))


def plan_changes(
    code: np.ndarray, x: np.ndarray, code0: np.ndarray, x0: np.ndarray, n: int, m: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and entries of D - D0 for sparse plans; changes at rounding are left out."""
    S = np.zeros(n * m)
    S[code] += x
    S[code0] -= x0
    kept = np.flatnonzero(np.abs(S) > 4 * EPS * max(np.abs(x).max(initial=0.0), np.abs(x0).max(initial=0.0)))
    return kept // m, kept % m, S[kept]


def add_laplacians(code: np.ndarray, x: np.ndarray, weight: float, A: np.ndarray) -> None:
    """A += weight (L D + D L') for a sparse plan D and the Laplacians L of the paths through rows and columns."""
    D = np.zeros(A.shape)
    D.flat[code] = weight * x
    rows, cols = np.diff(D, axis=0), np.diff(D, axis=1)
    A[:-1] -= rows
    A[1:] += rows
    A[:, :-1] -= cols
    A[:, 1:] += cols


def product_factors(
    code: np.ndarray, x: np.ndarray, code0: np.ndarray, x0: np.ndarray, X1: np.ndarray, X2: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Factors L (r, n), R (r, m) with L' R = X1' (D - D0) X2 for sparse plans D, D0; changes at rounding are left out."""
    S = np.zeros((len(X1), len(X2)))
    i, j, d = plan_changes(code, x, code0, x0, *S.shape)
    S[i, j] = d
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


descend = None  # the compiled loop of the small problems has no twin: what it does is `_solvers.frank_wolfe`
