"""Products with temporal structures in O(1) operations per entry: running sums and first-order recursions.

X has shape (B, n, k) and the structure acts along its rows (axis 0: C X) or (B, k, n) and along its columns (axis 1: X C).
Along the rows a scan is vectorised over a strip of columns; along the columns four rows run side by side, which hides the
latency of the additions. Squares and kernels are scanned both ways and only ever add: with X >= 0 no digit cancels. Sums are
float64 in both dtypes.

Down the rows memory is the limit. Where both directions are scanned, a first sweep from below keeps the running sums at the end
of each block of rows only; the second does a block in both directions while it is in cache. X is read twice and the product
written once.

Along the columns rows are first copied, one after the other, to a buffer: reading four rows side by side out of memory took
three times as long where their distance was a power of two.
"""

from __future__ import annotations

import numpy as np
from numba import get_num_threads, prange

from ..aligned import aligned
from ._jit import helper, kernel
from .elementary import add

STRIP, BLOCK, ROWS = 512, 32, 32  # most columns of a strip, rows of its blocks; rows of a work item along the columns
NARROW = 128  # columns of a strip where a band is read more than once


def _ready(X, out):  # type: ignore[no-untyped-def]
    """X, and a buffer for the product, as the kernels want them: contiguous."""
    X = np.ascontiguousarray(X)
    return X, np.empty_like(X) if out is None or not out.flags.c_contiguous else out


