"""Entropic solver: annealed, damped linearisation of the energy outside; Anderson and Newton-CG on the dual inside.

Outer step. G is the gradient at the plan T, L the cost whose scaling made T. With D = T - T0 and R = G - L the energy bends by
<R, D> along D; the entropy resists with a Bregman divergence. Where the bend is below half of it the plain step L = G is
taken, else L moves by beta = 1/(1 + bend/breg) of the way. Since T = exp((f + g + h - L)/eps), this is the same as a proximal
step with weight 1/eta = eps (1/beta - 1) on KL(. || T): plain linearisation with the proximal term bought only when needed.

Inner step. Rows are exact in every evaluation, so the dual has only the column potentials and the mass multiplier. A few
Sinkhorn sweeps under Anderson mixing, then projected Newton steps by conjugate gradients with a line search on the dual.

Annealing. eps goes down to the one asked for by factors of 3, from the first eps at which the kernel is flat.

All problems of a batch walk in lockstep; a problem that is done is masked. The loop sees NumPy scalars per problem, all else
is behind the primitives of `_backends/_protocol.py`.

Stopping. stationarity = ||exp((f + g + h - G)/eps) - T||_1 + residual of the marginal conditions, over the mass; both are
measured on the plan that is returned.

Ideas: Anderson (1965) mixing; Peyre, Cuturi, Solomon (2016) for the linearised entropic problem; Chizat et al. (2018) for
scaling with general marginals; Brauer et al. (2017), Tang et al. (2024) for Newton steps on the Sinkhorn dual.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._backends._protocol import BEND, BREG, DONE, ENT, FIXED, GAIN, GRAD, KL, MASS, PHI, RES, VIOL, F, Scaling
from .._backends._protocol import G as COL_G
from .._problem import Problem
from ..result import Status
from ._loop import Watch
from ._outcome import Outcome

ANNEAL, FLAT, STAGE_TOL = 3.0, 0.15, 0.1  # ratio of the annealing, its start relative to the spread, tolerance of a stage
THETA, THETA_MIN = 0.1, 0.01  # inner target relative to the outer residual
SWEEPS, NEWTON_STEPS, CG_STEPS, CG_STOP, BACKTRACKS = 6, 8, 60, 0.1, 8
BETA_MIN, BETA_GROWTH, BEND_FREE = 0.05, 1.2, 0.5  # damping: floor, growth per step, bend that needs none
UNBOUNDED = 1e15  # mass (of totals about 1) at which a problem with soft marginals is given up
PATIENCE, STALLS = 25, 4  # outer steps without 10 % progress before the rules tighten; how often before giving up


def solve(
    problem: Problem,
    T: Any,
    *,
    tol: float,
    max_iter: int,
    watch: Watch,
    anneal: np.ndarray | bool = True,
    potentials: tuple[Any, Any, Any] | None = None,
) -> Outcome:
    """Minimise the entropic objective of `problem` from the plan T, whose buffer is used; `anneal` False keeps to its basin.

    `potentials` (f, g, h), in units of the cost, are those of a neighbouring problem, where T comes from one.

    Cost of an outer step: one gradient (the structure products) and a few dozen reads of the n x m kernel.
    """
    be, xp, B = problem.be, problem.be.xp, problem.shape[0]
    host, low = be.host, np.dtype(problem.dtype).itemsize < 8
    feasible, slack = (2e-5, 1e-6) if low else (2e-7, 1e-12)
    s = problem.allocate()
    G, L, T0 = (xp.empty_like(T) for _ in range(3))
    work = xp.empty_like(T) if problem.C1 is not None else None
    mu, nu = xp.sum(T, axis=2, dtype=float), xp.sum(T, axis=1, dtype=float)
    mu0, nu0 = mu, nu  # marginals of T0
    on = np.ones(B, bool)
    passes, gradients, iterations = np.zeros(B, int), np.ones(B, int), np.zeros(B, int)
    state = problem.gradient(T, mu, nu, G, work, T0, L, s, on, on)
    c = _Control(problem, tol, np.where(anneal, _annealing_start(host(be.spread(G, s)), problem.eps), problem.eps))
    s.eps[:] = xp.asarray(c.eps)
    if potentials is None:
        _start_mass(be, G, s, on)
    else:
        ieps = 1 / s.eps
        s.f[:], s.g[:], s.h[:] = potentials[0] * ieps[:, None], potentials[1] * ieps[:, None], potentials[2] * ieps
    c.descend(state, host(mu.sum(1)), np.zeros(B), on)
    terms: dict[str, np.ndarray] = {}

    for iteration in range(max_iter):
        # ------------------------------------------------------------------------- step of the cost, kernel, scaling, plan
        if c.fresh.any():
            _column_update(be, s, be.column_logsums(G, s, c.fresh & on), c.fresh & on)
        step = xp.asarray(np.where(c.fresh, 1.0, c.beta))[:, None]
        be.kernel(L, G, T, T0, s, c.beta, c.fresh, on)
        newton_steps = NEWTON_STEPS * (3 if iteration == 0 else 1)
        target, strict = c.target()
        passes += _ascend(be, T, s, target, np.where(strict, 0.5 * feasible, np.inf), newton_steps, slack, on)
        be.plan(T, s, on)
        mu0, nu0 = mu0 + step * (mu - mu0), nu0 + step * (nu - nu0)
        mu, nu = s.row.copy(), s.col.copy()
        iterations[on] += 1

        # ------------------------------------------------------------------------------------------ gradient and certificate
        state = problem.gradient(T, mu, nu, G, work, T0, L, s, ~on, on)
        gradients[on] += 1
        out = np.array(host(s.vals))
        for key, value in state["terms"].items():
            terms[key] = np.where(on, value, terms.get(key, value))
        c.measure(state, out, [host(x) for x in (mu, nu)], [host(x) for x in (mu0, nu0)], on)
        c.descend(state, host(mu.sum(1)), c.eps * _shortfall(be, s), on)
        done = c.record(out, feasible, on)
        on = on & ~done
        if watch(iteration, c.objective, c.station):
            c.stop(on, Status.STOPPED)
            break

        # -------------------------------------------------------------------------------------- progress, damping, next stage
        on = c.advance(on, low)
        if not on.any():
            break
        if c.fresh.any():
            ratio = xp.asarray(s.eps / xp.asarray(c.eps))
            s.rows[:, F] *= ratio[:, None]
            s.cols[:, COL_G] *= ratio[:, None]
            s.eps[:] = xp.asarray(c.eps)

    eps = xp.asarray(c.eps)[:, None]
    potentials = (s.f * eps, s.g * eps, s.h * eps[:, 0])
    history = [np.array(x).reshape(-1, 2) for x in c.history]
    return Outcome(T, G, potentials, terms, c.station, c.status, iterations, passes, gradients, history)


class _Control:
    """The decisions of the outer loop: one number per problem, on the host."""

    def __init__(self, problem: Problem, tol: float, eps: np.ndarray) -> None:
        B = len(eps)
        self.problem, self.tol, self.eps = problem, tol, eps
        P, Q = problem.be.host(problem.p.sum(1)), problem.be.host(problem.q.sum(1))
        self.scale = np.where(np.isnan(problem.mass), np.minimum(P, Q), problem.mass)
        self.fresh = np.ones(B, bool)  # the next step starts a stage
        self.beta, self.cap, self.floor = np.ones(B), np.ones(B), np.full(B, BETA_MIN)
        self.theta, self.best, self.since, self.stalls = np.full(B, THETA), np.full(B, np.inf), np.zeros(B, int), np.zeros(B, int)
        self.fixed, self.station = np.full(B, np.inf), np.full(B, np.inf)
        self.parts = self.here = np.zeros((3, B))  # of F at T0 and T: energy and linear terms; entropy / eps; marginals
        self.objective = np.full(B, np.inf)
        self.status: list[Status] = [Status.MAX_ITER] * B
        self.history: list[list[tuple[float, float]]] = [[] for _ in range(B)]

    @property
    def last(self) -> np.ndarray:
        """Problems in their last stage, at the eps asked for."""
        return self.eps == self.problem.eps

    def target(self) -> tuple[np.ndarray, np.ndarray]:
        """Residual at which the inner solve may stop, and where it must be feasible point by point as well."""
        floor = 0.1 * self.tol * self.scale
        target = np.maximum(self.theta * np.minimum(self.fixed, self.scale), floor)
        if not self.problem.is_quadratic:
            target = np.where(self.last, floor, target)
        return target, self.last & (target <= 3 * floor)

    def measure(self, state: Any, out: np.ndarray, now: list[np.ndarray], before: list[np.ndarray], on: np.ndarray) -> None:
        """Certificate of the plan in hand, and the damping of the next step.

        beta = 1 where the energy bends less than half of what the regulariser resists, else resistance / (resistance + bend). The
        resistance is the smaller of the symmetrised and twice the forward Bregman divergence of all convex terms.
        """
        sums = state["sums"]
        fixed = sums[:, FIXED]
        self.fixed = np.where(on, fixed, self.fixed)
        self.station = np.where(on, (fixed + out[:, RES]) / np.maximum(self.scale, out[:, MASS]), self.station)
        both, forward, bend = self.eps * sums[:, BREG], 2 * self.eps * sums[:, KL], sums[:, BEND]
        for tau, a, b in zip(self.problem.marginals.tau, now, before, strict=True):
            if 0 < tau < np.inf:
                log_ratio = np.log(np.maximum(a, 1e-300)) - np.log(np.maximum(b, 1e-300))
                both, forward = both + tau * ((a - b) * log_ratio).sum(1), forward + 2 * tau * (a - b - b * log_ratio).sum(1)
        resist = np.maximum(np.minimum(both, forward), 1e-300)
        beta = np.where(bend > BEND_FREE * resist, resist / (resist + np.maximum(bend, 0)), 1.0)
        self.beta = np.maximum(np.minimum(beta, np.minimum(BETA_GROWTH * self.beta, self.cap)), self.floor)

    def descend(self, state: Any, mass: np.ndarray, shortfall: np.ndarray, on: np.ndarray) -> None:
        """F at the damped plan T0 + beta (T - T0): what the damping makes fall.

        The energy there follows exactly from both ends and the bend between them, the convex terms are bounded by their
        chord; F counts what the marginals still lack to first order.
        """
        sums = state["sums"]
        entropy = sums[:, ENT] - mass + self.problem.reference_mass
        self.here = np.stack([state["smooth"], entropy, state["convex"] + shortfall])
        moved = self.parts + self.beta * (self.here - self.parts)
        moved[0] -= self.beta * (1 - self.beta) * sums[:, BEND] / 2
        moved = np.where(self.beta == 1, self.here, moved)  # not by difference: a start may cost 1e30 where pairs are forbidden
        self.parts = np.where(on, moved, self.parts)
        self.objective = self.parts[0] + self.eps * self.parts[1] + self.parts[2]

    def record(self, out: np.ndarray, feasible: float, on: np.ndarray) -> np.ndarray:
        """Write the history; the problems that are done."""
        done = on & self.last & (self.station <= self.tol) & (out[:, VIOL] <= feasible)
        for b in np.flatnonzero(on & self.last):
            self.history[b].append((float(self.objective[b]), float(self.station[b])))
        self.stop(done, Status.CONVERGED)
        lost = on & (out[:, MASS] > UNBOUNDED)
        self.stop(lost, Status.UNBOUNDED)
        return done | lost

    def stop(self, which: np.ndarray, status: Status) -> None:
        """Give some problems their final status."""
        for b in np.flatnonzero(which):
            self.status[b] = status

    def advance(self, on: np.ndarray, low: bool) -> np.ndarray:
        """Tighten the rules where progress stopped, give up after a few times, move to the next eps; who goes on."""
        better = self.station < 0.9 * self.best
        self.best, self.since = np.where(better, self.station, self.best), np.where(better, 0, self.since + 1)
        stuck = on & (self.since >= PATIENCE)
        self.theta = np.where(stuck, np.maximum(0.3 * self.theta, THETA_MIN), self.theta)
        self.floor = np.where(stuck, 0.3 * self.floor, self.floor)
        self.cap = np.where(stuck, np.maximum(self.floor, 0.6 * self.cap), self.cap)
        self.since, self.stalls = np.where(stuck, 0, self.since), self.stalls + (stuck & self.last)
        over = on & (self.stalls >= STALLS)
        self.stop(over & (self.station < 1e-2) & low, Status.PRECISION)
        self.stop(over & ~((self.station < 1e-2) & low), Status.STALLED)
        on = on & ~over
        self.fresh = on & ~self.last & ((self.station <= STAGE_TOL) | stuck)
        finer = np.maximum(self.eps / ANNEAL, self.problem.eps)
        finer = np.where(finer < 1.01 * self.problem.eps, self.problem.eps, finer)
        self.eps = np.where(self.fresh, finer, self.eps)
        resets = (
            (self.beta, 1.0),
            (self.cap, 1.0),
            (self.floor, BETA_MIN),
            (self.theta, THETA),
            (self.best, np.inf),
            (self.since, 0),
            (self.fixed, np.inf),
        )
        for a, value in resets:
            a[self.fresh] = value
        self.parts = np.where(self.fresh, self.here, self.parts)
        return on


def _shortfall(be: Any, s: Scaling) -> np.ndarray:
    """<g, q - T'1> + h (m - sum T): what F lacks, to first order, because the marginals are not met yet; in units of eps."""
    xp = be.xp
    lack = xp.where(xp.isinf(s.tau2)[:, None], s.g * s.grad, 0.0).sum(1)
    return np.asarray(be.host(lack + xp.where(xp.isnan(s.mass), 0.0, s.h * s.cols[:, GRAD, -1])))


