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
        if k < 0:  # images of the last kernel: what counts is how they differ, so the newest of them moves to this one's place
            k = -k - 1
            for j in range(m + 1):
                image, change = C[b, ix.IMAGE, j] - X[k, j], C[b, ix.IMAGE, j] - C[b, ix.Y, j] - D[k, j]
                for i in range(k):
                    X[i, j] += image
                    D[i, j] += change
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
    """z <- CG_R over the diagonal preconditioner, or through the Cholesky factor of an earlier Newton system.

    The factor is that of a system scaled to a diagonal of one; the diagonal of the system at hand scales it back.
    """
    r, pre, seat, k = C[b, ix.CG_R], C[b, ix.PRE], C[b, ix.SEAT], int(S[b, ix.FACTORED])
    for j in range(m + 1):
        z[j] = r[j] / pre[j] if r[j] != 0.0 else 0.0
    if k == 0:
        return
    scale, x, top = np.zeros(k), np.zeros(k, np.float32), 1e-300
    for j in range(m + 1):
        diag = C[b, ix.DIAG, j] if j < m else S[b, ix.MASS]
        if seat[j] > 0 and diag > 0:
            scale[int(seat[j]) - 1] = 1 / np.sqrt(diag)
            top = max(top, abs(r[j]) / np.sqrt(diag))
    for j in range(m + 1):
        if seat[j] > 0:
            at = int(seat[j]) - 1
            x[at] = r[j] * scale[at] / top
    for i in range(k):
        x[i] /= factor[b, i, i]
        xi = x[i]
        for j in range(np.uint64(i + 1), np.uint64(k)):
            x[j] -= factor[b, i, j] * xi
    for i in range(k - 1, -1, -1):
        dot = np.float32(0)
        for j in range(np.uint64(i + 1), np.uint64(k)):
            dot = add(dot, factor[b, i, j] * x[j])
        x[i] = (x[i] - dot) / factor[b, i, i]
    for j in range(m + 1):
        if seat[j] > 0:
            at = int(seat[j]) - 1
            z[j] = x[at] * scale[at] * top


@jit
def system_rows(K, R, C, S, size, v_, b):  # type: ignore[no-untyped-def]
    """A of the Newton system of the free columns, 1 + shift - A' A scaled to a diagonal of one; seats of its columns in SEAT.

    A is w^1/2 T D^-1/2 with the diagonal D before the shift. Where the mass is fixed, A has a column of row sums for it, and the
    last column of the system a border beside. Rows that are not free take no part (w = 0): both sides shrink where caps hold.
    """
    m, count, k = C.shape[2] - 1, 0, 0
    free, v, is_fixed = np.empty(m, np.int64), np.empty(m), C[b, ix.Q, m] == C[b, ix.Q, m]
    for j in range(m):
        C[b, ix.SEAT, j] = 0.0
        if j < size[b, 1] and C[b, ix.DIAG, j] > 0:
            free[k], v[k] = j, v_[b, j] / np.sqrt(C[b, ix.DIAG, j])
            k += 1
            C[b, ix.SEAT, j] = k
    C[b, ix.SEAT, m] = k + 1 if is_fixed else 0
    for i in range(size[b, 0]):
        count += R[b, ix.W, i] > 0.0
    A, border = np.empty((count, k + is_fixed), np.float32), np.empty(k * is_fixed, np.float32)
    root_of_mass, row = np.sqrt(S[b, ix.MASS]), 0
    for i in range(size[b, 0]):
        if R[b, ix.W, i] > 0.0:
            root = np.sqrt(R[b, ix.W, i])
            e = root * R[b, ix.E, i]
            for c in range(k):
                A[row, c] = e * K[b, i, free[c]] * v[c]
            if is_fixed:
                A[row, k] = root * R[b, ix.ROW, i] / root_of_mass
            row += 1
    for c in range(len(border)):
        border[c] = C[b, ix.COL, free[c]] / (np.sqrt(C[b, ix.DIAG, free[c]]) * root_of_mass)
    return A, border


