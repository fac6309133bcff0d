r"""Derivatives of a solution: of its value (envelope theorem) and of its plan (implicit differentiation).

F(T; theta) is the objective, T its minimiser, and A T = b the marginal conditions that hold with equality there: hard sides,
capped points with a potential below their cap, a fixed mass. With the Hessian H = diag(reg/T) + K of F, K that of the energy and
of the soft marginals, the adjoint of a cotangent R of the plan is the U of

    H U + A' w = R,    A U = 0                              (symmetric: the KKT matrix is its own adjoint)

    d(v F + <R, T>) = v d_theta F - d_theta <U, grad_T F> + (v (f, g, h) + w) db          at fixed T and U.

Without R this is the envelope theorem: U = w = 0, and the potentials (f, g, h) are what the weights and the mass are worth.

The system is solved by conjugate gradients on the plans with A U = 0. The preconditioner P solves it without the energy, that
is a linear transport problem, from a Cholesky factor of its Schur complement on the columns. P leaves A U = 0 exact at any
reg, and products with K cost what a gradient costs, so structures stay operators. Written against `be.xp`, any backend's arrays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from .marginals import fixed_mass
from .structure import Structure, loss_slopes

RIDGE = 1e-12  # of the Schur matrix with a unit diagonal: its null vectors are constants of the potentials, which U does not see
STOP, STEPS = 1e-9, 300  # conjugate gradients: relative residual in the norm of P, and most steps


@dataclass(frozen=True)
class Optimum:
    """A batch of solved problems in the caller's units; points without weight have plan 0."""

    be: Any
    T: Any  # (B, n, m)
    potentials: tuple[Any, Any, Any]  # (B, n), (B, m), (B,)
    p: Any
    q: Any
    M: Any  # (B or 1, n, m) or None
    C1: Structure | None
    C2: Structure | None
    loss: str
    alpha: np.ndarray  # (B,)
    reg: np.ndarray
    tau: tuple[float, float]
    price: np.ndarray | None  # tv
    mass: np.ndarray | None  # as given
    smoothness: np.ndarray
    reference: Any  # (B or 1, n, m), (B or 1, 1, 1), or None: p q'

    def in_double(self) -> Optimum:
        """The same with plan and structures in float64."""
        if self.T.dtype == np.float64:
            return self
        C = [None if D is None else D.in_double() for D in (self.C1, self.C2)]
        return replace(self, T=self.T.astype(float), C1=C[0], C2=C[1])

    @cached_property
    def squares(self) -> tuple[Structure, Structure]:
        """The elementwise squares of the structures, the mean with their transposes."""
        return self.C1.square().symmetrized(), self.C2.square().symmetrized()  # type: ignore[union-attr]


@dataclass(frozen=True)
class Adjoint:
    """Solution of the adjoint system: U, the multipliers w of rows, columns and mass, and its relative residual per problem."""

    U: Any
    rows: Any
    cols: Any
    mass: Any
    residual: np.ndarray


@dataclass(frozen=True)
class _Conditions:
    """Which marginal conditions hold with equality (`hard`), and the compliance mu/tau of the soft ones."""

    hard: tuple[Any, Any]  # boolean (B, n), (B, m)
    soft: tuple[float, float]  # finite positive price of a side, else 0
    total: Any  # boolean (B,): the mass has a multiplier of its own


def conditions(o: Optimum) -> _Conditions:
    """Read from the potentials: a capped point whose potential is at the cap is free."""
    xp, (f, g, _) = o.be.xp, o.potentials
    weights, potentials = (o.p, o.q), (f, g)
    capped, total = _capped(o)
    hard = tuple(
        (w > 0) & np.isinf(t) & (~xp.asarray(capped[:, side])[:, None] | (x < 0))
        for side, (w, x, t) in enumerate(zip(weights, potentials, o.tau, strict=True))
    )
    soft = tuple(t if 0 < t < np.inf else 0.0 for t in o.tau)
    return _Conditions(hard, soft, xp.asarray(total))  # type: ignore[arg-type]


def _capped(o: Optimum) -> tuple[np.ndarray, np.ndarray]:
    """(B, 2) whether a side is an inequality, (B,) whether the mass is fixed apart from the sides."""
    B = len(o.T)
    if o.mass is None:
        return np.full((B, 2), o.price is not None), np.zeros(B, bool)
    host = o.be.host
    _, fixed, cap, _ = fixed_mass(o.mass, host(o.p.sum(1)), host(o.q.sum(1)))
    return cap == 0, ~np.isnan(fixed)


