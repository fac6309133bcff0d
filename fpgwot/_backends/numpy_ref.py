"""Every primitive of `_protocol` in a few lines of NumPy: for reading, and the oracle of the other backends.

Public as backend="numpy". It loops over the problems of a batch and allocates freely; it is not meant to be fast.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from . import _protocol as ix
from . import inner
from ._protocol import BEND, BIAS, BREG, CROSS, DRIFT, ENT, FIXED, FORBIDDEN_FROM, JUMP, KL, LIN, MEMORY, STEP, SUMS, Scaling
from .numpy_lp import (  # noqa: F401
    active_weights,
    add_laplacians,
    descend,
    fgw_gradient,
    lp_basis,
    lp_nearest,
    lp_solve,
    plan_changes,
    plan_energy,
    plan_pairing,
    plan_sums,
    product_factors,
    square_matvec,
)
from .numpy_structured import decay_matmul, power_matmul, toeplitz_matmul  # noqa: F401
from .numpy_whole import is_distance, is_finite, is_toeplitz, outer, plan_marginals, rounded_change  # noqa: F401

name = "numpy"
xp = np
matmul = np.matmul
host = np.asarray
factors = foresees = True
scans = False
divergences = None  # `gradient` has them
TINY = 1e-300


def compiled(function: Callable[..., Any], *helpers: Callable[..., Any]) -> Callable[..., Any]:
    """Plain code over the numbers of each problem, left to the interpreter."""
    return function


def borrow(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array with anything in it."""
    return np.empty(shape, dtype)


def give_back(arrays: Iterable[np.ndarray]) -> None:
    """Nothing is kept here."""


def _problems(s: Scaling, on: np.ndarray) -> Iterator[tuple[int, slice, slice]]:
    for b in np.flatnonzero(on):
        yield int(b), slice(s.size[b, 0]), slice(s.size[b, 1])


def _rho(s: Scaling, b: int, side: int) -> tuple[float, float]:
    """tau/eps and the exponent tau/(tau + eps) of a side."""
    t = s.vals[b, (ix.TAU1, ix.TAU2)[side]] / s.vals[b, ix.EPS]
    return t, (1.0 if np.isinf(t) else t / (1 + t))


def _update(log_weight: Any, lse: Any, potential: Any, rho: float, cap: float) -> Any:
    """Change of a potential whose kernel sum (with the potential in it) is exp(lse)."""
    if rho == 1.0:
        return np.minimum(log_weight - lse, cap - potential)
    return np.minimum(rho * (log_weight - lse + potential), cap) - potential


def gradient(A, M, bias, T, T0, L, s: Scaling, r, c, wl, wq, first, on, ahead=None) -> np.ndarray:  # type: ignore[no-untyped-def]
    """G = wl M + bias + r 1' + 1 c' - 4 wq A in place of A, with the sums LIN ... JUMP of `_protocol`; `ahead`: see there."""
    out = np.zeros((len(A), SUMS))
    for b, i, j in _problems(s, on):
        t, o = T[b, i, j].astype(float), out[b]
        G = r[b, i, None] + c[b, None, j] - 4 * wq[b] * A[b, i, j]
        o[CROSS] = np.sum(A[b, i, j] * t)
        if M is not None:
            G, o[LIN] = G + wl[b] * M[b % len(M), i, j], np.sum(M[b % len(M), i, j] * t)
        if bias is not None:
            G, o[BIAS] = G + bias[b % len(bias), i, j], np.sum(bias[b % len(bias), i, j] * t)
        A[b, i, j] = G
        if first[b]:  # there is no T0 yet
            o[ENT] = np.sum(t * np.log(np.where(t > 0, t, 1)))
        else:
            pot, t0 = s.rows[b, ix.F, i, None] + s.cols[b, ix.G, None, j] + s.cols[b, ix.G, -1], T0[b, i, j].astype(float)
            log_t, d = pot - L[b, i, j] / s.vals[b, ix.EPS], t - t0
            ratio = log_t - np.log(np.maximum(t0, TINY))
            o[ENT] = np.sum(t * np.where(t > 0, log_t, 0))
            new = np.exp(np.minimum(pot - A[b, i, j] / s.vals[b, ix.EPS], 50))
            o[FIXED] = np.sum(np.abs(new - t))
            if ahead is not None:
                ahead[b, i, j] = new
                lse, f = np.log(np.maximum(new.sum(1), TINY)), s.rows[b, ix.F, i]
                jump = _update(s.rows[b, ix.LOG_P, i], lse, f, _rho(s, b, 0)[1], s.vals[b, ix.CAP1])
                o[JUMP] = np.abs(jump).max(initial=0.0)
            o[BEND] = np.sum((A[b, i, j] - L[b, i, j]) * d)
            o[BREG] = np.sum(d * np.where(d != 0, ratio, 0))
            o[KL] = np.sum(t - t0 - t0 * np.where(t0 > 0, ratio, 0))
    return out


