"""The linear programs of the exact solver: from marginal rules to a transport problem with dummies, and back to duals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..marginals import Marginals

FORBIDDEN, FORBIDDEN_FROM = 1e30, 1e29  # as in the kernels: a pair of the latter cost or more may carry no mass
EPS = float(np.finfo(np.float64).eps)
EMPTY = (np.zeros(0, np.int64), np.zeros(0))

Codes = np.ndarray  # pairs (i, j) as i*m + j
Duals = tuple[np.ndarray, np.ndarray, float]


class LinearProgram:
    """min <G,T> over T1 = p, T'1 = q, or over T1 <= p, T'1 <= q, with sum T = mass or any mass; exact for any sign of G.

    Unmatched mass flows through a dummy column (from the rows) and a dummy row (to the columns) at cost zero. There is no arc
    between the two where the mass is fixed, so it is right whatever G is. Each call starts from the basis of the one
    before.
    """

    def __init__(
        self, be: Any, p: np.ndarray, q: np.ndarray, marginals: Marginals, mass: float | None, M: np.ndarray | None
    ) -> None:
        self.be, self.marginals = be, marginals
        self.highest = 0.0 if M is None else float(np.maximum.reduce(M, axis=None))
        self.forbidden = self.highest >= FORBIDDEN_FROM
        self.totals = P, Q = float(np.add.reduce(p)), float(np.add.reduce(q))
        self.mass = m = _mass(P, Q, marginals, mass)
        row_cap, col_cap = marginals.capped
        free = marginals.kind == "priced"  # any mass
        # no row can send more than the whole mass: this keeps all numbers of the size of a small mass
        self.is_cut = (row_cap or col_cap) and max(float(p.max()), float(q.max())) > m
        a, b = p, q
        if self.is_cut:
            self.cut = p > m, q > m
            if row_cap:
                a = np.minimum(p, m)
                P = float(a.sum())
            if col_cap:
                b = np.minimum(q, m)
                Q = float(b.sum())
        # slack at the size of rounding is none: a dummy of that weight would hand the rounding on to the plan
        slack_p = P if free else P - m if row_cap and P - m > 1e-12 * P else 0.0
        slack_q = Q if free else Q - m if col_cap and Q - m > 1e-12 * Q else 0.0
        self.scale = 2.0 ** -math.floor(math.log2(m))  # a power of two: scaling back is exact
        if free:
            a, b = a * self.scale, b * self.scale
        else:
            a, b = a * (self.scale * (m + slack_p) / P), b * (self.scale * (m + slack_q) / Q)  # one total to the last digit
        self.shape, self.spare = (len(a), len(b)), (slack_p > 0, slack_q > 0)
        self.basis = be.lp_basis(a, b, self.scale * m, *self.spare, free)
        self.potentials = np.zeros(0), np.zeros(0)  # of all nodes, dummies included
        self.support, self.flow = EMPTY
        self.rounds, self.noise = 0, 0.0

    def __call__(self, G: np.ndarray, top: float) -> tuple[Codes, np.ndarray, float]:
        """Vertex D that minimises <G,D>, top = max|G|: sorted codes, entries, and the smallest reduced cost (or 0)."""
        return self._take(G, *self.be.lp_solve(self.basis, G, top))

    def _take(
        self, G: np.ndarray, code: Codes, x: np.ndarray, u: np.ndarray, v: np.ndarray, low: float, limit: float, reads: int
    ) -> tuple[Codes, np.ndarray, float]:
        self.potentials, self.rounds = (u, v), self.rounds + reads
        if self.forbidden:
            code, x = self._allowed(code, x, G.reshape(-1))
        self.support, self.flow, self.noise = code, x / self.scale, -limit * self.mass
        return code, self.flow, low

    def arrays(self) -> tuple[Any, ...]:
        """What the compiled loop needs to solve these programs itself."""
        s = self.basis
        return 0, s.weights[:0], s.a, s.b, s.mass, s.corner, s.tree, s.flow, s.pi, s.weights, s.unit, self.scale

    def adopt(self, G: np.ndarray, program: tuple[Any, ...]) -> float:
        """Take over the last program of the compiled loop; its smallest reduced cost."""
        code, x, low, limit, reads = program
        rows = len(self.basis.a)
        return self._take(G, code, x * self.scale, self.basis.pi[:rows], self.basis.pi[rows:], low, limit, reads)[2]

    def duals(self) -> Duals:
        """(f, g, h) of the last program, with f, g <= 0 on capped sides."""
        (n, m), (u, v) = self.shape, self.potentials
        row = u[n] if len(u) > n else 0.0
        col = v[m] if len(v) > m else 0.0
        f, g, h = u[:n] + col, v[:m] + row, -float(row + col)
        row_cap, col_cap = self.marginals.capped
        for x, cap, slack in ((f, row_cap, len(v) > m), (g, col_cap, len(u) > n)):
            if cap and not slack:  # all of a capped side is used: its duals are known up to a constant, which belongs to h
                top = float(x.max())
                x -= top
                h += top
        if self.marginals.fixed_mass and self.is_cut:
            h += self._price_of_the_heaviest(f, self.cut[0], self.support // m)
            h += self._price_of_the_heaviest(g, self.cut[1], self.support % m)
        if not self.marginals.fixed_mass:  # a side that is an equality carries the price of mass
            f, g, h = (f, g + h, 0.0) if row_cap else (f + h, g, 0.0)
        return np.minimum(f, 0.0) if row_cap else f, np.minimum(g, 0.0) if col_cap else g, h

    def _price_of_the_heaviest(self, x: np.ndarray, cut: np.ndarray, used: np.ndarray) -> float:
        """What a point of weight above the mass that carries all of it pays is the price of mass: it reaches no cap."""
        most = int(used[self.flow.argmax()]) if len(used) else 0
        if not cut[most] or self.flow[used == most].sum() < (1.0 - 1e-12) * self.mass:
            return 0.0
        price = float(x[most])
        x[:] = 0.0
        return price

    def _allowed(self, code: Codes, x: np.ndarray, flat: np.ndarray) -> tuple[Codes, np.ndarray]:
        good = flat[code] < FORBIDDEN_FROM
        if x[~good].sum() > 1e-12 * self.scale * self.mass:
            raise ValueError("the mask admits no plan of the required marginals and mass: allow more pairs or lower the mass")
        return code[good], x[good]


class NearestPartner:
    """The linear program of a semi-relaxed problem, one hard side and one free: each point goes to its cheapest partner."""

    def __init__(self, be: Any, p: np.ndarray, q: np.ndarray, marginals: Marginals, M: np.ndarray | None) -> None:
        self.be = be
        self.by_row = marginals.tau[0] != 0.0
        self.weights = p if self.by_row else q
        self.shape, self.totals = (len(p), len(q)), (float(p.sum()), float(q.sum()))
        self.mass = self.totals[0 if self.by_row else 1]
        self.highest = 0.0 if M is None else float(np.maximum.reduce(M, axis=None))
        self.forbidden = self.highest >= FORBIDDEN_FROM
        self.rounds, self.noise, self.low = 0, 0.0, self.weights

    def __call__(self, G: np.ndarray, top: float) -> tuple[Codes, np.ndarray, float]:
        """Vertex that minimises <G,D>, as in `LinearProgram`."""
        (n, m), self.rounds = self.shape, self.rounds + 1
        near = self.be.lp_nearest(G, self.by_row)
        code = np.arange(n) * m + near if self.by_row else near * m + np.arange(m)
        self.low = G.ravel()[code]
        if self.low.max() >= FORBIDDEN_FROM:
            raise ValueError("a point of the hard side has no allowed partner: allow more pairs")
        order = np.argsort(code)
        return code[order], self.weights[order], 0.0

    def arrays(self) -> tuple[Any, ...]:
        """What the compiled loop needs to solve these programs itself."""
        none = np.zeros(0, np.int64)
        tree, real = np.zeros((5, 0), np.int32), np.zeros(0)
        return 1 if self.by_row else 2, self.weights, none, none, 0, False, tree, none, real, real, 1.0, 1.0

    def adopt(self, G: np.ndarray, program: tuple[Any, ...]) -> float:
        """Take over the last program of the compiled loop; its smallest reduced cost."""
        code, reads = program[0], program[4]
        point = code // self.shape[1] if self.by_row else code % self.shape[1]
        self.low = np.empty(len(self.weights))
        self.low[point] = G.ravel()[code]
        self.rounds += reads
        return 0.0

    def duals(self) -> Duals:
        """The cheapest cost of each point of the hard side; nothing on the free side."""
        n, m = self.shape
        return (self.low, np.zeros(m), 0.0) if self.by_row else (np.zeros(n), self.low, 0.0)


def linear_program(be: Any, p: np.ndarray, q: np.ndarray, marginals: Marginals, mass: float | None, M: np.ndarray | None) -> Any:
    """The linear program that fits the marginals: `LinearProgram` or `NearestPartner`."""
    if not marginals.is_hard:
        raise ValueError(f"the exact solver needs hard or free marginals, not tau={marginals.tau}: use reg > 0")
    if marginals.tau == (0.0, 0.0):
        raise ValueError("both sides are free: without mass to transport the plan is zero")
    if 0.0 in marginals.tau:
        return NearestPartner(be, p, q, marginals, M)
    return LinearProgram(be, p, q, marginals, mass, M)


def _mass(P: float, Q: float, marginals: Marginals, mass: float | None) -> float:
    """The total of the plan: the whole of a side that is an equality, else `mass`."""
    if not any(marginals.capped) and abs(P - Q) > 1e-9 * max(P, Q):
        raise ValueError(f"balanced marginals need equal totals, got sum p = {P} and sum q = {Q}")
    m = P if not marginals.capped[0] else Q if not marginals.capped[1] else min(P, Q) if mass is None else float(mass)
    if not 0.0 < m <= min(P, Q) * (1.0 + 1e-9):
        raise ValueError(f"mass {m} must be positive and not above min(sum p, sum q) = {min(P, Q)}")
    return min(m, P, Q) if any(marginals.capped) else m
