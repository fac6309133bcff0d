"""Independent references for the tests: definitions written down with loops and einsum, generic solvers, no use of fpgwot.

Nothing here is meant to be fast. The objective is the one of the package's documentation,

    F(T) = (1-alpha) <M,T> + alpha sum_ijkl (C1_ik - C2_jl)^2 T_ij T_kl + reg KL(T||Q) + tau1 KL(T1||p) + tau2 KL(T'1||q).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog
from scipy.special import rel_entr


@dataclass(frozen=True, eq=False)
class Task:
    """One problem in the letters of the documentation; `arguments` is what `fpgwot.solve` takes for it."""

    p: np.ndarray
    q: np.ndarray
    M: np.ndarray | None = None
    C1: np.ndarray | None = None
    C2: np.ndarray | None = None
    alpha: float = 0.0
    reg: float = 0.0
    m: float | None = None
    tau: tuple[float, float] = (np.inf, np.inf)
    reference: np.ndarray | None = None
    mask: np.ndarray | None = None

    @property
    def Q(self) -> np.ndarray:
        """Reference plan of the entropy."""
        shape = (len(self.p), len(self.q))
        return np.outer(self.p, self.q) if self.reference is None else np.broadcast_to(self.reference, shape)

    @property
    def arguments(self) -> dict:
        out = {"M": self.M, "C1": self.C1, "C2": self.C2, "p": self.p, "q": self.q, "alpha": self.alpha, "reg": self.reg}
        out |= {"reference": self.reference, "mask": self.mask, "m": self.m}
        return out | ({} if self.tau == (np.inf, np.inf) else {"tau": self.tau})


def kl(x, y) -> float:
    """Generalised KL(x||y) = sum x log(x/y) - x + y."""
    return float(np.sum(rel_entr(x, y) - x + y))


def energy(C1, C2, T) -> float:
    """E by its definition, all four indices."""
    return float(np.einsum("ijkl,ij,kl->", (C1[:, None, :, None] - C2[None, :, None, :]) ** 2, T, T))


def energy_loops(C1, C2, T) -> float:
    """The same once more, with nothing that could hide a transposed index."""
    n, m = T.shape
    return sum(
        (C1[i, k] - C2[j, l]) ** 2 * T[i, j] * T[k, l] for i, j, k, l in itertools.product(range(n), range(m), range(n), range(m))
    )


def smooth(t: Task, T) -> float:
    """The linear and the quadratic term."""
    F = 0.0 if t.M is None else (1 - t.alpha) * float(np.sum(t.M * T))
    return F if t.C1 is None else F + t.alpha * energy(t.C1, t.C2, T)


def terms(t: Task, T) -> dict[str, float]:
    """Every term of F."""
    linear = 0.0 if t.M is None else (1 - t.alpha) * float(np.sum(t.M * T))
    entropy = t.reg * kl(T, t.Q) if t.reg > 0 else 0.0
    price = sum(x * kl(s, w) for x, s, w in zip(t.tau, (T.sum(1), T.sum(0)), (t.p, t.q), strict=True) if 0 < x < np.inf)
    return {"linear": linear, "quad": smooth(t, T) - linear, "reg": entropy, "marginal": price}


def objective(t: Task, T) -> float:
    """F(T)."""
    return sum(terms(t, T).values())


def gradient(t: Task, T, step: float = 0.25) -> np.ndarray:
    """Derivative of `smooth` by central differences: exact up to rounding at any step, since it is a quadratic."""
    G = np.zeros(T.shape)
    for index in np.ndindex(*T.shape):
        D = np.zeros(T.shape)
        D[index] = step
        G[index] = (smooth(t, T + D) - smooth(t, T - D)) / (2 * step)
    return G


# ------------------------------------------------------------------------------------------------------------ entropic


def log_sums(A, axis):
    """log sum exp over an axis; -inf where every entry is."""
    high = A.max(axis=axis, keepdims=True)
    high = np.where(np.isfinite(high), high, 0.0)
    with np.errstate(divide="ignore"):
        return (np.log(np.exp(A - high).sum(axis=axis, keepdims=True)) + high).squeeze(axis)


def scaling(G, t: Task, extra: float = 0.0, T0=None, start=None, tol: float = 1e-14, sweeps: int = 100_000):
    """argmin <G,T> + reg KL(T||Q) + extra KL(T||T0) over the marginal rules, and its potentials, by log-domain scaling.

    Block coordinate ascent of the dual: f <- min(rho (log p - log row sums), cap), g alike, h <- the fixed mass. Where the
    mass is that of a whole side, T1 <= p with sum T = sum p says T1 = p: that side is an equality, and there is no h.
    """
    eps = t.reg + extra
    with np.errstate(divide="ignore"):
        log_Q = np.log(t.Q) if t.mask is None else np.where(t.mask, np.log(t.Q), -np.inf)
        A = (-G + t.reg * log_Q + (extra * np.log(T0) if extra > 0 else 0.0)) / eps
        log_p, log_q = np.log(t.p), np.log(t.q)
    rho1, rho2 = (1.0 if np.isinf(x) else x / (x + eps) for x in t.tau)
    full = [t.m is not None and abs(t.m - w.sum()) <= 1e-9 * t.m for w in (t.p, t.q)]
    cap1, cap2 = (np.inf if t.m is None or whole else 0.0 for whole in full)
    f, g, h = (np.zeros(len(t.p)), np.zeros(len(t.q)), 0.0) if start is None else start

    def side(rho, log_w, sums, cap):
        # a point of no weight, or with every pair forbidden, has any potential: take 0
        alive = np.isfinite(sums) & np.isfinite(log_w)
        return np.where(alive, np.minimum(rho * (np.where(alive, log_w, 0) - np.where(alive, sums, 0)), cap), 0.0)

    A = np.where(np.isfinite(log_p)[:, None] & np.isfinite(log_q)[None], A, -np.inf)
    for _ in range(sweeps):
        old = f, g, h
        f = side(rho1, log_p, log_sums(A + (g + h), 1), cap1)
        g = side(rho2, log_q, log_sums(A + (f + h)[:, None], 0), cap2)
        if t.m is not None and not any(full):
            h = np.log(t.m) - float(log_sums((A + f[:, None] + g).ravel(), 0))
        if max(np.abs(f - old[0]).max(), np.abs(g - old[1]).max(), abs(h - old[2])) <= tol:
            break
    return np.exp(A + f[:, None] + g[None] + h), (f, g, h)


def product_plan(t: Task) -> np.ndarray:
    """p q' at the mass of the problem, forbidden pairs left out."""
    P, Q = t.p.sum(), t.q.sum()
    T = np.outer(t.p, t.q) * ((min(P, Q) if t.m is None else t.m) / (P * Q))
    return T if t.mask is None else np.where(t.mask, T, 0)


