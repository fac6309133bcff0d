"""Numba kernels of the entropic solver: the primitives of `_protocol`, over work items of (problem, block of rows).

R, C, S are the vectors of `Scaling` (rows, columns, numbers of each problem), indexed by the names of `_protocol`. They are
passed as arrays: Numba loses what a parallel region writes to arrays inside a tuple.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from .. import _protocol as ix
from ._jit import jit, kernel
from .elementary import exp, log

# ------------------------------------------------------------------------------------------------- gradient and outer sums


@kernel
def gradient(A, M, bias, T, T0, L, R, C, S, r, c, wl, wq, first, size, on, part, out):  # type: ignore[no-untyped-def]
    """G = wl M + bias + r 1' + 1 c' - 4 wq A in place of A, with the sums LIN ... KL of `_protocol`."""
    B, n, m = A.shape
    blocks = part.shape[1]
    for item in prange(B * blocks):
        b, block = item // blocks, item % blocks
        part[b, block] = 0.0
        if not on[b]:
            continue
        nb, mb = size[b]
        real = A.dtype.type
        kl_w, kq_w, ie = real(wl[b]), real(4 * wq[b]), real(1 / S[b, ix.EPS])
        for i in range(block * ix.ROWS, min((block + 1) * ix.ROWS, nb)):
            a, t = A[b, i], T[b, i]
            lin = bia = cross = 0.0
            for j in range(mb):
                cross += a[j] * t[j]
            ri = r[b, i]
            for j in range(mb):
                a[j] = real(ri + c[b, j]) - kq_w * a[j]
            if M is not None:
                x = M[b % M.shape[0], i]
                for j in range(mb):
                    a[j] += kl_w * x[j]
                    lin += x[j] * t[j]
            if bias is not None:
                z = bias[b % bias.shape[0], i]
                for j in range(mb):
                    a[j] += z[j]
                    bia += z[j] * t[j]
            s = part[b, block]
            s[ix.LIN] += lin
            s[ix.BIAS] += bia
            s[ix.CROSS] += cross
            if first[b]:  # there is no T0 yet
                ent = 0.0
                for j in range(mb):
                    ent += t[j] * log(t[j]) if t[j] > 0 else real(0)
                s[ix.ENT] += ent
                continue
            ell, t0 = L[b, i], T0[b, i]
            ent = fixed = bend = breg = kl = 0.0
            fi, g = R[b, ix.F, i] + C[b, ix.G, m], C[b, ix.G]
            for j in range(mb):
                pot = real(fi + g[j])
                lt = pot - ie * ell[j]  # log of the plan, from the cost that made it
                d = t[j] - t0[j]
                dl = lt - log(t0[j])
                ent += t[j] * lt if t[j] > 0 else real(0)
                fixed += abs(exp(min(pot - ie * a[j], real(50))) - t[j])
                bend += (a[j] - ell[j]) * d
                breg += d * dl if d != 0 else real(0)
                kl += (t[j] - t0[j] - t0[j] * dl) if t0[j] > 0 else t[j]
            s[ix.ENT] += ent
            s[ix.FIXED] += fixed
            s[ix.BEND] += bend
            s[ix.BREG] += breg
            s[ix.KL] += kl
    for b in range(B):
        out[b] = 0.0
        for block in range(blocks):
            out[b] += part[b, block]


@jit
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
                total += d * t[j]
        part[b, block] = total
    for b in range(B):
        out[b] = part[b].sum()


@kernel
def spread(cost, size, out):  # type: ignore[no-untyped-def]
    """Mean over the rows of (mean - minimum) of the allowed entries of a cost."""
    for b in prange(cost.shape[0]):
        nb, mb = size[b]
        total = 0.0
        for i in range(nb):
            low, s, k = np.inf, 0.0, 0
            for j in range(mb):
                x = cost[b, i, j]
                if x < ix.FORBIDDEN_FROM:
                    low, s, k = min(low, x), s + x, k + 1
            if k > 0:
                total += s / k - low
        out[b] = total / max(nb, 1)


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


@jit
def _row_update(log_p, lse, f, rho, cap):  # type: ignore[no-untyped-def]
    """Change of a potential f whose kernel sum (with f in it) is exp(lse)."""
    return min(rho * (log_p - lse + f), cap) - f if rho < 1.0 else min(log_p - lse, cap - f)


@kernel
def kernel_matrix(L, grad, T, T0, R, C, S, size, beta, fresh, on):  # type: ignore[no-untyped-def]
    """L += beta (G - L), T0 += beta (T - T0) (fresh: L = G, T0 = T), then K = exp(f + g + h - L/eps) in place of T."""
    B, n, m = T.shape
    blocks = (n + ix.ROWS - 1) // ix.ROWS
    real = T.dtype.type
    for item in prange(B * blocks):
        b, block = item // blocks, item % blocks
        if not on[b]:
            continue
        nb, mb = size[b]
        ie, be = real(1 / S[b, ix.EPS]), real(beta[b])
        tau = S[b, ix.TAU1] / S[b, ix.EPS]
        rho = tau / (1 + tau) if tau < np.inf else 1.0
        g, h = C[b, ix.G], C[b, ix.G, m]
        for i in range(block * ix.ROWS, min((block + 1) * ix.ROWS, nb)):
            ell, gr, t, t0 = L[b, i], grad[b, i], T[b, i], T0[b, i]
            if fresh[b] or beta[b] == 1.0:
                for j in range(mb):
                    ell[j], t0[j] = gr[j], t[j]
            else:
                for j in range(mb):
                    ell[j] += be * (gr[j] - ell[j])
                    t0[j] += be * (t[j] - t0[j])
            fi, top = R[b, ix.F, i] + h, real(-1e30)
            for j in range(mb):
                x = max(real(fi + g[j]) - ie * ell[j], real(-1e30))
                t[j] = x
                top = max(top, x)
            total = 0.0
            for j in range(mb):
                x = exp(t[j] - top)
                t[j] = x
                total += x
            change = _row_update(R[b, ix.LOG_P, i], top + np.log(total), R[b, ix.F, i], rho, S[b, ix.CAP1])
            scale = real(np.exp(min(change + top, ix.DRIFT)))
            for j in range(mb):
                t[j] *= scale
            R[b, ix.F, i] += change
    for b in range(B):
        if on[b]:
            C[b, ix.Y] = 0.0


# --------------------------------------------------------------------------------------------------------- one fused read


@jit
def _dots4(K, i, last, v, mb, sums):  # type: ignore[no-untyped-def]
    """Row products of up to 4 rows with v, in strips so that float32 sums stay short."""
    sums[:] = 0.0
    if last - i == 4:
        k0, k1, k2, k3 = K[i], K[i + 1], K[i + 2], K[i + 3]
        for j0 in range(0, mb, 1024):
            s0 = s1 = s2 = s3 = K.dtype.type(0)
            for j in range(j0, min(j0 + 1024, mb)):
                s0 += k0[j] * v[j]
                s1 += k1[j] * v[j]
                s2 += k2[j] * v[j]
                s3 += k3[j] * v[j]
            sums[0] += s0
            sums[1] += s1
            sums[2] += s2
            sums[3] += s3
    else:
        for k in range(i, last):
            for j0 in range(0, mb, 1024):
                s0 = K.dtype.type(0)
                for j in range(j0, min(j0 + 1024, mb)):
                    s0 += K[k, j] * v[j]
                sums[k - i] += s0


@jit
def _add4(K, i, last, a, mb, part):  # type: ignore[no-untyped-def]
    """part += a' K over up to 4 rows."""
    real = K.dtype.type
    if last - i == 4:
        k0, k1, k2, k3 = K[i], K[i + 1], K[i + 2], K[i + 3]
        a0, a1, a2, a3 = real(a[0]), real(a[1]), real(a[2]), real(a[3])
        for j in range(mb):
            part[j] += (a0 * k0[j] + a1 * k1[j]) + (a2 * k2[j] + a3 * k3[j])
    else:
        for k in range(i, last):
            ak = real(a[k - i])
            for j in range(mb):
                part[j] += ak * K[k, j]