def _width(X):  # type: ignore[no-untyped-def]
    """Columns of a strip: long reads, but work for every thread. No sum runs across a strip, so it changes no result."""
    return min(STRIP, max(64, -(-X.shape[2] // max(1, get_num_threads() // X.shape[0]))))


@helper
def _buffer(rows, n):  # type: ignore[no-untyped-def]
    """Room for rows of n entries in float64, never a whole number of pages apart."""
    return np.empty((rows, (n + 511) // 512 * 512 + 72))


@helper
def _load(X, b, i, last, x):  # type: ignore[no-untyped-def]
    """Rows i, i + 1, ... of X[b]; too few of them: the last one again."""
    for r in range(len(x)):
        row, copy = X[b, min(i + r, last)], x[r]
        for j in range(len(row)):
            copy[j] = row[j]


def _done(Y, out):  # type: ignore[no-untyped-def]
    if out is not None and out is not Y:
        out[...] = Y
        return out
    return Y


# ------------------------------------------------------------------------------------------------------- scale |t_i - t_k|^p


def power_matmul(X, gaps, power, scale, axis, out=None):  # type: ignore[no-untyped-def]
    """scale |t_i - t_k|^power times X for power 1 or 2; gaps[i] = t_i - t_(i-1), gaps[0] = 0."""
    X, Y = _ready(X, out)
    work, scale, width = 4 * X.size, float(scale), _width(X)
    if power == 1:
        # The product is piecewise linear in t_i: value and slope at t_0, which are plain sums, then one scan. All entries are
        # rounded as the largest.
        t = np.cumsum(gaps)
        _distance_along(work, X, gaps, t, scale, Y) if axis else _distance_down(work, X, gaps, t, scale, width, Y)
    else:
        _square_along(work, X, gaps, scale, Y) if axis else _square_down(work, X, gaps, scale, width, Y)
    return _done(Y, out)


@kernel
def _distance_down(X, gaps, t, scale, width, out):  # type: ignore[no-untyped-def]
    B, n, m = X.shape
    strips = (m + width - 1) // width
    real = X.dtype.type
    for item in prange(B * strips):
        b, j0 = item // strips, item % strips * width
        w = min(width, m - j0)
        a, y = np.zeros(w), np.zeros(w)  # growth from row to row; the product itself
        for i in range(n):
            x, at = X[b, i, j0 : j0 + w], t[i]
            for j in range(w):
                a[j] += x[j]
                y[j] += at * x[j]
        for j in range(w):
            a[j] *= -scale
            y[j] *= scale
        for i in range(n):
            x, z, g = X[b, i, j0 : j0 + w], out[b, i, j0 : j0 + w], gaps[i]
            for j in range(w):
                y[j] += g * a[j]
                z[j] = real(y[j])
                a[j] += 2 * scale * x[j]


@kernel
def _square_down(X, gaps, scale, width, out):  # type: ignore[no-untyped-def]
    B, n, m = X.shape
    strips, blocks = (m + width - 1) // width, (n + BLOCK - 1) // BLOCK
    real = X.dtype.type
    for item in prange(B * strips):
        b, j0 = item // strips, item % strips * width
        w = min(width, m - j0)
        a, z, ends = np.zeros(3 * STRIP), np.empty(3 * STRIP), np.empty((blocks, 3 * w))  # sums of x, distance x, distance^2 x
        for i in range(n - 1, -1, -1):
            if i % BLOCK == BLOCK - 1 or i == n - 1:
                e = ends[i // BLOCK]
                for j in range(w):
                    e[j] = a[j]
                    e[w + j] = a[STRIP + j]
                    e[2 * w + j] = a[2 * STRIP + j]
            x, g = X[b, i, j0 : j0 + w], gaps[i]
            for j in range(w):
                a[j] += x[j]
                a[2 * STRIP + j] += g * (2 * a[STRIP + j] + g * a[j])
                a[STRIP + j] += g * a[j]
        a[:] = 0.0
        for block in range(blocks):
            e, last = ends[block], min(n, (block + 1) * BLOCK)
            for j in range(w):
                z[j] = e[j]
                z[STRIP + j] = e[w + j]
                z[2 * STRIP + j] = e[2 * w + j]
            for i in range(last - 1, block * BLOCK - 1, -1):
                x, y, g = X[b, i, j0 : j0 + w], out[b, i, j0 : j0 + w], gaps[i]
                for j in range(w):
                    y[j] = real(z[2 * STRIP + j])
                    z[j] += x[j]
                    z[2 * STRIP + j] += g * (2 * z[STRIP + j] + g * z[j])
                    z[STRIP + j] += g * z[j]
            for i in range(block * BLOCK, last):
                x, y, g = X[b, i, j0 : j0 + w], out[b, i, j0 : j0 + w], gaps[i]
                for j in range(w):
                    a[2 * STRIP + j] += g * (2 * a[STRIP + j] + g * a[j])
                    a[STRIP + j] += g * a[j]
                    y[j] = real(scale * (y[j] + a[2 * STRIP + j]))
                    a[j] += x[j]


@kernel
def _distance_along(X, gaps, t, scale, out):  # type: ignore[no-untyped-def]
    B, m, n = X.shape
    items = (m + ROWS - 1) // ROWS
    real = X.dtype.type
    for item in prange(B * items):
        b, start = item // items, item % items * ROWS
        last = min(start + ROWS, m) - 1
        x = _buffer(4, n)
        for i in range(start, last + 1, 4):
            _load(X, b, i, last, x)
            i1, i2, i3 = min(i + 1, last), min(i + 2, last), min(i + 3, last)
            x0, x1, x2, x3 = x[0], x[1], x[2], x[3]
            z0, z1, z2, z3 = out[b, i], out[b, i1], out[b, i2], out[b, i3]
            a0 = a1 = a2 = a3 = y0 = y1 = y2 = y3 = 0.0
            for j in range(n):
                at = t[j]
                a0 = add(a0, x0[j])
                a1 = add(a1, x1[j])
                a2 = add(a2, x2[j])
                a3 = add(a3, x3[j])
                y0 = add(y0, at * x0[j])
                y1 = add(y1, at * x1[j])
                y2 = add(y2, at * x2[j])
                y3 = add(y3, at * x3[j])
            a0, a1, a2, a3 = -scale * a0, -scale * a1, -scale * a2, -scale * a3
            y0, y1, y2, y3 = scale * y0, scale * y1, scale * y2, scale * y3
            for j in range(n):
                g = gaps[j]
                y0 += g * a0
                y1 += g * a1
                y2 += g * a2
                y3 += g * a3
                z0[j], z1[j], z2[j], z3[j] = real(y0), real(y1), real(y2), real(y3)
                a0 += 2 * scale * x0[j]
                a1 += 2 * scale * x1[j]
                a2 += 2 * scale * x2[j]
                a3 += 2 * scale * x3[j]


# Both products of A = C1 T C2 for distances on either side, inside a pass over the rows of T that needs A. Value and slope of
# C1 T at the first row of each block come from sums over the blocks, so blocks are independent of each other.


def distance_starts(X, gaps, scale):  # type: ignore[no-untyped-def]
    """(B, blocks, 2, m): slope and value of scale |t_i - t_k| X at the first row of each block of rows."""
    B, n, m = X.shape
    out = aligned((B, (n + BLOCK - 1) // BLOCK, 2, m))
    t = np.cumsum(gaps)
    _block_sums(2 * X.size, X, t, out)
    _block_starts(out.size, t, float(scale), out)
    return out


@kernel
def _block_sums(X, t, out):  # type: ignore[no-untyped-def]
    """Sums of x and t x over each block of rows."""
    B, n, m = X.shape
    blocks = out.shape[1]
    for item in prange(B * blocks):
        b, block = item // blocks, item % blocks
        plain, moment, end = out[b, block, 0], out[b, block, 1], min((block + 1) * BLOCK, n)
        for j in range(m):
            plain[j] = moment[j] = 0.0
        for i in range(block * BLOCK, end, 2):
            x, y = X[b, i], X[b, min(i + 1, end - 1)]
            one = 1.0 if i + 1 < end else 0.0  # an odd last row stands alone
            t0, t1 = t[i], one * t[min(i + 1, end - 1)]
            for j in range(m):
                plain[j] += x[j] + one * y[j]
                moment[j] += t0 * x[j] + t1 * y[j]


@kernel
def _block_starts(t, scale, out):  # type: ignore[no-untyped-def]
    """From the sums over blocks: sum_k |t_i - t_k| x_k = t_i (2 P - S) - (2 Q - R), P and Q over k < i, S and R over all k."""
    B, blocks, _, m = out.shape
    strips = (m + STRIP - 1) // STRIP
    for item in prange(B * strips):
        b, j0 = item // strips, item % strips * STRIP
        w = min(STRIP, m - j0)
        p, q = np.zeros(w), np.zeros(w)
        for block in range(blocks):
            plain, moment = out[b, block, 0, j0 : j0 + w], out[b, block, 1, j0 : j0 + w]
            for j in range(w):
                p[j] -= plain[j]
                q[j] -= moment[j]
        for block in range(blocks):
            plain, moment, at = out[b, block, 0, j0 : j0 + w], out[b, block, 1, j0 : j0 + w], t[block * BLOCK]
            for j in range(w):
                s, r = plain[j], moment[j]
                plain[j], moment[j] = scale * p[j], scale * (at * p[j] - q[j])
                p[j] += 2 * s
                q[j] += 2 * r


@helper
def rows4_of_distances(X, out, b, i, end, start, gaps1, twice1, gaps2, t2, scale2, n, z):  # type: ignore[no-untyped-def]
    """out[b, i : i + 4] <- rows of C1 X C2; `start` holds slope and value of C1 X at row i, and moves on; z is work (4, n).

    What a row starts from along its columns, its sum and first moment, comes with the walk down the rows. Beyond `end` stands
    the last row again, with no gap and no weight: nothing changes.
    """
    real = X.dtype.type
    slope, value = start[0], start[1]
    k1, k2, k3 = min(i + 1, end - 1), min(i + 2, end - 1), min(i + 3, end - 1)
    g0 = gaps1[i] if i % BLOCK else 0.0
    g1, g2, g3 = (gaps1[k1] if i + 1 < end else 0.0), (gaps1[k2] if i + 2 < end else 0.0), (gaps1[k3] if i + 3 < end else 0.0)
    w1, w2, w3 = (twice1 if i + 1 < end else 0.0), (twice1 if i + 2 < end else 0.0), (twice1 if i + 3 < end else 0.0)
    x0, x1, x2, x3 = X[b, i], X[b, k1], X[b, k2], X[b, k3]
    z0, z1, z2, z3 = z[0], z[1], z[2], z[3]
    a0 = a1 = a2 = a3 = y0 = y1 = y2 = y3 = 0.0
    for j in range(n):
        s, v, at = slope[j], value[j], t2[j]
        v += g0 * s
        s += twice1 * x0[j]
        z0[j], a0, y0 = v, add(a0, v), add(y0, at * v)
        v += g1 * s
        s += w1 * x1[j]
        z1[j], a1, y1 = v, add(a1, v), add(y1, at * v)
        v += g2 * s
        s += w2 * x2[j]
        z2[j], a2, y2 = v, add(a2, v), add(y2, at * v)
        v += g3 * s
        s += w3 * x3[j]
        z3[j], a3, y3 = v, add(a3, v), add(y3, at * v)
        slope[j], value[j] = s, v
    a0, a1, a2, a3 = -scale2 * a0, -scale2 * a1, -scale2 * a2, -scale2 * a3
    y0, y1, y2, y3 = scale2 * y0, scale2 * y1, scale2 * y2, scale2 * y3
    o0, o1, o2, o3 = out[b, i], out[b, k1], out[b, k2], out[b, k3]
    twice2 = 2 * scale2
    for j in range(n):
        g = gaps2[j]
        y0 += g * a0
        y1 += g * a1
        y2 += g * a2
        y3 += g * a3
        o0[j], o1[j], o2[j], o3[j] = real(y0), real(y1), real(y2), real(y3)
        a0 += twice2 * z0[j]
        a1 += twice2 * z1[j]
        a2 += twice2 * z2[j]
        a3 += twice2 * z3[j]


@kernel
def _square_along(X, gaps, scale, out):  # type: ignore[no-untyped-def]
    B, m, n = X.shape
    items = (m + ROWS - 1) // ROWS
    real = X.dtype.type
    for item in prange(B * items):
        b, start = item // items, item % items * ROWS
        last = min(start + ROWS, m) - 1
        x = _buffer(2, n)
        for i in range(start, last + 1, 2):  # three sums a row: two rows fill the pipeline
            _load(X, b, i, last, x)
            x0, x1, y0, y1 = x[0], x[1], out[b, i], out[b, min(i + 1, last)]
            s0 = s1 = l0 = l1 = q0 = q1 = 0.0
            for j in range(n - 1, -1, -1):
                g = gaps[j]
                y0[j], y1[j] = real(q0), real(q1)
                s0 += x0[j]
                s1 += x1[j]
                q0 += g * (2 * l0 + g * s0)
                q1 += g * (2 * l1 + g * s1)
                l0 += g * s0
                l1 += g * s1
            s0 = s1 = l0 = l1 = q0 = q1 = 0.0
            for j in range(n):
                g = gaps[j]
                q0 += g * (2 * l0 + g * s0)
                q1 += g * (2 * l1 + g * s1)
                l0 += g * s0
                l1 += g * s1
                t0, t1 = scale * (y0[j] + q0), scale * (y1[j] + q1)
                s0 += x0[j]
                s1 += x1[j]
                y0[j], y1[j] = real(t0), real(t1)


# ---------------------------------------------------------------------------------------------- offset + weight exp(-|t_i - t_k|)


def decay_matmul(X, ratios, weight, offset, axis, out=None):  # type: ignore[no-untyped-def]
    """offset + weight exp(-|t_i - t_k|) times X; ratios[i] = exp(-(t_i - t_(i-1))), ratios[0] = 0."""
    X, Y = _ready(X, out)
    if axis:
        _decay_along(4 * X.size, X, ratios, float(weight), float(offset), Y)
    else:
        _decay_down(4 * X.size, X, ratios, float(weight), float(offset), _width(X), Y)
    return _done(Y, out)


@kernel
def _decay_down(X, ratios, weight, offset, width, out):  # type: ignore[no-untyped-def]
    B, n, m = X.shape
    strips, blocks = (m + width - 1) // width, (n + BLOCK - 1) // BLOCK
    real = X.dtype.type
    for item in prange(B * strips):
        b, j0 = item // strips, item % strips * width
        w = min(width, m - j0)
        a, z, total, ends = np.zeros(w), np.empty(w), np.zeros(w), np.empty((blocks, w))
        for i in range(n - 1, -1, -1):
            if i % BLOCK == BLOCK - 1 or i == n - 1:
                e = ends[i // BLOCK]
                for j in range(w):
                    e[j] = a[j]
            x, r = X[b, i, j0 : j0 + w], ratios[i]
            for j in range(w):
                a[j] = r * (a[j] + x[j])
                total[j] += x[j]
        a[:] = 0.0
        for block in range(blocks):
            e, last = ends[block], min(n, (block + 1) * BLOCK)
            for j in range(w):
                z[j] = e[j]
            for i in range(last - 1, block * BLOCK - 1, -1):
                x, y, r = X[b, i, j0 : j0 + w], out[b, i, j0 : j0 + w], ratios[i]
                for j in range(w):
                    y[j] = real(z[j])
                    z[j] = r * (z[j] + x[j])
            for i in range(block * BLOCK, last):
                x, y, r = X[b, i, j0 : j0 + w], out[b, i, j0 : j0 + w], ratios[i]
                for j in range(w):
                    a[j] = x[j] + r * a[j]
                    y[j] = real(offset * total[j] + weight * (y[j] + a[j]))


@kernel
def _decay_along(X, ratios, weight, offset, out):  # type: ignore[no-untyped-def]
    B, m, n = X.shape
    items = (m + ROWS - 1) // ROWS
    real = X.dtype.type
    for item in prange(B * items):
        b, start = item // items, item % items * ROWS
        last = min(start + ROWS, m) - 1
        x = _buffer(4, n)
        for i in range(start, last + 1, 4):
            _load(X, b, i, last, x)
            i1, i2, i3 = min(i + 1, last), min(i + 2, last), min(i + 3, last)
            x0, x1, x2, x3 = x[0], x[1], x[2], x[3]
            y0, y1, y2, y3 = out[b, i], out[b, i1], out[b, i2], out[b, i3]
            f0 = f1 = f2 = f3 = t0 = t1 = t2 = t3 = 0.0
            for j in range(n - 1, -1, -1):
                r = ratios[j]
                y0[j], y1[j], y2[j], y3[j] = real(f0), real(f1), real(f2), real(f3)
                f0 = r * (f0 + x0[j])
                f1 = r * (f1 + x1[j])
                f2 = r * (f2 + x2[j])
                f3 = r * (f3 + x3[j])
                t0 += x0[j]
                t1 += x1[j]
                t2 += x2[j]
                t3 += x3[j]
            t0, t1, t2, t3 = offset * t0, offset * t1, offset * t2, offset * t3
            f0 = f1 = f2 = f3 = 0.0
            for j in range(n):
                r = ratios[j]
                f0 = x0[j] + r * f0
                f1 = x1[j] + r * f1
                f2 = x2[j] + r * f2
                f3 = x3[j] + r * f3
                u0, u1, u2, u3 = y0[j] + f0, y1[j] + f1, y2[j] + f2, y3[j] + f3
                y0[j], y1[j] = real(t0 + weight * u0), real(t1 + weight * u1)
                y2[j], y3[j] = real(t2 + weight * u2), real(t3 + weight * u3)


# ------------------------------------------------------------------------------------------------------------ banded Toeplitz


def toeplitz_matmul(X, weights, axis, out=None):  # type: ignore[no-untyped-def]
    """Symmetric Toeplitz band times X; weights[lag] for lag = 0 ... width, zero beyond.

    Equal weights off the diagonal: window sums at O(1) an entry, else O(width).
    """
    X, Y = _ready(X, out)
    weights = np.ascontiguousarray(weights, dtype=float)
    width = len(weights) - 1
    if width == 0 or (weights[1:] != weights[1]).any():
        (_band_down, _band_along)[axis]((1 + width) * X.size, X, weights, Y)
    elif width < X.shape[1 + axis] - 1:
        (_window_down, _window_along)[axis](3 * X.size, X, weights, Y)
    elif axis:
        _whole_along(2 * X.size, X, weights, Y)
    else:
        _whole_down(3 * X.size, X, weights, _width(X), Y)
    return _done(Y, out)


# Every window is the whole line, as for 1 - I: one plain sum.


@kernel
def _whole_down(X, weights, width, out):  # type: ignore[no-untyped-def]
    B, n, m = X.shape
    strips, on, off = (m + width - 1) // width, weights[0] - weights[1], weights[1]
    real = X.dtype.type
    for item in prange(B * strips):
        b, j0 = item // strips, item % strips * width
        w = min(width, m - j0)
        s = np.zeros(w)
        for i in range(n):
            x = X[b, i, j0 : j0 + w]
            for j in range(w):
                s[j] += x[j]
        for j in range(w):
            s[j] *= off
        for i in range(n):
            x, y = X[b, i, j0 : j0 + w], out[b, i, j0 : j0 + w]
            for j in range(w):
                y[j] = real(s[j] + on * x[j])


@kernel
def _whole_along(X, weights, out):  # type: ignore[no-untyped-def]
    B, m, n = X.shape
    items, on, off = (m + ROWS - 1) // ROWS, weights[0] - weights[1], weights[1]
    real = X.dtype.type
    for item in prange(B * items):
        b, start = item // items, item % items * ROWS
        for i in range(start, min(start + ROWS, m)):
            x, y, s = X[b, i], out[b, i], 0.0
            for j in range(n):
                s = add(s, x[j])
            s *= off
            for j in range(n):
                y[j] = real(s + on * x[j])


# Down the rows a window sum is the end of one block of 2 width + 1 entries and the start of the next: sums from the border of the
# two outwards, no subtraction of what leaves the window.


@kernel
def _window_down(X, weights, out):  # type: ignore[no-untyped-def]
    B, n, m = X.shape
    strips, width = (m + NARROW - 1) // NARROW, len(weights) - 1
    size = 2 * width + 1
    real = X.dtype.type
    for item in prange(B * strips):
        b, j0 = item // strips, item % strips * NARROW
        w = min(NARROW, m - j0)
        s = np.empty(w)
        on, off = weights[0] - weights[1], weights[1]
        for i0 in range(0, n, size):
            s[:] = 0.0
            for d in range(size - 1, -1, -1):  # window of row i0 + d from its start to the border, row i0 + width
                i, k = i0 + d, i0 - width + d
                if 0 <= k < n:
                    x = X[b, k, j0 : j0 + w]
                    for j in range(w):
                        s[j] += x[j]
                if i < n:
                    y = out[b, i, j0 : j0 + w]
                    for j in range(w):
                        y[j] = real(s[j])
            s[:] = 0.0
            for i in range(i0, min(i0 + size, n)):  # and from the border to its end
                if i0 < i and i + width < n:
                    x = X[b, i + width, j0 : j0 + w]
                    for j in range(w):
                        s[j] += x[j]
                x, y = X[b, i, j0 : j0 + w], out[b, i, j0 : j0 + w]
                for j in range(w):
                    y[j] = real(off * (y[j] + s[j]) + on * x[j])


@kernel
def _window_along(X, weights, out):  # type: ignore[no-untyped-def]
    """Differences of running sums in float64: rounded as the sum of the row, for a third to a fifth of the time."""
    B, m, n = X.shape
    items, width = (m + ROWS - 1) // ROWS, len(weights) - 1
    first, size = width + 1, np.uint64(2 * width + 1)
    real = X.dtype.type
    for item in prange(B * items):
        b, start = item // items, item % items * ROWS
        last = min(start + ROWS, m) - 1
        on, off = weights[0] - weights[1], weights[1]
        sums = _buffer(4, n + 2 * first)  # of the entries before j - first
        p0, p1, p2, p3 = sums[0], sums[1], sums[2], sums[3]
        for i in range(start, last + 1, 4):
            x0, x1, x2, x3 = X[b, i], X[b, min(i + 1, last)], X[b, min(i + 2, last)], X[b, min(i + 3, last)]
            s0 = s1 = s2 = s3 = 0.0
            for j in range(first):
                p0[j] = p1[j] = p2[j] = p3[j] = 0.0
            for j in range(n):
                s0 += x0[j]
                s1 += x1[j]
                s2 += x2[j]
                s3 += x3[j]
                p0[first + j], p1[first + j], p2[first + j], p3[first + j] = s0, s1, s2, s3
            for j in range(n + first, n + 2 * first):
                p0[j], p1[j], p2[j], p3[j] = s0, s1, s2, s3
            for k in range(i, min(i + 4, last + 1)):
                p, x, y = sums[k - i], X[b, k], out[b, k]
                for j in range(np.uint64(0), np.uint64(n)):
                    y[j] = real(off * (p[j + size] - p[j]) + on * x[j])


@kernel
def _band_down(X, weights, out):  # type: ignore[no-untyped-def]
    B, n, m = X.shape
    width, items = len(weights) - 1, (n + ROWS - 1) // ROWS
    real = X.dtype.type
    for item in prange(B * items):
        b, start = item // items, item % items * ROWS
        for j0 in range(0, m, NARROW):
            w = min(NARROW, m - j0)
            s = np.empty(w)
            for i in range(start, min(start + ROWS, n)):
                s[:] = 0.0
                for k in range(max(0, i - width), min(n, i + width + 1)):
                    x, c = X[b, k, j0 : j0 + w], weights[abs(i - k)]
                    for j in range(w):
                        s[j] += c * x[j]
                y = out[b, i, j0 : j0 + w]
                for j in range(w):
                    y[j] = real(s[j])


@kernel
def _band_along(X, weights, out):  # type: ignore[no-untyped-def]
    B, m, n = X.shape
    width, items = len(weights) - 1, (m + ROWS - 1) // ROWS
    real = X.dtype.type
    for item in prange(B * items):
        b, start = item // items, item % items * ROWS
        s = np.empty(n)
        for i in range(start, min(start + ROWS, m)):
            x, y = X[b, i], out[b, i]
            for j in range(n):
                s[j] = weights[0] * x[j]
            for lag in range(1, min(width, n - 1) + 1):
                c = weights[lag]
                for j in range(n - lag):
                    s[j] += c * x[j + lag]
                for j in range(n - lag):
                    s[j + lag] += c * x[j]
            for j in range(n):
                y[j] = real(s[j])
