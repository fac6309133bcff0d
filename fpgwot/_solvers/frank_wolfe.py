"""The exact solver (reg = 0): conditional gradient whose linear programs keep their basis and are certified on all pairs.

    F(T) = w_lin <M,T> + w_quad E(T),     G = its gradient; see `energy`

The Frank-Wolfe gap <G, T - D>, D the vertex that minimises <G, .>, is zero where no feasible direction descends.
Vertices have at most n + m + 1 entries, so all inner products are short sums and E follows from the Gram matrix of the few
vertices that T is a mixture of. Only the gradient, the sweeps of the program and the product A touch whole matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..marginals import Marginals
from .energy import Energy
from .linear_program import EMPTY, EPS, FORBIDDEN, FORBIDDEN_FROM, Codes, linear_program

CONVERGED, SHORTER_STEP, ENOUGH = 0, 2, 3  # reasons of the compiled loop to end

Atom = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # codes, entries and marginals of a sparse plan


@dataclass
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
    top : float
        max |G| over the allowed pairs.
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
    top: float
    gap: float
    rounding: float
    value_linear: float
    value_quad: float
    history: np.ndarray
    n_iter: int
    n_rounds: int
    n_gradients: int
    status: str


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
    loss: str = "square",
    smoothness: float = 0.0,
    T0: np.ndarray | None = None,
    tol: float = 1e-9,
    max_iter: int = 1000,
    callback: Callable[[int, float, float], Any] | None = None,
    enough: float = 0.0,
) -> Exact:
    """Minimise F(T) = w_lin <M,T> + w_quad E(T) over the plans of given marginals (and mass) to a stationary point.

    Parameters
    ----------
    be : module
        Backend with the primitives of the exact solver.
    M : float64 array (n, m) or None
        Feature cost; entries of 1e29 and more forbid a pair (a feasible plan must exist).
    C1, C2 : structures or None
        One each, (1, n, n) and (1, m, m), symmetric or not. None, without smoothness: linear optimal transport, one program.
    p, q : float64 arrays (n,), (m,)
        Positive weights, totals about 1.
    marginals : Marginals
        Balanced, partial (`mass` is then the total of the plan), or one hard and one free side.
    loss : "square" or "product"
    smoothness : float
        Weight of the path Laplacians, part of the quadratic term.
    T0 : array (n, m), optional
        Feasible plan to start from; default the product plan.
    tol : float
        Stop where the gap is below tol |F|.
    max_iter : int
        Most linear programs to solve.
    callback : callable, optional
        Called with (iteration, F, gap); a true answer stops.
    enough : float
        A gap at which to stop whatever tol says, as a callback would.
    """
    lp = linear_program(be, p, q, marginals, mass, M)
    G = np.empty((len(p), len(q)))
    if smoothness == 0.0 and (C1 is None or C2 is None or w_quad == 0.0):
        return _linear(be, lp, M, w_lin, G, tol)
    energy = Energy(be, C1, C2, G.shape, w_quad, loss, smoothness)
    last, last_A, history, status = EMPTY, None, [], "max_iter"
    leave = lp.forbidden and T0 is None  # the product plan uses forbidden pairs: go to the first vertex in any case
    if T0 is None and callback is None and not leave and be.descend is not None and energy.is_small:
        reason, table, code, x, at, step = _compiled(be, lp, energy, M, p, q, w_lin, tol, enough, max_iter, G)
        if at.T is not None:
            last, last_A = (code, x), at.A
        if reason != SHORTER_STEP:
            status = "converged" if reason == CONVERGED and step.is_certified(lp) else "max_iter"
            status = "stopped" if reason == ENOUGH else status
            return _result(be, lp, energy, at, M, w_lin, G, step, table, status)
        history = [tuple(row) for row in table[:-1]]
    elif T0 is None:
        at = _product_start(energy, lp, M, p, q, w_lin)
    else:
        at = _given_start(be, energy, M, T0, w_lin)
    spare = [np.empty(G.shape) for _ in range(3)]  # where products go: never over A or the last one
    for iteration in range(len(history) + 1, max(max_iter, 1) + leave + 1):
        top = be.fgw_gradient(M, at.A, at.s1, at.s2, w_lin, 2.0 * energy.w, 2.0 * energy.w * energy.kappa, G)
        code, x, low = lp(G, top)
        mu, nu, on_M, on_G = be.plan_sums(code, x, M, G)
        step = Step(top, at.lin + 2.0 * at.E - on_G, -low * lp.mass, at.target(tol, lp.mass * top, energy.w))
        if not leave:
            history.append((at.F, max(step.slope, 0.0)))
            if step.slope <= step.target:
                status = "converged" if step.is_certified(lp) else "max_iter"
                break
            if step.slope <= enough or (callback is not None and callback(iteration, at.F, step.slope)):
                status = "stopped"
                break
            if len(history) >= max_iter:
                break
        out = next(X for X in spare if X is not at.A and X is not last_A)
        AD = energy.product(code, x, last, last_A, out, work=G)
        spare = [X for X in (at.A, last_A, *spare) if X is not None and X is not AD][:3]  # used memory first
        last, last_A = (code, x), AD
        to = Point(None, AD, mu, nu, *energy.squares(mu, nu), w_lin * on_M, 0.0)
        to.E = energy.pairing(code, x, to.s1, to.s2, AD)
        curvature = at.E - 2.0 * energy.pairing(code, x, at.s1, at.s2, at.A) + to.E
        if leave or 2.0 * curvature <= step.slope:
            leave, at = False, to
            at.T = Mixture.vertex((code, x, mu, nu), at.lin, at.E)
        else:
            at = _blend(be, energy, lp, at, to, (code, x, mu, nu), step.slope / (2.0 * curvature), step.target)
    return _result(be, lp, energy, at, M, w_lin, G, step, np.array(history, dtype=float).reshape(-1, 2), status)


@dataclass
class Point:
    """A plan and what the steps need of it; T None: the product plan of mu and nu."""

    T: Mixture | None
    A: np.ndarray
    mu: np.ndarray
    nu: np.ndarray
    s1: np.ndarray
    s2: np.ndarray
    lin: float
    E: float  # weight included

    @property
    def F(self) -> float:
        """The objective."""
        return self.lin + self.E

    def size(self, w: float) -> float:
        """Of the terms of which E is a difference."""
        return w * float(self.mu @ self.s1 + self.nu @ self.s2)

    def target(self, tol: float, on_G: float, w: float) -> float:
        """The gap to reach; below the rounding of <G,T> and E no slope means anything."""
        return tol * abs(self.F) + 1e-14 * max(on_G, self.size(w))

    def mixture(self) -> Mixture:
        """The plan as a mixture: the product plan stays one of the vertices, with all its entries."""
        if self.T is None:
            code = np.arange(self.A.size)
            self.T = Mixture.vertex(
                (code, np.outer(self.mu, self.nu).ravel() / self.mu.sum(), self.mu, self.nu), self.lin, self.E
            )
        return self.T


@dataclass
class Step:
    """Certificate of a plan by the linear program at its gradient: max |G|, Frank-Wolfe gap, rounding of the program, target."""

    top: float
    slope: float
    rounding: float
    target: float

    def is_certified(self, lp: Any) -> bool:
        """Whether gap and rounding prove the plan."""
        return self.slope + self.rounding <= self.target + lp.noise  # type: ignore[no-any-return]


def _product_start(energy: Energy, lp: Any, M: np.ndarray | None, p: np.ndarray, q: np.ndarray, w_lin: float) -> Point:
    mu, nu = p * (lp.mass / lp.totals[0]), q * (lp.mass / lp.totals[1])
    A, (s1, s2) = energy.rank_one(mu, nu / lp.mass), energy.squares(mu, nu)
    lin = 0.0 if M is None or lp.forbidden else w_lin * float(mu @ (M @ nu)) / lp.mass
    E = energy.w * float(mu @ s1 + nu @ s2 + energy.kappa * (mu @ (A @ nu)) / lp.mass)
    return Point(None, A, mu, nu, s1, s2, lin, E)


def _given_start(be: Any, energy: Energy, M: np.ndarray | None, T0: np.ndarray, w_lin: float) -> Point:
    code = np.flatnonzero(T0)
    x = T0.ravel()[code]
    A = energy.product(code, x)
    mu, nu, on_M, cross = be.plan_sums(code, x, M, A)
    s1, s2 = energy.squares(mu, nu)
    E = energy.w * float(mu @ s1 + nu @ s2 + energy.kappa * cross)
    return Point(Mixture.vertex((code, x, mu, nu), w_lin * on_M, E), A, mu, nu, s1, s2, w_lin * on_M, E)


def _compiled(
    be: Any,
    lp: Any,
    energy: Energy,
    M: np.ndarray | None,
    p: np.ndarray,
    q: np.ndarray,
    w_lin: float,
    tol: float,
    enough: float,
    max_iter: int,
    G: np.ndarray,
) -> tuple[int, np.ndarray, Codes, np.ndarray, Point, Step]:
    """The whole steps of a small problem in one call: why it ended, history, the vertex, the point, the last certificate."""
    reason, table, on_vertex, code, x, A, mu, nu, s1, s2, lin, E, top, slope, program = be.descend(
        M, *energy.arrays(), p, q, lp.mass, w_lin, energy.w, energy.kappa, tol, enough, max_iter, *lp.arrays(), G
    )
    low = lp.adopt(G, program)
    at = Point(Mixture.vertex((code, x, mu, nu), lin, E) if on_vertex else None, A, mu, nu, s1, s2, lin, E)
    return reason, table, code, x, at, Step(top, slope, -low * lp.mass, at.target(tol, lp.mass * top, energy.w))


def _blend(be: Any, energy: Energy, lp: Any, at: Point, to: Point, atom: Atom, step: float, target: float) -> Point:
    """The point a share `step` of the way, or lower still with the best weights of all vertices so far."""
    T = at.mixture()
    cross = [energy.pairing(V[0], V[1], to.s1, to.s2, to.A) for V in T.atoms]
    T.add(atom, step, to.lin, [*cross, to.E])
    A = at.A  # this point's own: the last product is that of `to`
    A *= 1.0 - step
    A += step * to.A
    if len(T.w) > 2:  # with two the line search has done it
        w = be.active_weights(T.H, T.c, T.w, 0.1 * target, 1000 * len(T.w))
        if np.abs(w - T.w).max() > EPS:
            A = energy.product(*T.reweight(w), A=A)
    mu, nu = T.marginals()
    return Point(T, A, mu, nu, *energy.squares(mu, nu), float(T.c @ T.w), float(T.w @ T.H @ T.w))


def _linear(be: Any, lp: Any, M: np.ndarray | None, w_lin: float, G: np.ndarray, tol: float) -> Exact:
    """Linear optimal transport: one program, whose plan has no gap."""
    if M is None:
        G[:] = 0.0
    elif w_lin == 1.0:
        G[:] = M
    else:
        np.multiply(M, w_lin, out=G)
    if lp.forbidden and M is not None:
        top = float(np.abs(G[M < FORBIDDEN_FROM]).max(initial=0.0))
        G[M >= FORBIDDEN_FROM] = FORBIDDEN
    else:
        top = 0.0 if M is None else w_lin * max(lp.highest, -float(M.min()))
    code, x, low = lp(G, top)
    value, rounding = w_lin * be.plan_sums(code, x, M, G)[2], -low * lp.mass
    status = "converged" if rounding <= tol * abs(value) + lp.noise else "max_iter"
    table = np.array([(value, 0.0)])
    plan = np.zeros(G.shape)
    plan.reshape(-1)[code] = x
    return _exact(lp, plan, G, Step(top, 0.0, rounding, 0.0), (value, 0.0), table, status)


def _result(
    be: Any, lp: Any, energy: Energy, at: Point, M: np.ndarray | None, w_lin: float, G: np.ndarray, step: Step, table: np.ndarray,
    status: str,
) -> Exact:  # fmt: skip
    code, x = at.mixture().entries()
    values = w_lin * be.plan_sums(code, x, M, G)[2], energy.value(code, x, at.E, at.size(energy.w))
    return _exact(lp, energy.scatter(code, x), G, step, values, table, status)


def _exact(
    lp: Any, plan: np.ndarray, G: np.ndarray, step: Step, values: tuple[float, float], table: np.ndarray, status: str
) -> Exact:
    n, (f, g, h) = max(len(table), 1), lp.duals()
    gap = max(step.slope, 0.0)
    return Exact(plan, f, g, h, G, step.top, gap, step.rounding, *values, table, n, lp.rounds, n, status)


def _combine(codes: list[Codes], entries: list[np.ndarray]) -> tuple[Codes, np.ndarray]:
    """Sum of sparse plans."""
    code, where = np.unique(np.concatenate(codes), return_inverse=True)
    return code, np.bincount(where, np.concatenate(entries), len(code))
