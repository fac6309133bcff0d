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

from .._backends._protocol import BEND, BREG, DONE, FIXED, GAIN, KL, MASS, PHI, RES, VIOL, Scaling
from .._problem import Problem
from ..result import Status
from ._loop import Watch
from ._outcome import Outcome

ANNEAL, FLAT, STAGE_TOL = 3.0, 0.15, 0.1  # ratio of the annealing, its start relative to the spread, tolerance of a stage
THETA, THETA_MIN = 0.1, 0.01  # inner target relative to the outer residual
SWEEPS, NEWTON_STEPS, CG_STEPS, CG_STOP, BACKTRACKS = 6, 8, 60, 0.1, 8
BETA_MIN, BETA_GROWTH, BEND_FREE = 0.05, 1.2, 0.5  # damping: floor (lowered on a stall), growth per step, free bend
PATIENCE, STALLS = 25, 8  # outer steps without 10 % progress before the rules tighten; how often before giving up


def solve(problem: Problem, T: Any, *, tol: float, max_iter: int, watch: Watch, anneal: np.ndarray | bool = True) -> Outcome:
    """Minimise the entropic objective of `problem` from the plan T, whose buffer is used; `anneal` False keeps to its basin.

    Cost of an outer step: one gradient (the structure products) and a few dozen reads of the n x m kernel.
    """
    be, xp, (B, n, m) = problem.be, problem.be.xp, problem.shape
    host = be.host
    low = np.dtype(problem.dtype).itemsize < 8
    feasible, slack = (2e-5, 1e-6) if low else (2e-7, 1e-12)
    s = problem.allocate()
    G, L, T0 = (xp.empty_like(T) for _ in range(3))
    work = xp.empty_like(T) if problem.is_quadratic else None
    mu, nu = xp.sum(T, axis=2, dtype=float), xp.sum(T, axis=1, dtype=float)
    mu0, nu0 = mu, nu  # marginals of T0

    on, fresh = np.ones(B, bool), np.ones(B, bool)
    passes, gradients, iterations = np.zeros(B, int), np.ones(B, int), np.zeros(B, int)
    state = problem.gradient(T, mu, nu, G, work, T0, L, s, fresh, on)
    eps = np.where(anneal, _annealing_start(host(be.spread(G, s)), problem.eps), problem.eps)
    s.eps[:] = xp.asarray(eps)
    _start_mass(be, G, s, on)

    beta, beta_old, cap, lowest = np.ones(B), np.ones(B), np.ones(B), np.full(B, BETA_MIN)
    theta, best, since, stalls = np.full(B, THETA), np.full(B, np.inf), np.zeros(B, int), np.zeros(B, int)
    scale = np.where(np.isnan(problem.mass), host(xp.minimum(problem.p.sum(1), problem.q.sum(1))), problem.mass)
    station, fixed = np.full(B, np.inf), np.full(B, np.inf)
    status: list[Status] = [Status.MAX_ITER] * B
    history: list[list[tuple[float, float]]] = [[] for _ in range(B)]
    terms = {k: v.copy() for k, v in state["terms"].items()}

    for iteration in range(max_iter):
        # ------------------------------------------------------------------------- step of the cost, kernel, scaling, plan
        if fresh.any():
            logsums = be.column_logsums(G, s, fresh & on)
            _column_update(be, s, logsums, fresh & on)
        step = xp.asarray(np.where(fresh, 1.0, beta))[:, None]
        mu0, nu0 = mu0 + step * (mu - mu0), nu0 + step * (nu - nu0)
        be.kernel(L, G, T, T0, s, beta, fresh, on)
        floor = 0.1 * tol * scale
        target = np.maximum(theta * np.minimum(fixed, scale), floor)
        if not problem.is_quadratic:
            target = np.where(eps == problem.eps, floor, target)
        strict = (eps == problem.eps) & (target <= 3 * floor)
        newton_steps = NEWTON_STEPS * (3 if iteration == 0 else 1)
        passes += _ascend(be, T, s, target, np.where(strict, 0.5 * feasible, np.inf), newton_steps, slack, on)
        be.plan(T, s, on)
        mu, nu = s.row.copy(), s.col.copy()
        iterations[on] += 1

        # ----------------------------------------------------------------------------------------- gradient and certificate
        state = problem.gradient(T, mu, nu, G, work, T0, L, s, ~on, on)
        gradients[on] += 1
        for key, value in state["terms"].items():
            terms[key] = np.where(on, value, terms[key])
        sums, out = state["sums"], host(s.vals)
        fixed = np.where(on, sums[:, FIXED], fixed)
        station = np.where(on, (sums[:, FIXED] + out[:, RES]) / np.maximum(scale, out[:, MASS]), station)
        objective = sum(terms.values())
        last = eps == problem.eps
        for b in np.flatnonzero(on & last):
            history[b].append((float(objective[b]), float(station[b])))
        done = on & last & (station <= tol) & (out[:, VIOL] <= feasible)
        for b in np.flatnonzero(done):
            status[b] = Status.CONVERGED
        on = on & ~done
        if watch(iteration, objective, station):
            status = [Status.STOPPED if on[b] else status[b] for b in range(B)]
            break

        # ------------------------------------------------------------------------- progress, next stage, damping of the step
        better = station < 0.9 * best
        best, since = np.where(better, station, best), np.where(better, 0, since + 1)
        stuck = on & (since >= PATIENCE)
        theta = np.where(stuck, np.maximum(0.3 * theta, THETA_MIN), theta)
        lowest = np.where(stuck & (stalls > 0), 0.2 * lowest, lowest)
        cap = np.where(stuck, np.maximum(lowest, 0.6 * cap), cap)
        since, stalls = np.where(stuck, 0, since), stalls + (stuck & last)
        for b in np.flatnonzero(on & (stalls >= STALLS)):
            status[b] = Status.PRECISION if low and station[b] < 1e-2 else Status.STALLED
            on[b] = False
        if not on.any():
            break
        fresh = on & ~last & ((station <= STAGE_TOL) | stuck)
        if fresh.any():
            finer = np.where(fresh, np.maximum(eps / ANNEAL, problem.eps), eps)
            finer = np.where(fresh & (finer < 1.01 * problem.eps), problem.eps, finer)
            ratio = xp.asarray(eps / finer)
            s.f[:], s.g[:], s.h[:] = s.f * ratio[:, None], s.g * ratio[:, None], s.h * ratio
            eps = finer
            s.eps[:] = xp.asarray(eps)
            for a, reset in ((beta_old, 1.0), (cap, 1.0), (lowest, BETA_MIN), (theta, THETA), (best, np.inf), (since, 0), (fixed, np.inf)):
                a[fresh] = reset
        beta = np.maximum(_damping(problem, eps, sums, [host(x) for x in (mu, nu)], [host(x) for x in (mu0, nu0)]), lowest)
        beta = np.where(fresh, 1.0, np.minimum(beta, np.minimum(np.maximum(lowest, BETA_GROWTH * beta_old), cap)))
        beta_old = beta

    eps_ = xp.asarray(problem.eps)
    potentials = (s.f * eps_[:, None], s.g * eps_[:, None], s.h * eps_)
    return Outcome(
        T, G, potentials, terms, station, status, iterations, passes, gradients, [np.array(x).reshape(-1, 2) for x in history]
    )


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
        total = xp.logaddexp.reduce(xp.where(valid, logsums, -np.inf), axis=1)
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


