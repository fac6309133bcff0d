"""Reads and writes of whole matrices outside the loop: checks of what came in, product plans, marginals.

NumPy takes one thread and a temporary for each of them; at n 2048 they were a sixth of a solve.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from .. import _protocol as ix
from ._jit import kernel
from .elementary import add

CHUNK = 2**15  # entries of a work item


@kernel
def not_numbers(a, part):  # type: ignore[no-untyped-def]
    """part[k] = NaN where chunk k of the vector a has an entry that is NaN or infinite, else 0."""
    for k in prange(len(part)):
        x = a[k * CHUNK : (k + 1) * CHUNK]
        found = a.dtype.type(0)
        for j in range(len(x)):
            found = add(found, x[j] * a.dtype.type(0))
        part[k] = found


@kernel
def lag_errors(C, band, tolerance, part):  # type: ignore[no-untyped-def]
    """part[k]: entries with |C_ij - w[|i-j|]| > tolerance in block k of rows; band holds w[n-1] ... w[0] ... w[n-1]."""
    n = len(C)
    for k in prange(len(part)):
        wrong = C.dtype.type(0)
        for i in range(k * ix.ROWS, min((k + 1) * ix.ROWS, n)):
            x, w = C[i], band[n - 1 - i :]
            for j in range(n):
                wrong = add(wrong, C.dtype.type(0) if abs(x[j] - w[j]) <= tolerance else C.dtype.type(1))
        part[k] = wrong


@kernel
def outer(x, y, out):  # type: ignore[no-untyped-def]
    """out_ij = x_i y_j, of each problem."""
    B, n, m = out.shape
    blocks = (n + ix.ROWS - 1) // ix.ROWS
    for item in prange(B * blocks):
        b, block = item // blocks, item % blocks
        for i in range(block * ix.ROWS, min((block + 1) * ix.ROWS, n)):
            a, z, o = x[b, i], y[b], out[b, i]
            for j in range(m):
                o[j] = a * z[j]


@kernel
def marginals(T, part, rows, cols):  # type: ignore[no-untyped-def]
    """Row and column sums in float64; `part` (B, blocks, m) takes those of the columns within a block of rows."""
    B, n, m = T.shape
    blocks = part.shape[1]
    for item in prange(B * blocks):
        b, block = item // blocks, item % blocks
        s = part[b, block]
        for j in range(m):
            s[j] = 0.0
        for i in range(block * ix.ROWS, min((block + 1) * ix.ROWS, n)):
            t, total = T[b, i], 0.0
            for j in range(m):
                z = np.float64(t[j])
                total = add(total, z)
                s[j] += z
            rows[b, i] = total
    for b in range(B):
        for j in range(m):
            cols[b, j] = 0.0
        for block in range(blocks):
            for j in range(m):
                cols[b, j] += part[b, block, j]


@kernel
def rounded_change(T, T0, share, weight, out, part):  # type: ignore[no-untyped-def]
    """out <- weight (T - share T0), rounded, what would be denormal to 0; part: sums of |T - share T0| over blocks of rows."""
    B, n, m = T.shape
    blocks = part.shape[1]
    for item in prange(B * blocks):
        b, block = item // blocks, item % blocks
        total, w = 0.0, weight[b]
        for i in range(block * ix.ROWS, min((block + 1) * ix.ROWS, n)):
            t, t0, o = T[b, i], T0[b, i], out[b, i]
            for j in range(m):
                d = t[j] - share * t0[j]
                total = add(total, abs(d))
                d *= w
                o[j] = np.float32(d if abs(d) > ix.TINY else 0.0)
        part[b, block] = total
