"""Numba kernels that move the dual variables: Anderson mixing, and Newton steps by preconditioned conjugate gradients.

Arguments as in `scaling.py`.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from .. import _protocol as ix
from ._jit import copy, helper, jit, kernel
from .elementary import add
from .scaling import _add4, _dots4

STRIP, BLOCK = 8, 128  # rows that are transposed at a time; columns of a product of which only the lower half is wanted


@helper
def _solve_small(A, x, k):  # type: ignore[no-untyped-def]
    """Solve the leading k x k symmetric positive system in place: x <- A^-1 x."""
    for i in range(k):
        for r in range(i + 1, k):
            factor = A[r, i] / A[i, i]
            for c in range(i, k):
                A[r, c] -= factor * A[i, c]
            x[r] -= factor * x[i]
    for i in range(k - 1, -1, -1):
        for c in range(i + 1, k):
            x[i] -= A[i, c] * x[c]
        x[i] /= A[i, i]


@helper
def _set_y(C, S, b, j, y):  # type: ignore[no-untyped-def]
    """Store a log scaling, within its cap and within what a float can hold."""
    C[b, ix.Y, j] = min(max(min(y, S[b, ix.CAP2] - C[b, ix.G, j]), -ix.DRIFT), ix.DRIFT)


@kernel
def anderson(R, C, S, size, v_, hist, part_, part_s, factor_, restart, on):  # type: ignore[no-untyped-def]
    """y <- combination of the last images with least residual; `restart` keeps the newest image only and takes it."""
    B, m = C.shape[0], C.shape[2] - 1
    for b in prange(B):
        if not on[b]:
            continue
        mb, k = size[b, 1], int(S[b, ix.USED])
        X, D = hist[b, 0], hist[b, 1]
        if restart[b]:  # the mixed point was worse than the image: go back to the image
            copy(X[k - 1], X[0])
            copy(D[k - 1], D[0])
            S[b, ix.USED] = 1
            for j in range(mb):
                _set_y(C, S, b, j, X[0, j])
            C[b, ix.Y, m] = X[0, m]
            continue
        if k == ix.MEMORY + 1:
            for i in range(ix.MEMORY):
                copy(X[i + 1], X[i])
                copy(D[i + 1], D[i])
            k -= 1
        for j in range(m + 1):
            X[k, j], D[k, j] = C[b, ix.IMAGE, j], C[b, ix.IMAGE, j] - C[b, ix.Y, j]
        S[b, ix.USED] = k + 1
        w, A = np.zeros(ix.MEMORY), np.zeros((ix.MEMORY, ix.MEMORY))
        for i in range(k):
            for j in range(m + 1):
                w[i] += (D[k, j] - D[i, j]) * D[k, j]
            for i2 in range(i + 1):
                dot = 0.0
                for j in range(m + 1):
                    dot = add(dot, (D[k, j] - D[i, j]) * (D[k, j] - D[i2, j]))
                A[i, i2] = A[i2, i] = dot
        trace = 0.0
        for i in range(k):
            trace += A[i, i]
        for i in range(k):
            A[i, i] += 1e-10 * trace + 1e-300
        _solve_small(A, w, k)
        size_of_w = 0.0
        for i in range(k):
            size_of_w += abs(w[i])
        if not size_of_w < 1e3:
            w[:] = 0.0
        for j in range(m + 1):
            y = X[k, j]
            for i in range(k):
                y -= w[i] * (X[k, j] - X[i, j])
            if j < m:
                _set_y(C, S, b, j, y)
            else:
                C[b, ix.Y, m] = min(max(y, -ix.DRIFT), ix.DRIFT)


@helper
def _precondition(C, S, factor, b, m, z):  # type: ignore[no-untyped-def]
    """z <- CG_R over the diagonal preconditioner, or through the Cholesky factor of an earlier Newton system."""
    r, pre, free = C[b, ix.CG_R], C[b, ix.PRE], C[b, ix.DIAG]
    if S[b, ix.FACTORED] == 0:
        for j in range(m + 1):
            z[j] = r[j] / pre[j] if r[j] != 0.0 else 0.0
        return
    for i in range(m + 1):
        dot = 0.0
        for j in range(i):
            dot = add(dot, factor[b, i, j] * z[j])
        z[i] = (r[i] - dot) / factor[b, i, i]
    for i in range(m, -1, -1):
        z[i] /= factor[b, i, i]
        zi = z[i]
        for j in range(i):
            z[j] -= factor[b, i, j] * zi
    for j in range(m):
        if not free[j] > 0:
            z[j] = 0.0
    if np.isnan(C[b, ix.Q, m]):
        z[m] = 0.0


@helper
def _free_system(K, R, C, S, size, v_, b, m, free):  # type: ignore[no-untyped-def]
    """The Newton system D (1 + shift) - T' w T of the free columns, its lower half, bordered by the mass where that is fixed.

    Rows that are not free take no part (w = 0), so both sides shrink where caps hold.
    """
    nb, k = size[b, 0], len(free)
    rows, root, count = np.empty(nb, np.int64), np.empty(nb), 0
    for i in range(nb):
        if R[b, ix.W, i] > 0.0:
            rows[count], root[count] = i, np.sqrt(R[b, ix.W, i])
            count += 1
    A = np.empty((k, count))  # (sqrt(w) T)', so that blocks of columns are contiguous
    for r0 in range(0, count, STRIP):
        r1 = min(r0 + STRIP, count)
        for c in range(k):
            j = free[c]
            v = v_[b, j]
            for r in range(r0, r1):
                A[c, r] = root[r] * R[b, ix.E, rows[r]] * K[b, rows[r], j] * v
    is_fixed = C[b, ix.Q, m] == C[b, ix.Q, m]
    H, more = np.zeros((k + is_fixed, k + is_fixed)), 1 + S[b, ix.SHIFT] + ix.RIDGE
    for c0 in range(0, k, BLOCK):
        c1 = min(c0 + BLOCK, k)
        inner = np.dot(A[c0:], A[c0:c1].T)
        for c in range(c0, k):
            for d in range(c0, min(c + 1, c1)):
                H[c, d] = -inner[c - c0, d - c0]
    for c in range(k):
        H[c, c] += C[b, ix.DIAG, free[c]] * more
    if is_fixed:
        corner, wr = 0.0, np.empty(count)
        for r in range(count):
            wr[r] = root[r] * R[b, ix.ROW, rows[r]]
            corner += wr[r] * wr[r]
        border = np.dot(A, wr)
        for c in range(k):
            H[k, c] = C[b, ix.COL, free[c]] - border[c]
        H[k, k] = S[b, ix.MASS] * more - corner
    return H


@jit
def factor(K, R, C, S, size, v_, hist, part_, part_s, factor_, on):  # type: ignore[no-untyped-def]
    """Cholesky factors of the Newton systems that `newton` has set up, and the first direction through them; 1 where built."""
    m, built = C.shape[2] - 1, np.zeros(len(on), np.int64)
    for b in range(len(on)):
        if not on[b] or factor_.shape[1] == 0:
            continue
        where, k = np.empty(m + 1, np.int64), 0  # of the rows of the small factor in the whole one
        for j in range(size[b, 1]):
            if C[b, ix.DIAG, j] > 0:
                where[k] = j
                k += 1
        H = _free_system(K, R, C, S, size, v_, b, m, where[:k])
        where[k] = m
        try:
            small = np.linalg.cholesky(H) if len(H) else H
        except Exception:  # noqa: BLE001  not positive up to rounding: the diagonal serves on
            S[b, ix.FACTORED] = 0.0
            continue
        whole = factor_[b]
        whole[:] = 0.0
        for j in range(m + 1):  # held columns keep their diagonal only, padding that of one
            whole[j, j] = np.sqrt(max(C[b, ix.COL, j], 1e-300)) if j < size[b, 1] else 1.0
        for c in range(len(small)):
            for d in range(c + 1):
                whole[where[c], where[d]] = small[c, d]
        S[b, ix.FACTORED], built[b] = 1.0, 1
        z, rz = np.empty(m + 1), 0.0
        _precondition(C, S, factor_, b, m, z)
        for j in range(m + 1):
            C[b, ix.CG_D, j] = z[j]
            rz += C[b, ix.CG_R, j] * z[j]
        S[b, ix.RZ] = rz
    return built


@helper
def _near(S, b):  # type: ignore[no-untyped-def]
    """Distance from its cap at which a potential counts as held by it.

    Nothing bends the dual there, so a Newton step runs on past the cap; the dual turns at the first of them. Counting those
    near by as held bends the model more than the dual, and the distance goes to zero with the residual.
    """
    near = ix.NEAR * (S[b, ix.RES] / max(S[b, ix.MASS], 1e-300))
    return max(min(max(near, S[b, ix.HELD]), ix.NEAREST), 1e-13)


@kernel
def newton(K, R, C, S, size, v_, hist, part_, part_s, factor_, on):  # type: ignore[no-untyped-def]
    """Newton system at the swept point: free rows w, free columns dc, diagonal preconditioner, right-hand side, direction."""
    B, n, m = K.shape
    blocks = part_.shape[1]
    real = K.dtype.type
    for item in prange(B * blocks):
        b, block = item // blocks, item % blocks
        if not on[b]:
            continue
        nb, mb = size[b]
        part, v = part_[b, block], v_[b]
        part[:] = real(0)
        tau, near = S[b, ix.TAU1] / S[b, ix.EPS], _near(S, b)
        squares = 0.0
        a = np.empty(4)
        for i in range(block * ix.ROWS, min((block + 1) * ix.ROWS, nb), 4):
            last = min(i + 4, min((block + 1) * ix.ROWS, nb))
            for k in range(i, last):
                row = max(R[b, ix.ROW, k], 1e-300)
                free = tau > 0 and (S[b, ix.CAP1] == np.inf or R[b, ix.F, k] + R[b, ix.LU, k] < -near)
                w = (1 / row if tau == np.inf else 1 / (row * (1 + 1 / tau))) if free else 0.0
                R[b, ix.W, k] = w
                squares += w * row * row
                a[k - i] = w
            for k in range(i, last):
                w, e = real(a[k - i]), real(R[b, ix.E, k])
                for j in range(mb):
                    t = (e * K[b, k, j]) * v[j]
                    part[j] += w * t * t
        part_s[b, block, 0] = squares
    for b in prange(B):
        if on[b]:
            _finish_newton(C, S, size, part_, part_s, factor_, b, m)


@helper
def _finish_newton(C, S, size, part_, part_s, factor, b, m):  # type: ignore[no-untyped-def]
    mb, nblocks = size[b, 1], (size[b, 0] + ix.ROWS - 1) // ix.ROWS
    fixed, capped = C[b, ix.Q, m] == C[b, ix.Q, m], S[b, ix.CAP2] < np.inf
    tau = S[b, ix.TAU2] / S[b, ix.EPS]
    total = S[b, ix.MASS]
    shift, near = 0.03 * min(1.0, S[b, ix.RES] / max(total, 1e-300)), _near(S, b)
    squares = 0.0
    for block in range(nblocks):
        squares += part_s[b, block, 0]
    sum_b = sum_d = 0.0
    for j in range(mb):
        col, pot, grad = C[b, ix.COL, j], C[b, ix.G, j] + C[b, ix.Y, j], C[b, ix.GRAD, j]
        free = tau > 0 and abs(C[b, ix.Y, j]) < ix.DRIFT and not (capped and pot >= -near and grad > 0)
        d = col if tau == np.inf else (col + (grad + col) / tau if tau > 0 else 0.0)
        d = d if free and d > 0 else 0.0
        sq = 0.0
        for block in range(nblocks):
            sq += part_[b, block, j]
        C[b, ix.DIAG, j] = d
        C[b, ix.PRE, j] = max(d * (1 + shift) - sq, 1e-6 * d)
        C[b, ix.CG_R, j] = grad if d > 0 else 0.0
        sum_b += C[b, ix.CG_R, j]
        sum_d += d
    C[b, ix.CG_R, m] = C[b, ix.GRAD, m]
    C[b, ix.PRE, m] = max(total * (1 + shift) - squares, 1e-6 * total)
    # with every marginal hard a constant moves between rows and columns at no change: keep it out of the system
    if S[b, ix.TAU1] == np.inf and tau == np.inf and not fixed and not capped and S[b, ix.CAP1] == np.inf and sum_d > 0:
        for j in range(mb):
            C[b, ix.CG_R, j] -= C[b, ix.DIAG, j] * (sum_b / sum_d)
    z, norm, rz = np.empty(m + 1), 0.0, 0.0
    _precondition(C, S, factor, b, m, z)
    for j in range(m + 1):
        r = C[b, ix.CG_R, j]
        C[b, ix.CG_D, j], C[b, ix.CG_X, j] = z[j], 0.0
        norm += abs(r)
        rz += r * z[j]
    S[b, ix.RZ], S[b, ix.NORM], S[b, ix.SHIFT] = rz, norm, shift
    S[b, ix.DONE], S[b, ix.STEPS] = 0.0 if norm > 0 else 1.0, 0.0
    copy(C[b, ix.Y], C[b, ix.Y0])
    copy(C[b, ix.GRAD], C[b, ix.GRAD0])


@kernel
def cg(K, R, C, S, size, v_, hist, part_, part_s, factor_, stop, on):  # type: ignore[no-untyped-def]
    """One conjugate gradient step on (D + shift - T' w T) x = grad; DONE = 1 where the residual fell by `stop`."""
    B, n, m = K.shape
    blocks = part_.shape[1]
    real = K.dtype.type
    vd = np.empty((B, m), K.dtype)
    for b in range(B):
        if on[b] and S[b, ix.DONE] == 0:
            for j in range(size[b, 1]):
                vd[b, j] = real(v_[b, j] * C[b, ix.CG_D, j]) if C[b, ix.DIAG, j] > 0 else real(0)
    for item in prange(B * blocks):
        b, block = item // blocks, item % blocks
        if not (on[b] and S[b, ix.DONE] == 0):
            continue
        nb, mb = size[b]
        part, d = part_[b, block], vd[b]
        part[:] = real(0)
        dh = C[b, ix.CG_D, m]
        cross = 0.0
        sums, a = np.empty(4), np.empty(4)
        for i in range(block * ix.ROWS, min((block + 1) * ix.ROWS, nb), 4):
            last = min(i + 4, min((block + 1) * ix.ROWS, nb))
            _dots4(K, b, i, last, d, mb, sums, 0)
            for k in range(i, last):
                t = R[b, ix.W, k] * (R[b, ix.E, k] * sums[k - i] + R[b, ix.ROW, k] * dh)
                cross += R[b, ix.ROW, k] * t
                a[k - i] = R[b, ix.E, k] * t
            _add4(K, b, i, last, a, 0, mb, part)
        part_s[b, block, 0] = cross
    for b in prange(B):
        if on[b] and S[b, ix.DONE] == 0:
            _finish_cg(C, S, size, v_, part_, part_s, factor_, b, m, stop)


@helper
def _finish_cg(C, S, size, v_, part_, part_s, factor, b, m, stop):  # type: ignore[no-untyped-def]
    mb, nblocks = size[b, 1], (size[b, 0] + ix.ROWS - 1) // ix.ROWS
    fixed = C[b, ix.Q, m] == C[b, ix.Q, m]
    rz, norm, shift = S[b, ix.RZ], S[b, ix.NORM], S[b, ix.SHIFT]
    x, r, d = C[b, ix.CG_X], C[b, ix.CG_R], C[b, ix.CG_D]
    product = np.zeros(m + 1)
    coldot = cross = curve = 0.0
    for j in range(mb):
        if C[b, ix.DIAG, j] > 0:
            ku = 0.0
            for block in range(nblocks):
                ku += part_[b, block, j]
            product[j] = C[b, ix.DIAG, j] * d[j] * (1 + shift) - v_[b, j] * ku + (C[b, ix.COL, j] * d[m] if fixed else 0.0)
            coldot += C[b, ix.COL, j] * d[j]
            curve += product[j] * d[j]
    if fixed:
        for block in range(nblocks):
            cross += part_s[b, block, 0]
        product[m] = coldot + S[b, ix.MASS] * d[m] * (1 + shift) - cross
        curve += product[m] * d[m]
    a = rz / max(curve, 1e-300)
    left = rz_new = 0.0
    for j in range(m + 1):
        x[j] += a * d[j]
        r[j] -= a * product[j]
        left += abs(r[j])
    z = product
    _precondition(C, S, factor, b, m, z)
    for j in range(m + 1):
        rz_new += r[j] * z[j]
    ratio = rz_new / max(rz, 1e-300)
    for j in range(m + 1):
        d[j] = z[j] + ratio * d[j]
    S[b, ix.RZ] = rz_new
    S[b, ix.STEPS] += 1.0
    if left < stop * norm or not curve > 0.0:
        S[b, ix.DONE] = 1.0


@kernel
def trial(R, C, S, size, v_, hist, part_, part_s, factor_, a, on):  # type: ignore[no-untyped-def]
    """y = y0 + a clip(step), within the caps; out[GAIN] = <grad phi at y0, y - y0>."""
    B, m = C.shape[0], C.shape[2] - 1
    for b in prange(B):
        if not on[b]:
            continue
        gain = 0.0
        for j in range(size[b, 1]):
            _set_y(C, S, b, j, C[b, ix.Y0, j] + a[b] * min(max(C[b, ix.CG_X, j], -ix.STEP), ix.STEP))
            gain += C[b, ix.GRAD0, j] * (C[b, ix.Y, j] - C[b, ix.Y0, j])
        y = C[b, ix.Y0, m] + a[b] * min(max(C[b, ix.CG_X, m], -ix.STEP), ix.STEP)
        C[b, ix.Y, m] = min(max(y, -ix.DRIFT), ix.DRIFT)
        S[b, ix.GAIN] = gain + C[b, ix.GRAD0, m] * (C[b, ix.Y, m] - C[b, ix.Y0, m])
