"""The exact solver (reg = 0): conditional gradient whose linear programs run on few arcs and are certified on all.

    F(T) = w_lin <M,T> + w_quad E(T),     E(T) = sum_ijkl (C1_ik - C2_jl)^2 T_ij T_kl = <s1 1' + 1 s2' - 2A, T>
    G = w_lin M + 2 w_quad (s1 1' + 1 s2' - 2A)

The Frank-Wolfe gap <G, T - D>, D the vertex that minimises <G, .>, is zero where no feasible direction descends.
Vertices have at most n + m + 1 entries, so all inner products are short sums and E follows from the Gram matrix of the few
vertices that T is a mixture of. Only the gradient, the dual check and the product A = C1 D C2' touch whole matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..marginals import Marginals
from .linear_program import EMPTY, EPS, FORBIDDEN, FORBIDDEN_FROM, Codes, linear_program

Atom = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # codes, entries and marginals of a sparse plan


@dataclass(frozen=True)
class Exact:
    """Stationary plan of one problem, with its certificate.

    Attributes
    ----------
    plan : array (n, m)
    f, g, h : arrays (n,), (m,), float
        Duals of the linear program at the plan: G_ij >= f_i + g_j + h, with equality where mass is; f <= 0 (g <= 0) on a
        capped side and 0 where its cap is not reached; h is the price of mass, 0 where the mass is not a constraint of its own.
    gradient : array (n, m)
        G at the plan; forbidden pairs at 1e30.
    gap : float
        Frank-Wolfe gap <G, T - D> of the plan, not negative.
    rounding : float
        How far D may be from optimal: minus the smallest reduced cost over all pairs, times the mass.
    value_linear, value_quad : float
        w_lin <M,T> and w_quad E(T), recomputed from the plan.
    history : array (k, 2)
        F and gap at each linear program.
    n_iter, n_rounds, n_gradients : int
        Linear programs; solves on a set of arcs, all programs together; gradients.
    status : str
        "converged" (gap + rounding <= tol |F|, up to rounding errors of G), "max_iter" or "stopped" (by the callback).
    """

    plan: np.ndarray
    f: np.ndarray
    g: np.ndarray
    h: float
    gradient: np.ndarray
    gap: float
    rounding: float
    value_linear: float
    value_quad: float
    history: np.ndarray
    n_iter: int
    n_rounds: int
    n_gradients: int
    status: str


class Energy:
    """Products with the structures, written as C = S + K, symmetric plus skew, for one formula with and without symmetry:

    A = 1/2 (C1 T C2' + C1' T C2) = S1 T S2 + K1' T K2,     s1 = 1/2 (C1*C1 + (C1*C1)') T1 = (S1*S1 + K1*K1) T1.
    """

    def __init__(self, be: Any, C1: Any, C2: Any) -> None:
        self.be, self.C1, self.C2 = be, C1.array[0], C2.array[0]
        self.parts1, self.parts2 = _parts(C1), _parts(C2)
        self.pairs = list(zip(self.parts1, self.parts2, strict=False))  # K only where both have one

    def squares(self, mu: np.ndarray, nu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """s1 and s2."""
        s1, s2 = self.be.square_matvec(self.parts1[0], mu), self.be.square_matvec(self.parts2[0], nu)
        for K in self.parts1[1:]:
            s1 += self.be.square_matvec(K, mu)
        for K in self.parts2[1:]:
            s2 += self.be.square_matvec(K, nu)
        return s1, s2

    def rank_one(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """A of the plan a b'."""
        return sum(np.outer(X1.T @ a, b @ X2) for X1, X2 in self.pairs)  # type: ignore[return-value]

    def product(
        self, code: Codes, x: np.ndarray, last: tuple[Codes, np.ndarray] = EMPTY, A: np.ndarray | None = None
    ) -> np.ndarray:
        """A of a sparse plan from that of another, A (none: zero), at the cost of the rows or columns in which they differ."""
        n, m = len(self.C1), len(self.C2)
        if len(x) > (n * m) // 8:
            S = np.zeros((n, m))
            S.flat[code] = x
            S.flat[last[0]] -= last[1]
            factors = [(X1, S @ X2) for X1, X2 in self.pairs]
        else:
            factors = [self.be.product_factors(code, x, *last, X1, X2) for X1, X2 in self.pairs]
        for L, R in factors:
            if A is None or len(L):
                LR = L.T @ R
                A = LR if A is None else np.add(A, LR, out=LR)
        return A  # type: ignore[return-value]

    def value(self, code: Codes, x: np.ndarray) -> float:
        """E(T), by its definition where T is sparse: no cancellation, so that 0 is 0."""
        i, j = np.divmod(code, len(self.C2))
        if len(x) <= 6 * (len(self.C1) + len(self.C2)):
            return self.be.plan_energy(i, j, x, self.C1, self.C2)  # type: ignore[no-any-return]
        mu, nu = np.bincount(i, x, len(self.C1)), np.bincount(j, x, len(self.C2))
        return self.be.plan_pairing(code, x, *self.squares(mu, nu), self.product(code, x))  # type: ignore[no-any-return]