def marginal_sums(mu, nu, mu0, nu0, s1, s2, r, c, s: Scaling) -> np.ndarray:  # type: ignore[no-untyped-def]
    """The sums TOTAL ... LACK of `_protocol` over the marginals of T and T0."""
    out = np.zeros((len(mu), ix.MARGINAL_SUMS))
    for b, i, j in _problems(s, np.ones(len(mu), bool)):
        o, lack = out[b], s.cols[b, ix.GRAD, j]
        o[ix.TOTAL] = mu[b, i].sum()
        o[ix.REFERENCE] = r[b, i] @ mu[b, i] + c[b, j] @ nu[b, j]
        o[ix.SQUARES] = 0.0 if s1 is None else s1[b, i] @ mu[b, i] + s2[b, j] @ nu[b, j]
        sides = ((mu[b, i], mu0[b, i], s.rows[b, ix.P, i], ix.TAU1), (nu[b, j], nu0[b, j], s.cols[b, ix.Q, j], ix.TAU2))
        for x, x0, weight, which in sides:
            tau = s.vals[b, which]
            if 0 < tau < np.inf:
                log_x, log_0, log_w = (np.log(np.maximum(z, TINY)) for z in (x, x0, weight))
                o[ix.PRICE] += tau * np.sum(x * (log_x - log_w) - x + weight)
                o[ix.BOTH] += tau * np.sum((x - x0) * (log_x - log_0))
                o[ix.FORWARD] += tau * np.sum(x - x0 - x0 * (log_x - log_0))
        if np.isinf(s.vals[b, ix.TAU2]):
            o[ix.LACK] = s.cols[b, ix.G, j] @ lack
        if np.isfinite(s.cols[b, ix.Q, -1]):
            o[ix.LACK] += s.cols[b, ix.G, -1] * s.cols[b, ix.GRAD, -1]
    return out


def roughness(T: np.ndarray, G: np.ndarray, weight: np.ndarray, size: np.ndarray, on: np.ndarray) -> np.ndarray:
    """G += weight (L T + T L') with the Laplacians L of the paths through rows and columns; returns <T, L T + T L'>."""
    out = np.zeros(len(T))
    for b in np.flatnonzero(on):
        i, j = slice(size[b, 0]), slice(size[b, 1])
        t = T[b, i, j].astype(float)
        rows, cols = np.diff(t, axis=0), np.diff(t, axis=1)
        D = np.zeros_like(t)
        D[:-1] -= rows
        D[1:] += rows
        D[:, :-1] -= cols
        D[:, 1:] += cols
        G[b, i, j] += weight[b] * D
        out[b] = np.sum(D * t)
    return out