# ------------------------------------------------------------------------------------------------------------------ energy


def energy_gradient(o: Optimum, D: Any, alpha: Any = None) -> Any:
    """alpha grad E(D), which is linear in D and its own adjoint: half of <., D> is the energy of D."""
    be, C1, C2 = o.be, o.C1, o.C2
    weight = (o.alpha if alpha is None else alpha)[:, None, None]
    if C1 is None or C2 is None or not np.any(weight):
        return be.xp.zeros_like(D)
    A = C2.rmatmul(be, C1.matmul(be, D), transpose=True)
    if not (C1.is_symmetric and C2.is_symmetric):
        A = (A + C2.rmatmul(be, C1.matmul(be, D, transpose=True))) / 2
    weight = be.xp.asarray(weight, dtype=D.dtype)
    if o.loss == "product":
        return 2 * weight * A
    s1, s2 = (C.matmul(be, x[:, :, None])[:, :, 0] for C, x in zip(o.squares, (D.sum(2), D.sum(1)), strict=True))
    A *= -4
    A += 2 * s1[:, :, None]
    A += 2 * s2[:, None, :]
    A *= weight
    return A


def laplacian(xp: Any, D: Any) -> Any:
    """L D + D L' with the Laplacians of the paths through rows and columns."""
    out = xp.zeros_like(D)
    rows, cols = xp.diff(D, axis=1), xp.diff(D, axis=2)
    out[:, :-1] -= rows
    out[:, 1:] += rows
    out[:, :, :-1] -= cols
    out[:, :, 1:] += cols
    return out


# ----------------------------------------------------------------------------------------------------------------- adjoint


class _Linear:
    """P: the adjoint system without the energy."""

    def __init__(self, o: Optimum, c: _Conditions) -> None:
        xp = self.xp = o.be.xp
        self.S = S = o.T / xp.asarray(o.reg)[:, None, None]
        mu, nu = o.T.sum(2), o.T.sum(1)
        self.hard, self.soft, self.total = c.hard, c.soft, c.total
        self.s, t = S.sum(2), S.sum(1)
        give = [x / price if price else xp.zeros_like(x) for x, price in zip((mu, nu), c.soft, strict=True)]
        held = [hard | ((x > 0) & (price > 0)) for hard, x, price in zip(c.hard, (mu, nu), c.soft, strict=True)]
        rows, self.cols = held
        self.w = xp.where(rows, 1 / xp.where(rows, self.s + give[0], 1), 0.0)
        self.u = xp.where(c.hard[0], 0.0, xp.where(rows, give[0] * self.w, 1.0))  # 1 - w s, free of cancellation
        B, m = t.shape
        self.free = xp.concatenate((~self.cols, ~self.total[:, None]), axis=1)
        A = xp.empty((B, m + 1, m + 1))
        A[:, :m, :m] = -(S * self.w[:, :, None]).swapaxes(1, 2) @ S
        A[:, m, :m] = A[:, :m, m] = (S.swapaxes(1, 2) @ self.u[:, :, None])[:, :, 0]
        A[:, m, m] = (self.s * self.u).sum(1)
        index = xp.arange(m)
        A[:, index, index] += t + give[1]
        self.d = 1 / xp.sqrt(xp.where(self.free, 1.0, xp.concatenate((t + give[1], S.sum((1, 2))[:, None]), axis=1)))
        A *= xp.where(self.free, 0.0, self.d)[:, :, None] * xp.where(self.free, 0.0, self.d)[:, None, :]
        index = xp.arange(m + 1)
        A[:, index, index] += xp.where(self.free, 1.0, RIDGE)
        self.inverse = xp.linalg.inv(xp.linalg.cholesky(A))

    def __call__(self, R: Any) -> tuple[Any, Any, Any, Any, Any]:
        """U with A U = 0, the residual R - A' w, and the multipliers w of rows, columns and mass."""
        xp, S = self.xp, self.S
        X = S * R
        r1, r2 = X.sum(2), X.sum(1)
        rhs = xp.concatenate((r2 - ((self.w * r1)[:, None, :] @ S)[:, 0], (self.u * r1).sum(1)[:, None]), axis=1)
        rhs = xp.where(self.free, 0.0, rhs * self.d)[:, :, None]
        y = (self.inverse.swapaxes(1, 2) @ (self.inverse @ rhs))[:, :, 0] * xp.where(self.free, 0.0, self.d)
        b, c = y[:, :-1], y[:, -1]
        a = self.w * (r1 - (S @ b[:, :, None])[:, :, 0] - self.s * c[:, None])
        W = R - a[:, :, None]
        W -= (b + c[:, None])[:, None, :]
        U = S * W
        for side, (x, hard) in enumerate(zip((a, b), self.hard, strict=True)):
            if self.soft[side]:  # a soft side is part of the Hessian: what it adds belongs to the residual
                W += xp.where(hard, 0.0, x)[:, :, None] if side == 0 else xp.where(hard, 0.0, x)[:, None, :]
        return U, W, xp.where(self.hard[0], a, 0.0), xp.where(self.hard[1], b, 0.0), c