@dataclass
class Mixture:
    """A plan as a convex combination of vertices V_s: F = c.w + w'Hw, with c_s = w_lin <M,V_s>, H_st = w_quad E(V_s, V_t)."""

    atoms: list[Atom]
    w: np.ndarray
    c: np.ndarray
    H: np.ndarray

    @classmethod
    def vertex(cls, atom: Atom, c: float, E: float) -> Mixture:
        """The plan that is one vertex."""
        return cls([atom], np.ones(1), np.array([c]), np.array([[E]]))

    def add(self, atom: Atom, step: float, c: float, cross: list[float]) -> None:
        """Move by `step` towards a new vertex, whose column of H is `cross`."""
        k = len(self.atoms)
        H = np.empty((k + 1, k + 1))
        H[:k, :k], H[k], H[:, k] = self.H, cross, cross
        self.atoms, self.H, self.c = [*self.atoms, atom], H, np.append(self.c, c)
        self.w = np.append((1.0 - step) * self.w, step)

    def reweight(self, w: np.ndarray) -> tuple[Codes, np.ndarray]:
        """Take new weights and drop vertices without any; the change of the plan."""
        change = _combine([V[0] for V in self.atoms], [d * V[1] for d, V in zip(w - self.w, self.atoms, strict=True)])
        keep = np.flatnonzero(w > 1e-15)
        self.atoms, self.w = [self.atoms[s] for s in keep], w[keep] / w[keep].sum()
        self.c, self.H = self.c[keep], self.H[np.ix_(keep, keep)]
        return change

    def marginals(self) -> tuple[np.ndarray, np.ndarray]:
        """T1 and T'1."""
        return tuple(sum(w * V[side] for w, V in zip(self.w, self.atoms, strict=True)) for side in (2, 3))  # type: ignore

    def entries(self) -> tuple[Codes, np.ndarray]:
        """The plan as sorted codes and entries."""
        if len(self.atoms) == 1:
            return self.atoms[0][0], self.atoms[0][1]
        return _combine([V[0] for V in self.atoms], [w * V[1] for w, V in zip(self.w, self.atoms, strict=True)])