@kernel
def sweep(K, R, C, S, size, v_, part_, part_s, on):  # type: ignore[no-untyped-def]
    """Rows exact, then column sums: e, lu, row, col, image, grad and out of `Scaling`."""
    B, n, m = K.shape
    blocks = part_.shape[1]
    real = K.dtype.type
    for b in range(B):
        if on[b]:
            for j in range(size[b, 1]):
                v_[b, j] = real(exp(C[b, ix.Y, j]))
    for item in prange(B * blocks):
        b, block = item // blocks, item % blocks
        if not on[b]:
            continue
        nb, mb = size[b]
        part, v, yh = part_[b, block], v_[b], C[b, ix.Y, m]
        tau = S[b, ix.TAU1] / S[b, ix.EPS]
        rho = tau / (1 + tau) if tau < np.inf else 1.0
        sums, a = np.empty(4), np.empty(4)
        part[:] = real(0)
        price = mass = short = 0.0
        for i in range(block * ix.ROWS, min((block + 1) * ix.ROWS, nb), 4):
            last = min(i + 4, min((block + 1) * ix.ROWS, nb))
            _dots4(K[b], i, last, v, mb, sums)
            for k in range(i, last):
                kv = max(sums[k - i], 1e-300)
                fk = R[b, ix.F, k]
                lu = _row_update(R[b, ix.LOG_P, k], np.log(kv) + yh, fk, rho, S[b, ix.CAP1])
                cut = lu + yh > ix.DRIFT
                lu = ix.DRIFT - yh if cut else lu
                e = np.exp(lu + yh)
                R[b, ix.LU, k], R[b, ix.E, k], a[k - i] = lu, e, e
                row = e * kv
                R[b, ix.ROW, k] = row
                mass += row
                if cut and tau == np.inf and fk + lu < S[b, ix.CAP1]:  # not the exact row update: say so
                    short += abs(R[b, ix.P, k] - row)
                if tau == np.inf:
                    price += R[b, ix.P, k] * (fk + lu)
                elif tau > 0:
                    price -= tau * R[b, ix.P, k] * np.expm1(-(fk + lu) / tau)
            _add4(K[b], i, last, a, mb, part)
        part_s[b, block, 0], part_s[b, block, 1], part_s[b, block, 2] = price, mass, short
    for b in prange(B):
        if on[b]:
            _finish_sweep(C, S, size, v_, part_, part_s, b, m)