def plan_adjoint(o: Optimum, R: Any) -> Adjoint:
    """Solve the adjoint system for the cotangent R (B, n, m) of the plan, in float64.

    Set-up O(n m^2 + m^3) on the smaller side m, then one structure product and five reads of n x m arrays per step.

    Raises
    ------
    ValueError
        reg = 0: the plan is a vertex, piecewise constant in the costs; or one of its marginals where those are soft.
    """
    if not (o.reg > 0).all():
        raise ValueError(
            "a plan without entropy (reg=0) has no useful gradient, with hard marginals it is piecewise constant in the costs: "
            "pass reg > 0, use the value, or take plan.detach()"
        )
    o, R = o.in_double(), R.astype(float)
    if o.T.shape[2] > o.T.shape[1]:  # the Schur complement lives on the smaller side
        back = plan_adjoint(_transposed(o), o.be.xp.ascontiguousarray(R.swapaxes(1, 2)))
        return Adjoint(back.U.swapaxes(1, 2), back.cols, back.rows, back.mass, back.residual)
    xp, host = o.be.xp, o.be.host
    P = _Linear(o, conditions(o))
    smooth = xp.asarray(o.smoothness)[:, None, None] if o.smoothness.any() else None
    curved = (o.C1 is not None and o.alpha.any()) or smooth is not None

    def bend(D: Any) -> Any:
        K = energy_gradient(o, D)
        return K if smooth is None else K + smooth * laplacian(xp, D)

    z, r, a, b, c = P(R)
    if not curved:
        return Adjoint(z, a, b, c, np.zeros(len(R)))
    U, d, Hd = xp.zeros_like(z), z.copy(), r.copy()
    rz = first = xp.maximum(_dot(xp, r, z), 0.0)
    on = rz > 0
    for _ in range(STEPS):
        Ad = Hd + bend(d)
        curve = _dot(xp, d, Ad)
        on = on & (curve != 0)
        step = xp.where(on, rz / xp.where(on, curve, 1), 0.0)[:, None, None]
        U += step * d
        z, r, *_ = P(r - step * Ad)
        old, rz = rz, xp.where(on, _dot(xp, r, z), rz)
        on = on & (rz > STOP**2 * first)
        if not bool(host(on).any()):
            break
        turn = xp.where(on, rz / xp.where(old > 0, old, 1), 0.0)[:, None, None]
        d, Hd = z + turn * d, r + turn * Hd
    U, r, a, b, c = P(R - bend(U))  # one more step of the fixed point U = P(R - K U), which has the multipliers as well
    start = host(xp.maximum(first, 1e-300))
    return Adjoint(U, a, b, c, np.sqrt(np.maximum(host(rz), 0) / start))


def _dot(xp: Any, A: Any, B: Any) -> Any:
    return xp.einsum("bij,bij->b", A, B)


def _transposed(o: Optimum) -> Optimum:
    f, g, h = o.potentials
    M, Q = (x if x is None else x.swapaxes(1, 2) for x in (o.M, o.reference))
    swapped = {"T": o.be.xp.ascontiguousarray(o.T.swapaxes(1, 2)), "potentials": (g, f, h), "p": o.q, "q": o.p}
    return replace(o, **swapped, M=M, C1=o.C2, C2=o.C1, tau=(o.tau[1], o.tau[0]), reference=Q)