def _damping(problem: Problem, eps: np.ndarray, sums: np.ndarray, now: list[np.ndarray], before: list[np.ndarray]) -> np.ndarray:
    """beta = 1 where the energy bends less than half of what the regulariser resists, else 1/(1 + bend/breg).

    The resistance is the smaller of the symmetrised and twice the forward Bregman divergence of all convex terms.
    """
    both, forward, bend = eps * sums[:, BREG], 2 * eps * sums[:, KL], sums[:, BEND]
    for tau, a, b in zip(problem.marginals.tau, now, before, strict=True):
        if 0 < tau < np.inf:
            log_ratio = np.log(np.maximum(a, 1e-300)) - np.log(np.maximum(b, 1e-300))
            both, forward = both + tau * ((a - b) * log_ratio).sum(1), forward + 2 * tau * (a - b - b * log_ratio).sum(1)
    breg = np.maximum(np.minimum(both, forward), 1e-300)
    with np.errstate(over="ignore"):
        return np.where(bend > BEND_FREE * breg, 1 / (1 + np.maximum(bend, 0) / breg), 1.0)


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
        s.used[which] = 0  # mixing without a memory is the Sinkhorn step
        be.anderson(s, none, which)
        return sweep(which)

    out, work = sweep(on), on.copy()
    s.used[on] = 0
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