def spread(G: np.ndarray, s: Scaling) -> np.ndarray:
    """Mean over the rows of (mean - minimum) of the allowed entries of G."""
    out = np.zeros(len(G))
    for b, (n, m) in enumerate(s.size):
        rows = [row[row < FORBIDDEN_FROM] for row in G[b, :n, :m].astype(float)]
        out[b] = np.sum([row.mean() - row.min() for row in rows if row.size]) / max(n, 1)
    return out


def column_logsums(L: np.ndarray, s: Scaling, on: np.ndarray) -> np.ndarray:
    """log sum_i exp(f_i + g_j + h - L_ij/eps) for every column."""
    out = np.zeros((L.shape[0], L.shape[2]))
    for b, i, j in _problems(s, on):
        out[b, j] = np.logaddexp.reduce(
            s.rows[b, ix.F, i, None] + s.cols[b, ix.G, None, j] + s.cols[b, ix.G, -1] - L[b, i, j] / s.vals[b, ix.EPS], axis=0
        )
    return out


def kernel(L, G, T, T0, s: Scaling, beta, fresh, on, moved=False) -> None:  # type: ignore[no-untyped-def]
    """L += beta (G - L), T0 += beta (T - T0) (fresh: L = G, T0 = T), then K = exp(f + g + h - L/eps) in place of T.

    `moved`: L and T0 have been moved.
    """
    for b, i, j in _problems(s, on):
        weight = 1.0 if fresh[b] else beta[b]
        if not moved:
            L[b, i, j] = G[b, i, j] if weight == 1 else L[b, i, j] + weight * (G[b, i, j] - L[b, i, j])
            step = T0[b, i, j] + weight * (T[b, i, j] - T0[b, i, j])
            T0[b, i, j] = T[b, i, j] if weight == 1 else np.maximum(step, 0)  # a long step may pass 0
        A = s.rows[b, ix.F, i, None] + s.cols[b, ix.G, None, j] + s.cols[b, ix.G, -1] - L[b, i, j] / s.vals[b, ix.EPS]
        change = _update(
            s.rows[b, ix.LOG_P, i], np.logaddexp.reduce(A, axis=1), s.rows[b, ix.F, i], _rho(s, b, 0)[1], s.vals[b, ix.CAP1]
        )
        T[b, i, j] = np.exp(np.minimum(A + change[:, None], DRIFT))
        s.rows[b, ix.F, i] += change
        s.cols[b, ix.Y] = 0.0