@jit
def _finish_sweep(C, S, size, v_, part_, part_s, b, m):  # type: ignore[no-untyped-def]
    """Column side of a sweep: everything of length m."""
    mb = size[b, 1]
    nblocks = (size[b, 0] + ix.ROWS - 1) // ix.ROWS
    yh, g, cap, fixed = C[b, ix.Y, m], C[b, ix.G], S[b, ix.CAP2], C[b, ix.Q, m] == C[b, ix.Q, m]
    tau = S[b, ix.TAU2] / S[b, ix.EPS]
    rho = tau / (1 + tau) if tau < np.inf else 1.0
    phi = mass = res = viol = image_mass = 0.0
    for block in range(nblocks):
        phi += part_s[b, block, 0]
        mass += part_s[b, block, 1]
        res += part_s[b, block, 2]
    for j in range(mb):
        ku = 0.0
        for block in range(nblocks):
            ku += part_[b, block, j]
        # ku holds e' K, the mass factor included; the Sinkhorn image makes the column sum right at this mass factor
        col, pot = ku * v_[b, j], g[j] + C[b, ix.Y, j]
        log_ku = np.log(max(ku, 1e-300))
        y = min(_row_update(C[b, ix.LOG_Q, j], log_ku, g[j], rho, cap), ix.DRIFT)
        C[b, ix.IMAGE, j], C[b, ix.COL, j] = y, col
        if fixed:
            image_mass += np.exp(log_ku - yh + y)
        if tau == np.inf:
            grad = C[b, ix.Q, j] - col
            phi += C[b, ix.Q, j] * pot
            if cap < np.inf:
                res += abs(min(0.0, pot + grad / max(col, 1e-300)) - pot) * col
                viol = max(viol, -grad / C[b, ix.Q, j])
            else:
                res += abs(grad)
                viol = max(viol, abs(grad) / C[b, ix.Q, j])
        elif tau > 0:
            grad = C[b, ix.Q, j] * np.exp(-pot / tau) - col
            phi -= tau * C[b, ix.Q, j] * np.expm1(-pot / tau)
            res += abs(grad)
        else:
            grad = 0.0
        C[b, ix.GRAD, j] = grad
    C[b, ix.IMAGE, m], C[b, ix.GRAD, m] = 0.0, 0.0
    if fixed:
        C[b, ix.IMAGE, m] = np.log(C[b, ix.Q, m]) - np.log(max(image_mass, 1e-300))
        C[b, ix.GRAD, m] = C[b, ix.Q, m] - mass
        phi += C[b, ix.Q, m] * (C[b, ix.G, m] + yh)
        res += abs(C[b, ix.GRAD, m])
        viol = max(viol, abs(C[b, ix.GRAD, m]) / C[b, ix.Q, m])
    S[b, ix.PHI], S[b, ix.RES], S[b, ix.VIOL], S[b, ix.MASS] = phi - mass, res, viol, mass