def linearised(t: Task, T) -> np.ndarray:
    """The derivative of `smooth`, from the definition for a quadratic: two contractions of the four-index array."""
    G = np.zeros(T.shape) if t.M is None else (1 - t.alpha) * t.M
    if t.C1 is None:
        return G
    D = (t.C1[:, None, :, None] - t.C2[None, :, None, :]) ** 2
    return G + t.alpha * (np.einsum("ijkl,kl->ij", D, T) + np.einsum("klij,kl->ij", D, T))


def slow_entropic(t: Task, T=None, tol: float = 1e-12, max_iter: int = 4000) -> np.ndarray:
    """Linearise, solve with a KL proximal term that is doubled until F falls, repeat until the plan stands still."""
    T = product_plan(t) if T is None else T
    if t.C1 is None:
        return scaling(linearised(t, T), t)[0]
    F, extra, start = np.inf, 0.0, None  # the first plan need not be feasible: its value is no bound
    for _ in range(max_iter):
        G = linearised(t, T)
        for _ in range(40):
            new, start = scaling(G, t, extra, T, start if extra == 0 else None, 1e-13, 3000)
            F_new = objective(t, new)
            if F_new <= F + 1e-13 * max(1, abs(F)):
                break
            extra = 2 * extra if extra > 0 else 0.1 * t.reg
        moved, T, F = np.abs(new - T).sum(), new, F_new
        if moved <= tol * T.sum():
            break
    return T


def stationarity(t: Task, T) -> float:
    """||S(T) - T||_1 / mass, S(T) the solution for the cost linearised at T by finite differences (reg > 0)."""
    return float(np.abs(scaling(gradient(t, T), t)[0] - T).sum() / T.sum())


# --------------------------------------------------------------------------------------------------------------- exact