def sweep(K: np.ndarray, s: Scaling, on: np.ndarray) -> None:
    """Rows exact, then column sums: e, lu, row, col, image, grad and out of `Scaling`."""
    for b, i, j in _problems(s, on):
        k, p, q, yh, fixed = (
            K[b, i, j].astype(float),
            s.rows[b, ix.P, i],
            s.cols[b, ix.Q, j],
            s.cols[b, ix.Y, -1],
            np.isfinite(s.cols[b, ix.Q, -1]),
        )
        (t1, rho1), (t2, rho2), (cap1, cap2) = _rho(s, b, 0), _rho(s, b, 1), s.vals[b, [ix.CAP1, ix.CAP2]]
        v = np.exp(s.cols[b, ix.Y, j])
        kv = np.maximum(k @ v, TINY)
        exact = _update(s.rows[b, ix.LOG_P, i], np.log(kv) + yh, s.rows[b, ix.F, i], rho1, cap1)
        lu = np.minimum(exact, DRIFT - yh)
        e = np.exp(lu + yh)
        ku = np.maximum(e @ k, TINY)
        row, col, F, G = e * kv, ku * v, s.rows[b, ix.F, i] + lu, s.cols[b, ix.G, j] + s.cols[b, ix.Y, j]
        y = np.minimum(_update(s.cols[b, ix.LOG_Q, j], np.log(ku), s.cols[b, ix.G, j], rho2, cap2), DRIFT)
        s.v[b, j], s.rows[b, ix.LU, i], s.rows[b, ix.E, i], s.rows[b, ix.ROW, i], s.cols[b, ix.COL, j], s.cols[b, ix.IMAGE, j] = (
            v,
            lu,
            e,
            row,
            col,
            y,
        )
        mass = row.sum()
        res = np.abs(p - row)[(exact > lu) & (lu < cap1 - s.rows[b, ix.F, i])].sum() if np.isinf(t1) else 0.0
        phi = _dual(F, p, t1) + _dual(G, q, t2) - mass
        grad = q - col if np.isinf(t2) else q * np.exp(-G / t2) - col if t2 > 0 else np.zeros_like(q)
        viol = np.max((-grad if np.isfinite(cap2) else np.abs(grad)) / q, initial=0.0) if np.isinf(t2) else 0.0
        if np.isfinite(cap2):
            res += np.sum(np.abs(np.minimum(0, G + grad / np.maximum(col, TINY)) - G) * col)
        else:
            res += np.abs(grad).sum()
        s.cols[b, ix.GRAD, j], s.cols[b, ix.GRAD, -1], s.cols[b, ix.IMAGE, -1] = grad, 0.0, 0.0
        if fixed:
            s.cols[b, ix.IMAGE, -1] = np.log(s.cols[b, ix.Q, -1]) - np.log(max(np.sum(ku * np.exp(y - yh)), TINY))
            s.cols[b, ix.GRAD, -1] = s.cols[b, ix.Q, -1] - mass
            phi += s.cols[b, ix.Q, -1] * (s.cols[b, ix.G, -1] + yh)
            res, viol = res + abs(s.cols[b, ix.GRAD, -1]), max(viol, abs(s.cols[b, ix.GRAD, -1]) / s.cols[b, ix.Q, -1])
        s.vals[b, [ix.PHI, ix.RES, ix.VIOL, ix.MASS]] = phi, res, max(viol, 0.0), mass


def _dual(potential: np.ndarray, weight: np.ndarray, t: float) -> float:
    """Dual price of a side: <weight, potential> where hard, -t <weight, exp(-potential/t) - 1> for a KL price."""
    return float(weight @ potential if np.isinf(t) else -t * (weight @ np.expm1(-potential / t)) if t > 0 else 0.0)


def _set_y(s: Scaling, b: int, y: np.ndarray, j: slice) -> None:
    s.cols[b, ix.Y, j] = np.clip(np.minimum(y[j], s.vals[b, ix.CAP2] - s.cols[b, ix.G, j]), -DRIFT, DRIFT)
    s.cols[b, ix.Y, -1] = np.clip(y[-1], -DRIFT, DRIFT)


def anderson(s: Scaling, restart: np.ndarray, on: np.ndarray) -> None:
    """y <- combination of the last images with least residual; `restart` keeps the newest image only and takes it."""
    for b, _, j in _problems(s, on):
        X, R, k = s.hist[b, 0], s.hist[b, 1], int(s.vals[b, ix.USED])
        if k < 0:  # images of the last kernel: what counts is how they differ, so the newest of them moves to this one's place
            k = -k - 1
            X[:k] += s.cols[b, ix.IMAGE] - X[k]
            R[:k] += s.cols[b, ix.IMAGE] - s.cols[b, ix.Y] - R[k]
        if restart[b]:
            X[0], R[0], s.vals[b, ix.USED] = X[k - 1], R[k - 1], 1
            _set_y(s, b, X[0], j)
            continue
        if k == MEMORY + 1:
            X[:-1], R[:-1], k = X[1:].copy(), R[1:].copy(), k - 1
        X[k], R[k], s.vals[b, ix.USED] = s.cols[b, ix.IMAGE], s.cols[b, ix.IMAGE] - s.cols[b, ix.Y], k + 1
        D = R[k] - R[:k]
        gram = D @ D.T
        weights = np.linalg.solve(gram + (1e-10 * np.trace(gram) + TINY) * np.eye(k), D @ R[k])
        weights = weights if np.abs(weights).sum() < 1e3 else np.zeros(k)
        _set_y(s, b, X[k] - weights @ (X[k] - X[:k]), j)