# ---------------------------------------------------------------------------------------------------- Anderson and Newton


@jit
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


@jit
def _set_y(C, S, b, j, y):  # type: ignore[no-untyped-def]
    """Store a log scaling, within its cap and within what a float can hold."""
    C[b, ix.Y, j] = min(max(min(y, S[b, ix.CAP2] - C[b, ix.G, j]), -ix.DRIFT), ix.DRIFT)


@kernel
def anderson(C, S, size, hist, restart, on):  # type: ignore[no-untyped-def]
    """y <- combination of the last images with least residual; `restart` keeps the newest image only and takes it."""
    B, m = C.shape[0], C.shape[2] - 1
    for b in prange(B):
        if not on[b]:
            continue
        mb, k = size[b, 1], int(S[b, ix.USED])
        X, D = hist[b, 0], hist[b, 1]
        if restart[b]:  # the mixed point was worse than the image: go back to the image
            X[0], D[0] = X[k - 1], D[k - 1]
            S[b, ix.USED] = 1
            for j in range(mb):
                _set_y(C, S, b, j, X[0, j])
            C[b, ix.Y, m] = X[0, m]
            continue
        if k == ix.MEMORY + 1:
            for i in range(ix.MEMORY):
                X[i], D[i] = X[i + 1], D[i + 1]
            k -= 1
        X[k], D[k] = C[b, ix.IMAGE], C[b, ix.IMAGE] - C[b, ix.Y]
        S[b, ix.USED] = k + 1
        w, A = np.zeros(ix.MEMORY), np.zeros((ix.MEMORY, ix.MEMORY))
        for i in range(k):
            for j in range(m + 1):
                w[i] += (D[k, j] - D[i, j]) * D[k, j]
            for i2 in range(i + 1):
                dot = 0.0
                for j in range(m + 1):
                    dot += (D[k, j] - D[i, j]) * (D[k, j] - D[i2, j])
                A[i, i2] = A[i2, i] = dot
        trace = 0.0
        for i in range(k):
            trace += A[i, i]
        for i in range(k):
            A[i, i] += 1e-10 * trace + 1e-300
        _solve_small(A, w, k)
        if not np.abs(w[:k]).sum() < 1e3:
            w[:] = 0.0
        for j in range(m + 1):
            y = X[k, j]
            for i in range(k):
                y -= w[i] * (X[k, j] - X[i, j])
            if j < m:
                _set_y(C, S, b, j, y)
            else:
                C[b, ix.Y, m] = min(max(y, -ix.DRIFT), ix.DRIFT)


@kernel
def newton(K, R, C, S, size, v_, part_, part_s, on):  # type: ignore[no-untyped-def]
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
                free = tau > 0 and (S[b, ix.CAP1] == np.inf or R[b, ix.F, k] + R[b, ix.LU, k] < -1e-13)
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
            _finish_newton(C, S, size, part_, part_s, b, m)