def solve(
    be: Any,
    M: np.ndarray | None,
    C1: Any,
    C2: Any,
    p: np.ndarray,
    q: np.ndarray,
    *,
    w_lin: float,
    w_quad: float,
    marginals: Marginals,
    mass: float | None,
    T0: np.ndarray | None = None,
    tol: float = 1e-9,
    max_iter: int = 1000,
    callback: Callable[[int, float, float], Any] | None = None,
) -> Exact:
    """Minimise F(T) = w_lin <M,T> + w_quad E(T) over the plans of given marginals (and mass) to a stationary point.

    Parameters
    ----------
    be : module
        Backend with the primitives of the exact solver.
    M : float64 array (n, m) or None
        Feature cost; entries of 1e29 and more forbid a pair (a feasible plan must exist).
    C1, C2 : structure.Dense or None
        One structure each, (1, n, n) and (1, m, m), symmetric or not. None: linear optimal transport, one program.
    p, q : float64 arrays (n,), (m,)
        Positive weights, totals about 1.
    marginals : Marginals
        Balanced, partial (`mass` is then the total of the plan), or one hard and one free side.
    T0 : array (n, m), optional
        Feasible plan to start from; default the product plan.
    tol : float
        Stop where the gap is below tol |F|.
    max_iter : int
        Most linear programs to solve.
    callback : callable, optional
        Called with (iteration, F, gap); a true answer stops.
    """
    lp = linear_program(be, p, q, marginals, mass, M)
    G = np.empty((len(p), len(q)))
    if C1 is None or C2 is None or w_quad == 0.0:
        return _linear(be, lp, M, w_lin, G, tol)
    energy = Energy(be, C1, C2)
    if T0 is None:
        T, mu, nu = None, p * (lp.mass / lp.totals[0]), q * (lp.mass / lp.totals[1])
        A = energy.rank_one(mu, nu / lp.mass)
        lin = 0.0 if M is None or lp.forbidden else w_lin * float(mu @ (M @ nu)) / lp.mass
        cross = float(mu @ (A @ nu)) / lp.mass
    else:
        code = np.flatnonzero(T0)
        x = T0.ravel()[code]
        A = energy.product(code, x)
        mu, nu, lin, cross = be.plan_sums(code, x, M, A)
        lin *= w_lin
    s1, s2 = energy.squares(mu, nu)
    E = w_quad * float(mu @ s1 + nu @ s2 - 2.0 * cross)
    if T0 is not None:
        T = Mixture.vertex((code, x, mu, nu), lin, E)
    leave = lp.forbidden and T0 is None  # the product plan uses forbidden pairs: go to the first vertex in any case
    last, last_A, history, status = EMPTY, None, [], "max_iter"
    most = max(max_iter, 1) + leave
    for iteration in range(1, most + 1):
        top = be.fgw_gradient(M, A, s1, s2, w_lin, w_quad, G)
        code, x, low = lp(G, top)
        mu_D, nu_D, on_M, on_G = be.plan_sums(code, x, M, G)
        F, slope, rounding = lin + E, lin + 2.0 * E - on_G, -low * lp.mass
        if not leave:
            history.append((F, max(slope, 0.0)))
            # E and <G,T> are differences of terms of this size: below their rounding no slope means anything
            target = tol * abs(F) + 1e-14 * max(lp.mass * top, w_quad * float(mu @ s1 + nu @ s2))
            if slope <= target:
                status = "converged" if slope + rounding <= target + lp.noise else "max_iter"
                break
            if callback is not None and callback(iteration, F, slope):
                status = "stopped"
                break
            if iteration == most:
                break
        AD = energy.product(code, x, last, last_A)
        last, last_A = (code, x), AD
        s1_D, s2_D = energy.squares(mu_D, nu_D)
        E_D, lin_D = w_quad * be.plan_pairing(code, x, s1_D, s2_D, AD), w_lin * on_M
        curvature = E - 2.0 * w_quad * be.plan_pairing(code, x, s1, s2, A) + E_D
        if leave or 2.0 * curvature <= slope:
            leave, A, mu, nu, s1, s2, lin, E = False, AD, mu_D, nu_D, s1_D, s2_D, lin_D, E_D
            T = Mixture.vertex((code, x, mu_D, nu_D), lin, E)
            continue
        step = slope / (2.0 * curvature)
        if T is None:  # the product plan stays as one of the vertices, with all its entries
            T = Mixture.vertex((np.arange(G.size), np.outer(mu, nu).ravel() / lp.mass, mu, nu), lin, E)
        cross_D = [w_quad * be.plan_pairing(V[0], V[1], s1_D, s2_D, AD) for V in T.atoms]
        T.add((code, x, mu_D, nu_D), step, lin_D, [*cross_D, E_D])
        A = (1.0 - step) * A + step * AD
        if len(T.w) > 2:  # with two the line search has done it
            w = be.active_weights(T.H, T.c, T.w, 0.1 * target, 1000 * len(T.w))
            if np.abs(w - T.w).max() > EPS:
                A = energy.product(*T.reweight(w), A=A)
        mu, nu = T.marginals()
        s1, s2 = energy.squares(mu, nu)
        lin, E = float(T.c @ T.w), float(T.w @ T.H @ T.w)
    if T is None:
        T = Mixture.vertex((np.arange(G.size), np.outer(mu, nu).ravel() / lp.mass, mu, nu), lin, E)
    code, x = T.entries()
    values = w_lin * be.plan_sums(code, x, M, G)[2], w_quad * energy.value(code, x)
    return _result(lp, code, x, G, (max(slope, 0.0), rounding), values, history, iteration, status)


def _linear(be: Any, lp: Any, M: np.ndarray | None, w_lin: float, G: np.ndarray, tol: float) -> Exact:
    """Linear optimal transport: one program, whose plan has no gap."""
    G[:] = 0.0 if M is None else w_lin * M
    top = float(max(G.max(), -G.min()))
    if lp.forbidden and M is not None:
        top = float(np.abs(G[M < FORBIDDEN_FROM]).max(initial=0.0))
        G[M >= FORBIDDEN_FROM] = FORBIDDEN
    code, x, low = lp(G, top)
    value, rounding = w_lin * be.plan_sums(code, x, M, G)[2], -low * lp.mass
    status = "converged" if rounding <= tol * abs(value) + lp.noise else "max_iter"
    return _result(lp, code, x, G, (0.0, rounding), (value, 0.0), [(value, 0.0)], 1, status)


def _result(
    lp: Any,
    code: Codes,
    x: np.ndarray,
    G: np.ndarray,
    certificate: tuple[float, float],
    values: tuple[float, float],
    history: list[tuple[float, float]],
    iterations: int,
    status: str,
) -> Exact:
    plan = np.zeros(G.shape)
    plan.flat[code] = x
    f, g, h = lp.duals()
    table = np.array(history, dtype=float).reshape(-1, 2)
    return Exact(plan, f, g, h, G, *certificate, *values, table, iterations, lp.rounds, iterations, status)


def _parts(C: Any) -> list[np.ndarray]:
    """Symmetric and, where there is one, skew part."""
    X = np.ascontiguousarray(C.array[0])
    return [X] if C.is_symmetric else [(X + X.T) / 2.0, (X - X.T) / 2.0]


def _combine(codes: list[Codes], entries: list[np.ndarray]) -> tuple[Codes, np.ndarray]:
    """Sum of sparse plans."""
    code, where = np.unique(np.concatenate(codes), return_inverse=True)
    return code, np.bincount(where, np.concatenate(entries), len(code))