def linear_program(G, t: Task) -> float:
    """min <G,T> over the constraints as they are written down (hard and free sides); a mask as bounds."""
    n, k = G.shape
    rows, cols = np.kron(np.eye(n), np.ones(k)), np.kron(np.ones(n), np.eye(k))
    allowed = np.ones(G.shape, bool) if t.mask is None else t.mask
    bounds = [(0, None if ok else 0) for ok in allowed.ravel()]
    if t.m is not None:
        args = {"A_ub": np.vstack((rows, cols)), "b_ub": np.concatenate((t.p, t.q)), "A_eq": np.ones((1, n * k)), "b_eq": [t.m]}
    else:
        sides = [(A, w) for A, w, x in ((rows, t.p, t.tau[0]), (cols, t.q, t.tau[1])) if np.isinf(x)]
        args = {"A_eq": np.vstack([A for A, _ in sides]), "b_eq": np.concatenate([w for _, w in sides])}
    options = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    result = linprog(np.where(allowed, G, 0.0).ravel(), bounds=bounds, method="highs-ds", options=options, **args)
    if result.status == 2:
        raise ValueError("infeasible")
    assert result.status == 0, result.message
    return float(result.fun)


def gap(t: Task, T) -> float:
    """Frank-Wolfe gap <G, T - S>, S the best plan for the cost linearised at T by finite differences (reg = 0)."""
    G = gradient(t, T)
    return float(np.sum(G * T)) - linear_program(G, t)


def best_permutation(t: Task) -> tuple[float, np.ndarray]:
    """min F over the permutation matrices / n (equal uniform weights), and the plan: the optimum where F is concave."""
    n = len(t.p)
    plans = [np.eye(n)[list(order)] / n for order in itertools.permutations(range(n))]
    values = [objective(t, T) for T in plans]
    return min(values), plans[int(np.argmin(values))]


# --------------------------------------------------------------------------------------------------------------- rules


def violation(t: Task, T) -> float:
    """Largest violation of a hard or capped marginal relative to its weight, or of the mass, or a mass on forbidden pairs."""
    worst = 0.0 if t.m is None else abs(T.sum() - t.m) / t.m
    for x, w, tau in ((T.sum(1), t.p, t.tau[0]), (T.sum(0), t.q, t.tau[1])):
        if np.isinf(tau):
            excess = x - w if t.m is not None else np.abs(x - w)
            worst = max(worst, float(np.max(np.where(w > 0, excess / np.where(w > 0, w, 1), x))))
    return worst if t.mask is None else max(worst, float(np.abs(T[~t.mask]).max(initial=0.0)))


# ------------------------------------------------------------------------------------------------------------- problems

KINDS = {  # marginal rules: total of p, total of q, m, tau
    "balanced": (1.0, 1.0, None, (np.inf, np.inf)),
    "partial": (1.0, 1.0, 0.6, (np.inf, np.inf)),
    "partial_totals": (1.7, 0.9, 0.5, (np.inf, np.inf)),
    "full_rows": (0.8, 1.3, 0.8, (np.inf, np.inf)),
    "kl": (1.0, 1.0, None, (0.4, 0.7)),
    "kl_totals": (2.0, 0.6, None, (0.4, 0.7)),
    "hard_and_kl": (1.0, 1.0, None, (np.inf, 0.5)),
    "semi_relaxed": (1.0, 1.0, None, (np.inf, 0.0)),
    "free_rows": (1.0, 1.0, None, (0.0, np.inf)),
    "free_and_kl": (1.0, 1.2, None, (0.0, 0.5)),
}


def problem(kind: str, part: str, symmetric: bool = True, reg: float = 0.1, n: int = 6, k: int = 5, seed: int = 0) -> Task:
    """A random problem; `part` is "linear", "gw" or "fgw"."""
    rng = np.random.default_rng(seed)
    total_p, total_q, m, tau = KINDS[kind]
    p, q = rng.dirichlet(np.full(n, 4.0)) * total_p, rng.dirichlet(np.full(k, 4.0)) * total_q
    M, C1, C2 = rng.random((n, k)), rng.random((n, n)), rng.random((k, k))
    if symmetric:
        C1, C2 = (C1 + C1.T) / 2, (C2 + C2.T) / 2
    alpha = {"linear": 0.0, "gw": 1.0, "fgw": 0.4}[part]
    if part == "linear":
        C1 = C2 = None
    return Task(p, q, None if part == "gw" else M, C1, C2, alpha, reg, m, tau)