@jit
def _finish_newton(C, S, size, part_, part_s, b, m):  # type: ignore[no-untyped-def]
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
        free = tau > 0 and not (capped and pot >= -1e-13 and grad > 0)
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
    norm = rz = 0.0
    for j in range(m + 1):
        r = C[b, ix.CG_R, j]
        z = r / C[b, ix.PRE, j] if r != 0.0 else 0.0
        C[b, ix.CG_D, j], C[b, ix.CG_X, j] = z, 0.0
        norm += abs(r)
        rz += r * z
    S[b, ix.RZ], S[b, ix.NORM], S[b, ix.SHIFT] = rz, norm, shift
    S[b, ix.DONE] = 0.0 if norm > 0 else 1.0
    C[b, ix.Y0], C[b, ix.GRAD0] = C[b, ix.Y], C[b, ix.GRAD]


@kernel
def cg(K, R, C, S, size, v_, part_, part_s, stop, on):  # type: ignore[no-untyped-def]
    """One conjugate gradient step on (D + shift - T' w T) x = grad; DONE = 1 where the residual fell by `stop`."""
    B, n, m = K.shape
    blocks = part_.shape[1]
    real = K.dtype.type
    vd = np.empty((B, m), K.dtype)
    for b in range(B):
        if on[b]:
            for j in range(size[b, 1]):
                vd[b, j] = real(v_[b, j] * C[b, ix.CG_D, j]) if C[b, ix.DIAG, j] > 0 else real(0)
    for item in prange(B * blocks):
        b, block = item // blocks, item % blocks
        if not on[b]:
            continue
        nb, mb = size[b]
        part = part_[b, block]
        part[:] = real(0)
        dh = C[b, ix.CG_D, m]
        cross = 0.0
        sums, a = np.empty(4), np.empty(4)
        for i in range(block * ix.ROWS, min((block + 1) * ix.ROWS, nb), 4):
            last = min(i + 4, min((block + 1) * ix.ROWS, nb))
            _dots4(K[b], i, last, vd[b], mb, sums)
            for k in range(i, last):
                t = R[b, ix.W, k] * (R[b, ix.E, k] * sums[k - i] + R[b, ix.ROW, k] * dh)
                cross += R[b, ix.ROW, k] * t
                a[k - i] = R[b, ix.E, k] * t
            _add4(K[b], i, last, a, mb, part)
        part_s[b, block, 0] = cross
    for b in prange(B):
        if on[b]:
            _finish_cg(C, S, size, v_, part_, part_s, b, m, stop)


@jit
def _finish_cg(C, S, size, v_, part_, part_s, b, m, stop):  # type: ignore[no-untyped-def]
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
        if r[j] != 0.0:
            rz_new += r[j] * r[j] / C[b, ix.PRE, j]
    ratio = rz_new / max(rz, 1e-300)
    for j in range(m + 1):
        d[j] = (r[j] / C[b, ix.PRE, j] if r[j] != 0.0 else 0.0) + ratio * d[j]
    S[b, ix.RZ] = rz_new
    if left < stop * norm or not curve > 0.0:
        S[b, ix.DONE] = 1.0


@kernel
def trial(C, S, size, a, on):  # type: ignore[no-untyped-def]
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
def plan(K, R, C, S, size, v_, on):  # type: ignore[no-untyped-def]
    """T = e K v in place of K; f, g, h absorb the scalings."""
    B, n, m = K.shape
    blocks = (n + ix.ROWS - 1) // ix.ROWS
    real = K.dtype.type
    for item in prange(B * blocks):
        b, block = item // blocks, item % blocks
        if not on[b]:
            continue
        nb, mb = size[b]
        v = v_[b]
        for i in range(block * ix.ROWS, min((block + 1) * ix.ROWS, nb)):
            e, t = real(R[b, ix.E, i]), K[b, i]
            for j in range(mb):
                t[j] = min((e * t[j]) * v[j], real(ix.LARGEST))
            R[b, ix.F, i] += R[b, ix.LU, i]
    for b in range(B):
        if on[b]:
            C[b, ix.G] += C[b, ix.Y]
            C[b, ix.Y] = 0.0
            R[b, ix.LU] = 0.0
