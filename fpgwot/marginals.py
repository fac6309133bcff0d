"""What a plan owes to its weights p and q: one numeric form for every kind of marginal.

Each side has a price tau of the divergence tau KL(T1 || p): infinite is a hard marginal, zero a free one. A capped side is
an inequality, T1 <= p. A fixed mass is the constraint sum T = m. In the scaling iteration the row potential is then always

    f <- min( rho (eps log p - eps log row kernel), cap ),    rho = tau / (tau + eps),    cap = 0 on a capped side, else inf.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Marginals:
    """Marginal rules of a problem; make one with `balanced`, `partial_mass`, `mass_price` or `kl_penalty`."""

    kind: str
    tau: tuple[float, float] = (np.inf, np.inf)
    capped: tuple[bool, bool] = (False, False)
    fixed_mass: bool = False

    @property
    def is_hard(self) -> bool:
        """Every constraint is exact (a linear program can state it)."""
        return all(t in (0.0, np.inf) for t in self.tau)


def balanced() -> Marginals:
    """T1 = p and T'1 = q."""
    return Marginals("balanced")


def partial_mass(full_rows: bool = False, full_columns: bool = False) -> Marginals:
    """T1 <= p, T'1 <= q and sum T = m.

    Where m is the whole mass of a side, that side is an equality and carries the mass constraint: a multiplier of its own
    would have no finite value.
    """
    if full_rows and full_columns:
        return balanced()
    return Marginals("partial", capped=(not full_rows, not full_columns), fixed_mass=not (full_rows or full_columns))


def fixed_mass(mass: np.ndarray, P: np.ndarray, Q: np.ndarray) -> tuple[Marginals, np.ndarray, np.ndarray, np.ndarray]:
    """Rules for each problem of a batch whose plans have a given mass and whose sides have the totals P and Q.

    Returns the marginals (those of the first problem where they differ in which sides are used up), the fixed mass (NaN where
    a side carries it), the caps (B, 2) of the potentials, and where both sides are used up.
    """
    full = np.empty((len(mass), 2), bool)
    full[:, 0], full[:, 1] = mass >= P * (1 - 1e-12), mass >= Q * (1 - 1e-12)
    if not full.any():
        return partial_mass(), np.minimum(mass, np.minimum(P, Q)), np.zeros((len(mass), 2)), full[:, 0]
    kind = partial_mass(bool(full[0, 0]), bool(full[0, 1])) if (full == full[0]).all() else partial_mass()
    fixed = np.where(full[:, 0] | full[:, 1], np.nan, np.minimum(mass, np.minimum(P, Q)))
    return kind, fixed, np.where(full, np.inf, 0.0), full[:, 0] & full[:, 1]


def mass_price() -> Marginals:
    """T1 <= p and T'1 <= q at any mass: what is left unmatched has a price in the cost (TV, sink)."""
    return Marginals("priced", capped=(True, True))


def kl_penalty(tau1: float, tau2: float) -> Marginals:
    """tau1 KL(T1 || p) + tau2 KL(T'1 || q); infinity is a hard marginal, 0 leaves the side free."""
    return Marginals("kl", tau=(float(tau1), float(tau2)))