# --------------------------------------------------------------------------------------------------------------- gradients


class Gradients:
    """Derivatives of sum_b v_b value_b + <R_b, T_b> in every argument; each method costs what its array needs.

    v : (B,), the weight of the value; adjoint : that of R, None where only the value counts.
    """

    def __init__(self, o: Optimum, v: Any, adjoint: Adjoint | None) -> None:
        if adjoint is not None:
            o = o.in_double()
        self.o, self.adjoint, xp = o, adjoint, o.be.xp
        self.v = xp.asarray(v, dtype=o.T.dtype)
        vT = self.v[:, None, None] * o.T
        self.W = vT if adjoint is None else vT - adjoint.U  # derivative in the cost of each pair
        self.Y = vT / 2 if adjoint is None else vT / 2 - adjoint.U

    def _weight(self, x: np.ndarray) -> Any:
        return self.o.be.xp.asarray(x, dtype=self.o.T.dtype)[:, None, None]

    def cost(self) -> Any:
        """In M: (1 - alpha) W."""
        return self._weight(1 - self.o.alpha) * self.W

    def structure(self, side: int) -> Any:
        """In every entry of C1 (side 0) or C2, (B, n, n): O(n^2 m + n m^2), less where the other one is an operator."""
        o, (T, Y, C, D) = self.o, self._sides(side)
        X = D.rmatmul(o.be, T) @ Y.swapaxes(1, 2)
        X += X.swapaxes(1, 2) if D.is_symmetric else D.rmatmul(o.be, Y) @ T.swapaxes(1, 2)
        if o.loss != "product":
            t, y, (own, turn) = T.sum(2), Y.sum(2), loss_slopes(o.be, C, o.loss, side)
            X *= -turn
            X += own * (t[:, :, None] * y[:, None, :] + y[:, :, None] * t[:, None, :])
        X *= self._weight(o.alpha)
        return X

    def lags(self, side: int, weights: Any) -> Any:
        """In the weights of a Toeplitz structure, C_ik = weights[|i-k|], (B, n): O(n m log n), no n x n array."""
        o, (T, Y, _, D) = self.o, self._sides(side)
        xp = o.be.xp
        X = _lag_sums(xp, D.rmatmul(o.be, T), Y) + _lag_sums(xp, D.rmatmul(o.be, Y), T)
        if o.loss == "square":
            t, y = T.sum(2, keepdims=True), Y.sum(2, keepdims=True)
            X *= -2
            X += 4 * xp.asarray(weights) * _lag_sums(xp, t, y)
        return X * self._weight(o.alpha)[:, :, 0]

    def _sides(self, side: int) -> tuple[Any, Any, Structure, Structure]:
        """Plan, Y and structures with the side that is asked for first."""
        C, D = (self.o.C1, self.o.C2) if side == 0 else (self.o.C2, self.o.C1)
        assert C is not None and D is not None
        T, Y, straight = self.o.T, self.Y, self.o.be.xp.ascontiguousarray  # kernels of operators want rows in order
        return (T, Y, C, D) if side == 0 else (straight(T.swapaxes(1, 2)), straight(Y.swapaxes(1, 2)), C, D)

    def trade(self) -> Any:
        """In alpha, (B,)."""
        o = self.o
        out = (energy_gradient(o, o.T, np.ones(len(o.T))) * self.Y).sum((1, 2))
        return out if o.M is None else out - (o.M * self.W).sum((1, 2))

    def entropy(self) -> Any:
        """In reg, (B,): v KL(T || Q) - <U, log(T/Q)>."""
        o, xp = self.o, self.o.be.xp
        Q = o.p[:, :, None] * o.q[:, None, :] if o.reference is None else xp.broadcast_to(o.reference, o.T.shape)
        log = xp.log(xp.where(o.T > 0, o.T, 1)) - xp.log(xp.where(o.T > 0, Q, 1))
        return (self.W * log).sum((1, 2)) + self.v * (Q.sum((1, 2)) - o.T.sum((1, 2)))

    def reference(self) -> Any:
        """In every entry of the reference plan, (B, n, m); 0 where it forbids a pair."""
        o, xp = self.o, self.o.be.xp
        Q = xp.broadcast_to(o.reference, o.T.shape)
        return self._weight(o.reg) * xp.where(Q > 0, self.v[:, None, None] - self.W / xp.where(Q > 0, Q, 1), 0.0)

    def roughness(self) -> Any:
        """In smoothness, (B,)."""
        return (laplacian(self.o.be.xp, self.o.T) * self.Y).sum((1, 2))

    def price(self) -> Any:
        """In tv, (B,)."""
        return self.v * (self.o.p.sum(1) + self.o.q.sum(1)) - 2 * self.W.sum((1, 2))

    def marginal_prices(self) -> tuple[Any, Any]:
        """In tau of the rows and of the columns, (B,) each; 0 where a side is hard."""
        o, xp, out = self.o, self.o.be.xp, []
        for side, (weight, tau) in enumerate(zip((o.p, o.q), o.tau, strict=True)):
            x, w = o.T.sum(2 - side), self.W.sum(2 - side)
            log = xp.log(xp.where(x > 0, x, 1)) - xp.log(xp.where(x > 0, weight, 1))
            total = (w * log).sum(1) + self.v * (weight.sum(1) - x.sum(1))
            out.append(total if 0 < tau < np.inf else 0 * total)
        return out[0], out[1]

    def weights(self) -> tuple[Any, Any, Any]:
        """In p, q and m: (B, n), (B, m), (B,).

        Multipliers of the conditions, and what the weights do in the reference p q' and in soft prices. Where all conditions are
        equalities their constants are free: a problem without `m` gets the ones for which the means of both (under p and q) are
        equal, so that every change that keeps the totals equal is priced right. A side that a given mass uses up gets the least
        multiplier of the mass, the derivative towards smaller masses. Points of weight 0 get 0.
        """
        o, xp = self.o, self.o.be.xp
        capped, _ = _capped(o)
        raw, value = [], self.v
        parts: tuple[Any, Any, Any] = (0.0, 0.0, 0.0) if self.adjoint is None else (
            self.adjoint.rows, self.adjoint.cols, self.adjoint.mass
        )  # fmt: skip
        worth = value * o.potentials[2] + parts[2]
        for side, (w, tau) in enumerate(zip((o.p, o.q), o.tau, strict=True)):
            on = (w > 0) & np.isinf(tau)
            potential = xp.where(on, o.potentials[side], 0.0)
            x = xp.where(on, value[:, None] * potential + parts[side], 0.0)
            if o.mass is not None:
                top = xp.take_along_axis(x, xp.where(on, potential, -np.inf).argmax(1)[:, None], axis=1)[:, 0]
                top = xp.where(xp.asarray(capped[:, side]), 0.0, top)
                x, worth = xp.where(on, x - top[:, None], 0.0), worth + top
            raw.append(x)
        if o.mass is None and o.price is None and all(np.isinf(o.tau)):
            shift = ((raw[1] * o.q).sum(1) / o.q.sum(1) - (raw[0] * o.p).sum(1) / o.p.sum(1)) / 2
            raw = [xp.where(w > 0, x + sign * shift[:, None], 0.0) for x, w, sign in zip(raw, (o.p, o.q), (1, -1), strict=True)]
        for side, (w, other, tau) in enumerate(zip((o.p, o.q), (o.q, o.p), o.tau, strict=True)):
            share = self.W.sum(2 - side) / xp.where(w > 0, w, 1)
            extra = xp.zeros_like(share)
            if o.reference is None:
                extra += xp.asarray(o.reg)[:, None] * (value * other.sum(1))[:, None] - xp.asarray(o.reg)[:, None] * share
            if 0 < tau < np.inf:
                extra += tau * (value[:, None] - share)
            if o.price is not None:
                extra += (value * xp.asarray(o.price))[:, None]
            raw[side] = raw[side] + xp.where(w > 0, extra, 0.0)
        return raw[0], raw[1], worth


def _lag_sums(xp: Any, A: Any, B: Any) -> Any:
    """sum over |i-k| = l and over j of A_ij B_kj, for every lag l: correlations by FFT, (B, n)."""
    n = A.shape[1]
    a, b = xp.fft.rfft(A, 2 * n, axis=1), xp.fft.rfft(B, 2 * n, axis=1)
    both = xp.fft.irfft((a * b.conj()).sum(2), 2 * n, axis=1)
    out = both[:, :n].copy()
    out[:, 1:] += both[:, :n:-1]
    return out.astype(A.dtype)