def _annealing_start(spread: np.ndarray, eps: np.ndarray) -> np.ndarray:
    """First eps: the asked one times the largest power of 3 that keeps it below a share of the spread of the costs."""
    with np.errstate(divide="ignore"):
        steps = np.floor(np.log(np.maximum(FLAT * spread / eps, 1.0)) / np.log(ANNEAL) + 1e-9)
    return np.asarray(eps * ANNEAL**steps)


def _start_mass(be: Any, G: Any, s: Scaling, on: np.ndarray) -> None:
    """h such that the kernel has the fixed mass: the one multiplier that needs a sensible start."""
    fixed = np.isfinite(be.host(s.mass))
    if fixed.any():
        xp = be.xp
        logsums = be.column_logsums(G, s, on & fixed)
        valid = xp.arange(logsums.shape[1])[None] < s.size[:, 1:2]
        logsums = xp.where(valid, logsums, -np.inf)
        top = logsums.max(axis=1)
        total = top + xp.log(xp.exp(logsums - top[:, None]).sum(axis=1))
        s.h[:] = xp.where(xp.isnan(s.mass), 0.0, xp.log(s.mass) - total)


def _column_update(be: Any, s: Scaling, logsums: Any, on: np.ndarray) -> None:
    """Exact column potentials in the log domain, so that no column of the new kernel underflows."""
    xp = be.xp
    t = xp.minimum(s.tau2 / s.eps, 1e300)
    rho = (t / (1 + t))[:, None]
    change = s.log_q - logsums
    change = xp.where(
        rho == 1, xp.minimum(change, s.cap2[:, None] - s.g), xp.minimum(rho * (change + s.g), s.cap2[:, None]) - s.g
    )
    valid = xp.asarray(on)[:, None] & (xp.arange(logsums.shape[1])[None] < s.size[:, 1:2])
    s.g[:] = xp.where(valid, s.g + change, s.g)