@jit
def first_direction(C, S, factor_, b):  # type: ignore[no-untyped-def]
    """The direction of conjugate gradients through a new factor."""
    m = C.shape[2] - 1
    z, rz = np.empty(m + 1), 0.0
    _precondition(C, S, factor_, b, m, z)
    for j in range(m + 1):
        C[b, ix.CG_D, j] = z[j]
        rz += C[b, ix.CG_R, j] * z[j]
    S[b, ix.RZ] = rz


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
        tau = S[b, ix.TAU1] / S[b, ix.EPS]
        squares = 0.0
        a = np.empty(4)
        for i in range(block * ix.ROWS, min((block + 1) * ix.ROWS, nb), 4):
            last = min(i + 4, min((block + 1) * ix.ROWS, nb))
            for k in range(i, last):
                row = max(R[b, ix.ROW, k], 1e-300)
                free = tau > 0 and (S[b, ix.CAP1] == np.inf or R[b, ix.F, k] + R[b, ix.LU, k] < -ix.AT_CAP)
                w = (1 / row if tau == np.inf else 1 / (row * (1 + 1 / tau))) if free else 0.0
                R[b, ix.W, k] = w
                R[b, ix.F0, k] = R[b, ix.F, k] + R[b, ix.LU, k]
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
    shift = 0.03 * min(1.0, S[b, ix.RES] / max(total, 1e-300))
    squares = 0.0
    for block in range(nblocks):
        squares += part_s[b, block, 0]
    sum_b = sum_d = 0.0
    for j in range(mb):
        col, pot, grad = C[b, ix.COL, j], C[b, ix.G, j] + C[b, ix.Y, j], C[b, ix.GRAD, j]
        free = tau > 0 and abs(C[b, ix.Y, j]) < ix.DRIFT and not (capped and pot >= -ix.AT_CAP and grad > 0)
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
    a = rz / curve if curve > 1e-300 else 0.0  # flat up to rounding: no step
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


@kernel
def shorten(R, C, S, size, v_, hist, part_, part_s, factor_, a, on):  # type: ignore[no-untyped-def]
    """a <- the next length to try after one that was refused, see `_turn`."""
    for b in prange(len(on)):
        if on[b]:
            a[b] = min(_turn(R[b], S[b], size[b, 0], a[b]), ix.SHORTER * a[b])


@helper
def _turn(R, S, n, a):  # type: ignore[no-untyped-def]
    """Where the dual turns along a step that was too long: just beyond the first kinks of the caps that matter.

    The Newton system knows nothing of caps that are not reached yet. From there on a row lacks mass and the dual bends: with r
    the rate of its potential f along the step, the slope falls by p r min(1, r (t - t_kink)).
    """
    if S[ix.CAP1] == np.inf or not S[ix.GAIN] > 0:
        return a
    rate, way, weight, count = np.empty(n), np.empty(n), np.empty(n), 0
    for i in range(n):
        left, lacks = S[ix.CAP1] - R[ix.F0, i], R[ix.LOG_P, i] - np.log(max(R[ix.ROW, i], 1e-300))
        if left > 0 and lacks > ix.LACKING and R[ix.F, i] + R[ix.LU, i] >= S[ix.CAP1] - ix.AT_CAP:
            rate[count], way[count] = (
                (left + lacks) / a,
                left,
            )  # the log of what a row lacks is how much further f would have gone
            weight[count] = R[ix.P, i] * rate[count]
            count += 1
    low, high = 0.0, a
    for _ in range(ix.BISECTIONS):
        t = (low + high) / 2
        slope = S[ix.GAIN] / a * (1 - t)
        for k in range(count):
            slope -= weight[k] * min(1.0, max(rate[k] * t - way[k], 0.0))
        if slope > 0:
            low = t
        else:
            high = t
    return high
