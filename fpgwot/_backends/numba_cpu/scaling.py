"""Numba kernels of the entropic solver: the primitives of `_protocol`, over work items of (problem, block of rows).

R, C, S are the vectors of `Scaling` (rows, columns, numbers of each problem), indexed by the names of `_protocol`. They are
passed as arrays: Numba loses what a parallel region writes to arrays inside a tuple. The kernels of the inner solve all take the
whole state, so that its loop hands it on as it is.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from .. import _protocol as ix
from ._jit import helper, jit, kernel
from .elementary import WINDOW, add, exp, largest, log, smallest
from .structured import rows4_of_distances

STRIP = 1024  # columns whose sums may be taken in float32
NARROW = 256  # columns up to which 32 rows stay in the fastest cache

# ------------------------------------------------------------------------------------------------- gradient and outer sums


@kernel
def gradient(  # type: ignore[no-untyped-def]
    A,
    M,
    bias,
    T,
    T0,
    L,
    R,
    C,
    S,
    r,
    c,
    wl,
    wq,
    first,
    size,
    on,
    ahead,
    write,
    scan,
    starts,
    gaps1,
    twice1,
    gaps2,
    t2,
    scale2,
    part,
    out,
):
    """G = wl M + bias + r 1' + 1 c' - 4 wq A in place of A, with the sums LIN ... JUMP of `_protocol`.

    `scan`: A is not there yet, but made row by row from T by the scans of `structured`, while the rows are in the cache.
    `ahead` takes the kernel of a plain step, if `write`. BREG and KL are bounds without logarithms: with D = T - T0 and
    X = max(T, T0), log T - log T0 is D/X or more in size, and T - T0 - T0 log(T/T0) is D^2/(2 X) or more.
    """
    B, n, m = A.shape
    blocks = part.shape[1]
    for item in prange(B * blocks):
        b, block = item // blocks, item % blocks
        part[b, block] = 0.0
        if not on[b]:
            continue
        nb, mb = size[b]
        real = A.dtype.type
        zero, least = real(0), real(np.finfo(A.dtype).tiny)
        kq_w, ie = real(4 * wq[b]), real(1 / S[b, ix.EPS])
        tau = S[b, ix.TAU1] / S[b, ix.EPS]
        rho = tau / (1 + tau) if tau < np.inf else 1.0
        base, pot, scratch = np.empty(mb, A.dtype), np.empty(mb, A.dtype), np.empty(mb, A.dtype)
        rows4 = np.empty((4, mb if scan else 0))
        columns, g, s, end_row = c[b], C[b, ix.G], part[b, block], min((block + 1) * ix.ROWS, nb)
        for i in range(block * ix.ROWS, end_row):
            if scan and i % 4 == 0:
                rows4_of_distances(T, A, b, i, end_row, starts[b, block], gaps1, twice1, gaps2, t2, scale2, mb, rows4)
            a, t, ri, fi = A[b, i], T[b, i], r[b, i], R[b, ix.F, i] + C[b, ix.G, m]
            ell, t0, new = L[b, i], T0[b, i], ahead[b, i] if write else scratch
            x, kl_w = (M[b % M.shape[0], i], real(wl[b])) if M is not None else (t, zero)
            for j in range(mb):
                base[j], pot[j] = real(ri + columns[j]), real(fi + g[j])
            if bias is not None:
                z, bia = bias[b % bias.shape[0], i], 0.0
                for j in range(mb):
                    base[j] += z[j]
                    bia = add(bia, z[j] * t[j])
                s[ix.BIAS] += bia
            whole = 0.0
            for j0 in range(0, mb, STRIP):
                start, end = np.uint64(j0), np.uint64(min(j0 + STRIP, mb))
                cross = lin = ent = fixed = bend = moved = total = zero
                if first[b]:  # there is no T0 yet
                    for j in range(start, end):
                        aj, tj, xj = a[j], t[j], x[j]
                        cross, lin = add(cross, aj * tj), add(lin, xj * tj)
                        a[j] = (base[j] - kq_w * aj) + kl_w * xj
                    for j in range(start, end):
                        ent = add(ent, t[j] * log(t[j]))
                else:
                    for j in range(start, end):
                        aj, tj, xj, tj0, lj = a[j], t[j], x[j], t0[j], ell[j]
                        cross, lin = add(cross, aj * tj), add(lin, xj * tj)
                        cost, d = (base[j] - kq_w * aj) + kl_w * xj, tj - tj0
                        a[j] = cost
                        ent = add(ent, tj * (pot[j] - ie * lj) if tj > 0 else zero)  # log T from the cost that made the plan
                        bend = add(bend, (cost - lj) * d)
                        moved = add(moved, d * (d / max(max(tj, tj0), least)))
                    for j in range(start, end):  # beside the sums the constants of exp would not fit into sixteen registers
                        y = exp(min(pot[j] - ie * a[j], real(50)))
                        new[j] = y
                        total = add(total, y)
                        fixed = add(fixed, abs(y - t[j]))
                s[ix.CROSS] += cross
                s[ix.LIN] += lin if M is not None else zero
                s[ix.ENT] += ent
                s[ix.FIXED] += fixed
                s[ix.BEND] += bend
                s[ix.BREG] += moved
                s[ix.KL] += moved / 2
                whole += total
            if write and not first[b]:
                jump = _row_update(R[b, ix.LOG_P, i], np.log(max(whole, 1e-300)), R[b, ix.F, i], rho, S[b, ix.CAP1])
                s[ix.JUMP] = max(s[ix.JUMP], abs(jump))
    for b in range(B):
        out[b] = 0.0
        for block in range(blocks):
            for k in range(ix.JUMP):
                out[b, k] += part[b, block, k]
            out[b, ix.JUMP] = max(out[b, ix.JUMP], part[b, block, ix.JUMP])


@kernel
def divergences(T, T0, L, R, C, S, size, on, part, out):  # type: ignore[no-untyped-def]
    """out[:, 0] = <T - T0, log T - log T0>, out[:, 1] = KL(T0 || T)."""
    B, n, m = T.shape
    blocks = part.shape[1]
    for item in prange(B * blocks):
        b, block = item // blocks, item % blocks
        part[b, block] = 0.0
        if not on[b]:
            continue
        nb, mb = size[b]
        real = T.dtype.type
        ie = real(1 / S[b, ix.EPS])
        for i in range(block * ix.ROWS, min((block + 1) * ix.ROWS, nb)):
            t, ell, t0 = T[b, i], L[b, i], T0[b, i]
            breg = kl = 0.0
            fi, g = R[b, ix.F, i] + C[b, ix.G, m], C[b, ix.G]
            for j in range(mb):
                d, dl = t[j] - t0[j], real(fi + g[j]) - ie * ell[j] - log(t0[j])
                breg = add(breg, d * dl if d != 0 else real(0))
                kl = add(kl, (d - t0[j] * dl) if t0[j] > 0 else t[j])
            part[b, block, 0] += breg
            part[b, block, 1] += kl
    for b in range(B):
        out[b] = 0.0
        for block in range(blocks):
            out[b, 0] += part[b, block, 0]
            out[b, 1] += part[b, block, 1]


@helper
def _side(x, x0, weight, n, tau, out):  # type: ignore[no-untyped-def]
    """KL price of a marginal, and its Bregman divergences."""
    for i in range(n):
        log_x, log_0 = np.log(max(x[i], 1e-300)), np.log(max(x0[i], 1e-300))
        out[ix.PRICE] += tau * (x[i] * (log_x - np.log(max(weight[i], 1e-300))) - x[i] + weight[i])
        out[ix.BOTH] += tau * (x[i] - x0[i]) * (log_x - log_0)
        out[ix.FORWARD] += tau * (x[i] - x0[i] - x0[i] * (log_x - log_0))


@jit
def marginal_sums(mu, nu, mu0, nu0, s1, s2, r, c, R, C, S, size, out):  # type: ignore[no-untyped-def]
    """The sums TOTAL ... LACK of `_protocol` over the marginals of T and T0."""
    m = C.shape[2] - 1
    for b in range(len(mu)):
        nb, mb = size[b]
        mass = reference = squares = lack = 0.0
        for i in range(nb):
            mass += mu[b, i]
            reference += r[b, i] * mu[b, i]
        for j in range(mb):
            reference += c[b, j] * nu[b, j]
            lack += C[b, ix.G, j] * C[b, ix.GRAD, j]
        if s1 is not None:
            for i in range(nb):
                squares += s1[b, i] * mu[b, i]
            for j in range(mb):
                squares += s2[b, j] * nu[b, j]
        out[b] = 0.0
        out[b, ix.TOTAL], out[b, ix.REFERENCE], out[b, ix.SQUARES] = mass, reference, squares
        out[b, ix.LACK] = lack if S[b, ix.TAU2] == np.inf else 0.0
        if C[b, ix.Q, m] == C[b, ix.Q, m]:
            out[b, ix.LACK] += C[b, ix.G, m] * C[b, ix.GRAD, m]
        if 0 < S[b, ix.TAU1] < np.inf:
            _side(mu[b], mu0[b], R[b, ix.P], nb, S[b, ix.TAU1], out[b])
        if 0 < S[b, ix.TAU2] < np.inf:
            _side(nu[b], nu0[b], C[b, ix.Q], mb, S[b, ix.TAU2], out[b])


@kernel
def roughness(T, G, weight, size, on, part, out):  # type: ignore[no-untyped-def]
    """G += weight (L T + T L') with the Laplacians L of the paths through rows and columns; <T, L T + T L'> per problem."""
    B, n, m = T.shape
    blocks = part.shape[1]
    real = T.dtype.type
    for item in prange(B * blocks):
        b, block = item // blocks, item % blocks
        part[b, block] = 0.0
        if not on[b]:
            continue
        nb, mb = size[b]
        w, total = real(weight[b]), 0.0
        for i in range(block * ix.ROWS, min((block + 1) * ix.ROWS, nb)):
            up, down = max(i - 1, 0), min(i + 1, nb - 1)  # beyond an end stands the row itself: no difference
            t, above, below, g = T[b, i], T[b, up], T[b, down], G[b, i]
            for j in range(mb):
                d = real(4) * t[j] - above[j] - below[j] - t[max(j - 1, 0)] - t[min(j + 1, mb - 1)]
                g[j] += w * d
                total = add(total, d * t[j])
        part[b, block] = total
    for b in range(B):
        out[b] = 0.0  # not part[b].sum(): Numba makes that a parallel sum, whose order depends on the threads
        for block in range(blocks):
            out[b] += part[b, block]


@kernel
def spread(cost, size, part, out):  # type: ignore[no-untyped-def]
    """Mean over the rows of (mean - minimum) of the allowed entries of a cost."""
    B, n, m = cost.shape
    blocks = (n + ix.ROWS - 1) // ix.ROWS
    for item in prange(B * blocks):
        b, block = item // blocks, item % blocks
        nb, mb = size[b]
        real, total = cost.dtype.type, 0.0
        for i in range(block * ix.ROWS, min((block + 1) * ix.ROWS, nb)):
            x, s, k = cost[b, i], 0.0, 0.0
            for j in range(mb):
                s = add(s, x[j] if x[j] < ix.FORBIDDEN_FROM else real(0))
                k = add(k, real(1) if x[j] < ix.FORBIDDEN_FROM else real(0))
            if k > 0:
                total += s / k - smallest(x, mb)
        part[b, block] = total
    for b in range(B):
        total = 0.0
        for block in range(blocks):
            total += part[b, block]
        out[b] = total / max(size[b, 0], 1)


# --------------------------------------------------------------------------------------------------- building the kernel


@kernel
def column_logsums(L, R, C, S, size, on, high, total, out):  # type: ignore[no-untyped-def]
    """log sum_i exp(f_i + g_j + h - L_ij/eps) for every column; `high`, `total` (B, blocks, m) hold maxima and sums."""
    B, n, m = L.shape
    blocks = high.shape[1]
    real = L.dtype.type
    for item in prange(B * blocks):
        b, block = item // blocks, item % blocks
        if not on[b]:
            continue
        nb, mb = size[b]
        hi, su, ie = high[b, block], total[b, block], real(1 / S[b, ix.EPS])
        hi[:], su[:] = real(-1e30), real(0)
        for i in range(block * ix.ROWS, min((block + 1) * ix.ROWS, nb)):
            ell, fi = L[b, i], real(R[b, ix.F, i] + C[b, ix.G, m])
            for j in range(mb):
                hi[j] = max(hi[j], fi - ie * ell[j])
        for i in range(block * ix.ROWS, min((block + 1) * ix.ROWS, nb)):
            ell, fi = L[b, i], real(R[b, ix.F, i] + C[b, ix.G, m])
            for j in range(mb):
                su[j] += exp(max(fi - ie * ell[j], real(-1e30)) - hi[j])
    for b in prange(B):
        if not on[b]:
            continue
        mb = size[b, 1]
        for j in range(mb):
            top = -1e30
            for block in range(blocks):
                top = max(top, np.float64(high[b, block, j]))
            s = 0.0
            for block in range(blocks):
                s += total[b, block, j] * np.exp(high[b, block, j] - top)
            out[b, j] = top + np.log(s) + C[b, ix.G, j]


@helper
def _row_update(log_p, lse, f, rho, cap):  # type: ignore[no-untyped-def]
    """Change of a potential f whose kernel sum (with f in it) is exp(lse)."""
    return min(rho * (log_p - lse + f), cap) - f if rho < 1.0 else min(log_p - lse, cap - f)


@kernel
def kernel_matrix(L, grad, T, T0, R, C, S, size, beta, fresh, on, moved):  # type: ignore[no-untyped-def]
    """L += beta (G - L), T0 += beta (T - T0) (fresh: L = G, T0 = T), then K = exp(f + g + h - L/eps) in place of T.

    `moved`: L and T0 have been moved.
    """
    B, n, m = T.shape
    blocks = (n + ix.ROWS - 1) // ix.ROWS
    real, tiny = T.dtype.type, np.finfo(T.dtype).tiny
    for item in prange(B * blocks):
        b, block = item // blocks, item % blocks
        if not on[b]:
            continue
        nb, mb = size[b]
        ie, be = real(1 / S[b, ix.EPS]), real(beta[b])
        tau = S[b, ix.TAU1] / S[b, ix.EPS]
        rho = tau / (1 + tau) if tau < np.inf else 1.0
        g, h, window = C[b, ix.G], C[b, ix.G, m], np.empty(WINDOW, T.dtype)
        for i in range(block * ix.ROWS, min((block + 1) * ix.ROWS, nb)):
            ell, gr, t, t0 = L[b, i], grad[b, i], T[b, i], T0[b, i]
            if moved:
                pass
            elif fresh[b] or beta[b] == 1.0:
                for j in range(mb):
                    ell[j], t0[j] = gr[j], t[j]
            else:
                for j in range(mb):
                    ell[j] += be * (gr[j] - ell[j])
                    t0[j] = max(t0[j] + be * (t[j] - t0[j]), real(0))  # a long step may pass 0
            fi, total = R[b, ix.F, i] + h, 0.0
            for j in range(mb):
                t[j] = max(real(fi + g[j]) - ie * ell[j], real(-1e30))
            top = largest(t, mb, window)
            for j0 in range(0, mb, STRIP):
                part = real(0)
                for j in range(np.uint64(j0), np.uint64(min(j0 + STRIP, mb))):
                    x = exp(t[j] - top)
                    t[j] = x
                    part = add(part, x)
                total += part
            change = _row_update(R[b, ix.LOG_P, i], top + np.log(total), R[b, ix.F, i], rho, S[b, ix.CAP1])
            scale = real(np.exp(min(change + top, ix.DRIFT)))
            least = tiny / min(scale, real(1))  # no denormal numbers: each costs a hundred others
            for j in range(mb):
                x = t[j] if t[j] >= least else real(0)
                t[j] = x * scale
            R[b, ix.F, i] += change
    for b in range(B):
        if on[b]:
            C[b, ix.Y] = 0.0


# --------------------------------------------------------------------------------------------------------- one fused read


# Entries are addressed as K[b, i, j], not through views of rows: each view costs two atomic reference counts. An index that does
# not start at 0 is unsigned: else Numba asks at each step whether it is negative, and the loop stays scalar, four times slower.


@helper
def _dots4(K, b, i, last, v, mb, sums, at):  # type: ignore[no-untyped-def]
    """sums[at:] <- row products of up to 4 rows with v, in strips so that float32 sums stay short."""
    if last - i == 4:
        d0 = d1 = d2 = d3 = 0.0
        for j0 in range(0, mb, STRIP):
            s0 = s1 = s2 = s3 = K.dtype.type(0)
            for j in range(np.uint64(j0), np.uint64(min(j0 + STRIP, mb))):
                s0 = add(s0, K[b, i, j] * v[j])
                s1 = add(s1, K[b, i + 1, j] * v[j])
                s2 = add(s2, K[b, i + 2, j] * v[j])
                s3 = add(s3, K[b, i + 3, j] * v[j])
            d0 += s0
            d1 += s1
            d2 += s2
            d3 += s3
        sums[at], sums[at + 1], sums[at + 2], sums[at + 3] = d0, d1, d2, d3
    else:
        for k in range(i, last):
            d0 = 0.0
            for j0 in range(0, mb, STRIP):
                s0 = K.dtype.type(0)
                for j in range(np.uint64(j0), np.uint64(min(j0 + STRIP, mb))):
                    s0 = add(s0, K[b, k, j] * v[j])
                d0 += s0
            sums[at + k - i] = d0


@helper
def _add4(K, b, i, last, a, at, mb, part):  # type: ignore[no-untyped-def]
    """part += a[at:]' K over up to 4 rows."""
    real = K.dtype.type
    if last - i == 4:
        a0, a1, a2, a3 = real(a[at]), real(a[at + 1]), real(a[at + 2]), real(a[at + 3])
        for j in range(mb):
            part[j] += (a0 * K[b, i, j] + a1 * K[b, i + 1, j]) + (a2 * K[b, i + 2, j] + a3 * K[b, i + 3, j])
    else:
        for k in range(i, last):
            ak = real(a[at + k - i])
            for j in range(mb):
                part[j] += ak * K[b, k, j]


# exp and log stand in loops of their own over local arrays: next to other arrays the compiler fears aliases, and stays scalar.


@helper
def _log_all(x, n, out):  # type: ignore[no-untyped-def]
    for k in range(n):
        out[k] = log(max(x[k], 1e-300))


@helper
def _exp_all(x, n, out):  # type: ignore[no-untyped-def]
    for k in range(n):
        out[k] = exp(x[k])


@helper
def _hard_rows(R, S, first, last, yh, sums, logs):  # type: ignore[no-untyped-def]
    """Exact update of rows with a hard marginal, from their kernel sums: their dual, mass, and what they had to be cut short."""
    cap, n = S[ix.CAP1], last - first
    _log_all(sums, n, logs)
    price = mass = short = 0.0
    for k in range(n):
        i = first + k
        exact = min(R[ix.LOG_P, i] - logs[k] - yh, cap - R[ix.F, i])
        x = min(exact, ix.DRIFT - yh)
        R[ix.LU, i], logs[k] = x, x + yh
        price += R[ix.P, i] * (R[ix.F, i] + x)
        if exact > x and R[ix.F, i] + x < cap:
            short += abs(R[ix.P, i] - np.exp(x + yh) * sums[k])
    _exp_all(logs, n, logs)
    for k in range(n):
        row = logs[k] * max(sums[k], 1e-300)
        R[ix.E, first + k], R[ix.ROW, first + k] = logs[k], row
        mass += row
    return price, mass, short


@helper
def _soft_rows(R, S, first, last, yh, sums, logs):  # type: ignore[no-untyped-def]
    """The same for rows with a price tau."""
    tau, n = S[ix.TAU1] / S[ix.EPS], last - first
    rho = tau / (1 + tau)
    _log_all(sums, n, logs)
    price = mass = 0.0
    for k in range(n):
        i = first + k
        x = min(_row_update(R[ix.LOG_P, i], logs[k] + yh, R[ix.F, i], rho, S[ix.CAP1]), ix.DRIFT - yh)
        R[ix.LU, i] = x
        row = np.exp(x + yh) * max(sums[k], 1e-300)
        R[ix.E, i], R[ix.ROW, i] = np.exp(x + yh), row
        mass += row
        if tau > 0:
            price -= tau * R[ix.P, i] * np.expm1(-(R[ix.F, i] + x) / tau)
    return price, mass, 0.0


@kernel
def sweep(K, R, C, S, size, v_, hist, part_, part_s, factor_, on):  # type: ignore[no-untyped-def]
    """Rows exact, then column sums: e, lu, row, col, image, grad and out of `Scaling`."""
    B, n, m = K.shape
    blocks = part_.shape[1]
    real = K.dtype.type
    for b in range(B):
        if on[b]:
            scalings = np.empty(size[b, 1])
            _exp_all(C[b, ix.Y], size[b, 1], scalings)
            for j in range(size[b, 1]):
                v_[b, j] = real(scalings[j])
    for item in prange(B * blocks):
        b, block = item // blocks, item % blocks
        if not on[b]:
            continue
        nb, mb = size[b]
        part, v, yh = part_[b, block], v_[b], C[b, ix.Y, m]
        rows, e, numbers, hard = R[b], R[b, ix.E], S[b], S[b, ix.TAU1] == np.inf
        group = ix.ROWS if mb <= NARROW else 4  # rows whose entries are still in the cache for the second product
        sums, logs = np.empty(ix.ROWS), np.empty(ix.ROWS)
        part[:] = real(0)
        price = mass = short = 0.0
        end = min((block + 1) * ix.ROWS, nb)
        for first in range(block * ix.ROWS, end, group):
            last = min(first + group, end)
            for i in range(first, last, 4):
                _dots4(K, b, i, min(i + 4, last), v, mb, sums, i - first)
            if hard:
                totals = _hard_rows(rows, numbers, first, last, yh, sums, logs)
            else:
                totals = _soft_rows(rows, numbers, first, last, yh, sums, logs)
            price, mass, short = price + totals[0], mass + totals[1], short + totals[2]
            for i in range(first, last, 4):
                _add4(K, b, i, min(i + 4, last), e, i, mb, part)
        part_s[b, block, 0], part_s[b, block, 1], part_s[b, block, 2] = price, mass, short
    for b in prange(B):
        if on[b]:
            _finish_sweep(C, S, size, v_, part_, part_s, b, m)


@helper
def _finish_sweep(C, S, size, v_, part_, part_s, b, m):  # type: ignore[no-untyped-def]
    """Column side of a sweep: everything of length m."""
    mb = size[b, 1]
    nblocks = (size[b, 0] + ix.ROWS - 1) // ix.ROWS
    yh, g, cap, fixed = C[b, ix.Y, m], C[b, ix.G], S[b, ix.CAP2], C[b, ix.Q, m] == C[b, ix.Q, m]
    y, col, image, gradient, q, log_q = C[b, ix.Y], C[b, ix.COL], C[b, ix.IMAGE], C[b, ix.GRAD], C[b, ix.Q], C[b, ix.LOG_Q]
    v, tau = v_[b], S[b, ix.TAU2] / S[b, ix.EPS]
    rho = tau / (1 + tau) if tau < np.inf else 1.0
    phi = mass = res = viol = image_mass = 0.0
    for block in range(nblocks):
        phi += part_s[b, block, 0]
        mass += part_s[b, block, 1]
        res += part_s[b, block, 2]
    col[:mb] = 0.0
    for block in range(nblocks):
        part = part_[b, block]
        for j in range(mb):
            col[j] += part[j]
    # col holds e' K, the mass factor included; the Sinkhorn image makes the column sum right at this mass factor
    logs = np.empty(mb)
    _log_all(col, mb, logs)
    for j in range(mb):
        image[j] = min(_row_update(log_q[j], logs[j], g[j], rho, cap), ix.DRIFT)
        logs[j] = image[j] - yh
    if fixed:
        _exp_all(logs, mb, logs)
        for j in range(mb):
            image_mass += max(col[j], 1e-300) * logs[j]
    for j in range(mb):
        col[j] *= v[j]
    if tau == np.inf and cap < np.inf:
        for j in range(mb):
            pot, grad = g[j] + y[j], q[j] - col[j]
            gradient[j] = grad
            phi += q[j] * pot
            res += abs(min(0.0, pot + grad / max(col[j], 1e-300)) - pot) * col[j]
            viol = max(viol, -grad / q[j])
    elif tau == np.inf:
        for j in range(mb):
            grad = q[j] - col[j]
            gradient[j] = grad
            phi += q[j] * (g[j] + y[j])
            res += abs(grad)
            viol = max(viol, abs(grad) / q[j])
    elif tau > 0:
        for j in range(mb):
            pot = g[j] + y[j]
            gradient[j] = q[j] * np.exp(-pot / tau) - col[j]
            phi -= tau * q[j] * np.expm1(-pot / tau)
            res += abs(gradient[j])
    else:
        gradient[:mb] = 0.0
    C[b, ix.IMAGE, m], C[b, ix.GRAD, m] = 0.0, 0.0
    if fixed:
        C[b, ix.IMAGE, m] = np.log(C[b, ix.Q, m]) - np.log(max(image_mass, 1e-300))
        C[b, ix.GRAD, m] = C[b, ix.Q, m] - mass
        phi += C[b, ix.Q, m] * (C[b, ix.G, m] + yh)
        res += abs(C[b, ix.GRAD, m])
        viol = max(viol, abs(C[b, ix.GRAD, m]) / C[b, ix.Q, m])
    S[b, ix.PHI], S[b, ix.RES], S[b, ix.VIOL], S[b, ix.MASS] = phi - mass, res, viol, mass


@kernel
def plan(K, R, C, S, size, v_, on):  # type: ignore[no-untyped-def]
    """T = e K v in place of K, no denormal numbers, which slow products 30 times; f, g, h absorb the scalings.

    Images that mixing holds become those of the last kernel.
    """
    B, n, m = K.shape
    blocks = (n + ix.ROWS - 1) // ix.ROWS
    real, tiny = K.dtype.type, K.dtype.type(1e8) * np.finfo(K.dtype).tiny
    for item in prange(B * blocks):
        b, block = item // blocks, item % blocks
        if not on[b]:
            continue
        nb, mb = size[b]
        v = v_[b]
        for i in range(block * ix.ROWS, min((block + 1) * ix.ROWS, nb)):
            e, t = real(R[b, ix.E, i]), K[b, i]
            for j in range(mb):
                x = min((e * t[j]) * v[j], real(ix.LARGEST))
                t[j] = x if x >= tiny else real(0)
            R[b, ix.F, i] += R[b, ix.LU, i]
    for b in range(B):
        if on[b]:
            for j in range(m + 1):
                C[b, ix.G, j] += C[b, ix.Y, j]
            C[b, ix.Y] = 0.0
            R[b, ix.LU] = 0.0
            S[b, ix.USED] = -abs(S[b, ix.USED])