def _ascend(
    be: Any, K: Any, s: Scaling, target: np.ndarray, feasible: np.ndarray, newton_steps: int, slack: float, on: np.ndarray
) -> np.ndarray:
    """Raise the dual until the residual is below `target`; returns the reads of K spent per problem."""
    host, passes, none = be.host, np.zeros(len(on), int), np.zeros(len(on), bool)

    def sweep(which: np.ndarray) -> np.ndarray:
        passes[which] += 1
        be.sweep(K, s, which)
        return np.array(host(s.vals))

    def unfinished(out: np.ndarray) -> np.ndarray:
        return ~((out[:, RES] <= target) & (out[:, VIOL] <= feasible))

    def image(which: np.ndarray) -> np.ndarray:
        s.used[be.xp.asarray(which)] = 0  # mixing without a memory is the Sinkhorn step
        be.anderson(s, none, which)
        return sweep(which)

    out, work = sweep(on), on.copy()
    s.used[be.xp.asarray(on)] = 0
    for k in range(SWEEPS):
        work = work & (unfinished(out) | (k == 0))
        if not work.any():
            return passes
        old = out[:, PHI]
        be.anderson(s, none, work)
        out = sweep(work)
        worse = work & ~(out[:, PHI] >= old - slack * np.abs(old))
        if worse.any():
            be.anderson(s, worse, worse)
            out = sweep(worse)
    for _ in range(newton_steps):
        work = work & unfinished(out)
        if not work.any():
            return passes
        be.newton(K, s, work)
        passes[work] += 1
        _conjugate_gradient(be, K, s, work, passes)
        start, a, search = out[:, PHI], np.ones(len(on)), work.copy()
        for _ in range(BACKTRACKS):
            be.trial(s, a, search)
            out = sweep(search)
            phi = out[:, PHI]
            enough = (phi >= start + 1e-4 * out[:, GAIN]) | (np.abs(phi - start) < slack * np.maximum(1, np.abs(start)))
            search = search & ~(np.isfinite(phi) & enough)
            if not search.any():
                break
            a = np.where(search, 0.3 * a, a)
        if search.any():  # back to the start of the line search: the Sinkhorn step below always raises the dual
            be.trial(s, np.zeros(len(on)), search)
            sweep(search)
        out = image(work)
    return passes


def _conjugate_gradient(be: Any, K: Any, s: Scaling, on: np.ndarray, passes: np.ndarray) -> None:
    todo = on & (be.host(s.vals)[:, DONE] == 0)
    for _ in range(CG_STEPS):
        if not todo.any():
            return
        be.cg(K, s, CG_STOP, todo)
        passes[todo] += 1
        todo = todo & (be.host(s.vals)[:, DONE] == 0)