def newton(K: np.ndarray, s: Scaling, on: np.ndarray) -> None:
    """Newton system at the swept point: free rows w, free columns dc, diagonal preconditioner, right-hand side, direction."""
    for b, i, j in _problems(s, on):
        (t1, _), (t2, _), fixed = _rho(s, b, 0), _rho(s, b, 1), np.isfinite(s.cols[b, ix.Q, -1])
        T = s.rows[b, ix.E, i, None] * K[b, i, j] * s.v[b, None, j].astype(float)
        row, col, F, G, grad = (
            s.rows[b, ix.ROW, i],
            s.cols[b, ix.COL, j],
            s.rows[b, ix.F, i] + s.rows[b, ix.LU, i],
            s.cols[b, ix.G, j] + s.cols[b, ix.Y, j],
            s.cols[b, ix.GRAD, j],
        )
        # a potential at its cap is held by it, and one that has drifted as far as it may stays
        free_rows = (t1 > 0) & ((-ix.AT_CAP if s.vals[b, ix.CAP1] == 0 else np.inf) > F)
        w = np.where(free_rows, 1 / (np.maximum(row, TINY) * (1 + 1 / max(t1, TINY))), 0.0)
        d = col if np.isinf(t2) else col + (grad + col) / t2 if t2 > 0 else np.zeros_like(col)
        held = (-ix.AT_CAP <= G) & (grad > 0) if s.vals[b, ix.CAP2] == 0 else np.zeros(len(col), bool)
        d = np.where(held | (abs(s.cols[b, ix.Y, j]) >= ix.DRIFT), 0.0, d)
        shift = 0.03 * min(1.0, s.vals[b, ix.RES] / max(s.vals[b, ix.MASS], TINY))
        rhs = np.append(np.where(d > 0, grad, 0.0), s.cols[b, ix.GRAD, -1])
        pre = np.append(d * (1 + shift) - w @ T**2, s.vals[b, ix.MASS] * (1 + shift) - w @ row**2)
        pre = np.maximum(pre, 1e-6 * np.append(d, s.vals[b, ix.MASS]))
        if np.isinf([t1, t2, s.vals[b, ix.CAP1], s.vals[b, ix.CAP2]]).all() and not fixed and d.sum() > 0:
            rhs[:-1] -= d * (rhs[:-1].sum() / d.sum())
        jm = np.append(np.arange(j.stop), -1)
        z = _precondition(s, b, jm, rhs, pre, d)
        (
            s.rows[b, ix.W, i],
            s.rows[b, ix.F0, i],
            s.cols[b, ix.DIAG, j],
            s.cols[b, ix.PRE, jm],
            s.cols[b, ix.CG_X, jm],
            s.cols[b, ix.CG_R, jm],
            s.cols[b, ix.CG_D, jm],
        ) = w, F, d, pre, 0.0, rhs, z
        s.vals[b, [ix.RZ, ix.NORM, ix.SHIFT, ix.DONE]] = rhs @ z, np.abs(rhs).sum(), shift, float(not np.any(rhs))
        s.vals[b, ix.STEPS] = 0.0
        s.cols[b, ix.Y0], s.cols[b, ix.GRAD0] = s.cols[b, ix.Y], s.cols[b, ix.GRAD]


def _precondition(s: Scaling, b: int, jm: np.ndarray, r: np.ndarray, pre: np.ndarray, d: np.ndarray) -> np.ndarray:
    """r over the diagonal preconditioner, or through the Cholesky factor of an earlier Newton system.

    The factor is that of a system scaled to a diagonal of one; the diagonal of the system at hand scales it back.
    """
    z, k = np.divide(r, pre, out=np.zeros_like(r), where=r != 0), int(s.vals[b, ix.FACTORED])
    if k:
        diag, seat = np.append(d, s.vals[b, ix.MASS]), s.cols[b, ix.SEAT, jm].astype(int)
        scale = np.divide(1.0, np.sqrt(diag), out=np.zeros_like(diag), where=diag > 0)[seat > 0]
        upper = s.factor[b, :k, :k].astype(float)
        z[seat > 0] = scale * np.linalg.solve(upper.T @ upper, scale * r[seat > 0])
    return z


def factor(K: np.ndarray, s: Scaling, on: np.ndarray) -> np.ndarray:
    """Cholesky factors of the Newton systems that `newton` has set up, and the first direction through them.

    Returns the columns of a full system whose factor would cost as much, 0 where none was built.
    """
    built = np.zeros(len(on), int)
    for b, i, j in _problems(s, on):
        jm, (n, m) = np.append(np.arange(j.stop), -1), K.shape[1:]
        diag = np.append(s.cols[b, ix.DIAG, j], s.vals[b, ix.MASS] if np.isfinite(s.cols[b, ix.Q, -1]) else 0.0)
        T = s.rows[b, ix.E, i, None] * K[b, i, j] * s.v[b, None, j].astype(float)
        w, T = s.rows[b, ix.W, i], np.column_stack([T, s.rows[b, ix.ROW, i]])
        H = -T.T @ (w[:, None] * T)
        H[-1, :-1] += s.cols[b, ix.COL, j]  # eigvalsh and cholesky read the lower half
        seats = diag > 0
        H = (H / np.sqrt(np.outer(diag, diag), where=np.outer(seats, seats), out=np.ones_like(H)))[np.ix_(seats, seats)]
        H[np.diag_indices_from(H)] += 1 + s.vals[b, ix.SHIFT] + ix.RIDGE
        k, s.vals[b, ix.FACTORED] = len(H), 0.0
        if not (s.factor.size and k) or np.linalg.eigvalsh(H).min() <= 0:
            continue
        s.factor[b, :k, :k] = np.linalg.cholesky(H).T
        s.cols[b, ix.SEAT, jm] = np.cumsum(seats) * seats
        s.vals[b, ix.FACTORED], built[b] = k, max(np.count_nonzero(w) * k**2 // (n * m), 1)
        rhs = s.cols[b, ix.CG_R, jm]
        z = _precondition(s, b, jm, rhs, s.cols[b, ix.PRE, jm], s.cols[b, ix.DIAG, j])
        s.cols[b, ix.CG_D, jm], s.vals[b, ix.RZ] = z, rhs @ z
    return built


def cg(K: np.ndarray, s: Scaling, stop: float, on: np.ndarray) -> None:
    """One conjugate gradient step on (D + shift - T' w T) x = grad; DONE = 1 where the residual fell by `stop`."""
    for b, i, j in _problems(s, on & (s.vals[:, ix.DONE] == 0)):
        jm = np.append(np.arange(j.stop), -1)
        T = s.rows[b, ix.E, i, None] * K[b, i, j] * s.v[b, None, j].astype(float)
        rz, norm, shift = s.vals[b, [ix.RZ, ix.NORM, ix.SHIFT]]
        x, r, d, pre = s.cols[b, ix.CG_X, jm], s.cols[b, ix.CG_R, jm], s.cols[b, ix.CG_D, jm], s.cols[b, ix.PRE, jm]
        fixed, free = np.isfinite(s.cols[b, ix.Q, -1]), s.cols[b, ix.DIAG, j] > 0
        dg, dh = np.where(free, d[:-1], 0.0), d[-1]
        t = s.rows[b, ix.W, i] * (T @ dg + s.rows[b, ix.ROW, i] * dh)
        product = np.where(free, s.cols[b, ix.DIAG, j] * dg * (1 + shift) - T.T @ t + fixed * s.cols[b, ix.COL, j] * dh, 0.0)
        bottom = s.cols[b, ix.COL, j] @ dg + s.vals[b, ix.MASS] * dh * (1 + shift) - s.rows[b, ix.ROW, i] @ t if fixed else 0.0
        product = np.append(product, bottom)
        curve = product @ d
        a = rz / curve if curve > TINY else 0.0  # flat up to rounding: no step
        x, r = x + a * d, r - a * product
        z = _precondition(s, b, jm, r, pre, s.cols[b, ix.DIAG, j])
        s.cols[b, ix.CG_X, jm], s.cols[b, ix.CG_R, jm], s.cols[b, ix.CG_D, jm] = x, r, z + (r @ z) / max(rz, TINY) * d
        s.vals[b, ix.RZ], s.vals[b, ix.STEPS] = r @ z, s.vals[b, ix.STEPS] + 1
        if np.abs(r).sum() < stop * norm or not curve > 0:
            s.vals[b, ix.DONE] = 1.0


def trial(s: Scaling, a: np.ndarray, on: np.ndarray) -> None:
    """y = y0 + a clip(step), within the caps; GAIN = <grad phi at y0, y - y0>."""
    for b, _, j in _problems(s, on):
        _set_y(s, b, s.cols[b, ix.Y0] + a[b] * np.clip(s.cols[b, ix.CG_X], -STEP, STEP), j)
        s.vals[b, ix.GAIN] = s.cols[b, ix.GRAD0] @ (s.cols[b, ix.Y] - s.cols[b, ix.Y0])


def shorten(s: Scaling, a: np.ndarray, on: np.ndarray) -> None:
    """a <- the next length to try after one that was refused: where the dual turns, just beyond the kinks of caps that matter.

    The Newton system knows nothing of caps that are not reached yet. From there on a row lacks mass and the dual bends: with r
    the rate of its potential f along the step, the slope falls by p r min(1, r (t - t_kink)).
    """
    for b, i, _ in _problems(s, on):
        turn, cap = a[b], s.vals[b, ix.CAP1]
        P, log_p, F, LU, ROW, F0 = s.rows[b][[ix.P, ix.LOG_P, ix.F, ix.LU, ix.ROW, ix.F0], i]
        if np.isfinite(cap) and s.vals[b, ix.GAIN] > 0:
            way, lacks = cap - F0, log_p - np.log(np.maximum(ROW, TINY))
            came, low = (way > 0) & (lacks > ix.LACKING) & (cap - ix.AT_CAP <= F + LU), 0.0
            rate = (way + lacks)[came] / a[b]  # the log of what a row lacks: how much further f would have gone
            for _ in range(ix.BISECTIONS):
                t = (low + turn) / 2
                slope = s.vals[b, ix.GAIN] / a[b] * (1 - t) - P[came] * rate @ np.clip(rate * t - way[came], 0, 1)
                low, turn = (t, turn) if slope > 0 else (low, t)
        a[b] = min(turn, ix.SHORTER * a[b])


def plan(K: np.ndarray, s: Scaling, on: np.ndarray) -> None:
    """T = e K v in place of K; f, g, h absorb the scalings, and images that mixing holds become those of the last kernel."""
    for b, i, j in _problems(s, on):
        K[b, i, j] = np.minimum(s.rows[b, ix.E, i, None] * K[b, i, j] * s.v[b, None, j], ix.LARGEST)
        s.rows[b, ix.F, i] += s.rows[b, ix.LU, i]
        s.cols[b, ix.G, j] += s.cols[b, ix.Y, j]
        s.cols[b, ix.G, -1] += s.cols[b, ix.Y, -1]
        s.cols[b, ix.Y], s.rows[b, ix.LU] = 0.0, 0.0
        s.vals[b, ix.USED] = -abs(s.vals[b, ix.USED])


ascend = inner.interpreted(sys.modules[__name__])
