"""Entropic solver: annealed, damped linearisation of the energy outside; Anderson and Newton-CG on the dual inside.

Outer step. G is the gradient at the plan T, L the cost whose scaling made T. With D = T - T0 and R = G - L the energy bends by
<R, D> along D; the entropy resists with a Bregman divergence. Where the bend is below half of it the plain step L = G is
taken, else L moves by beta = 1/(1 + bend/breg) of the way. Since T = exp((f + g + h - L)/eps), this is the same as a proximal
step with weight 1/eta = eps (1/beta - 1) on KL(. || T): plain linearisation with the proximal term bought only when needed.
Near a solution with a flat concave direction plain steps take away a small, equal share of the error each; then beta is 1 over
that share for one step (Aitken's extrapolation, on the cost). Beside a saddle each step is larger than the last by the same
factor; one step then goes as far as a tenth of the mass.

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

from .._backends import _protocol as ix
from .._backends._protocol import Scaling
from .._problem import Problem
from ..result import Status
from . import control
from ._loop import Watch
from ._outcome import Outcome
from .changes import Changes
from .control import BETA, EPS, OBJECTIVE, STATION

NEWTON_STEPS = 8  # of an outer step; three times as many for the first
JUMP = 5.0  # largest update of a potential that the next kernel, written with the gradient, may ask of the first sweep


def solve(
    problem: Problem,
    T: Any,
    *,
    tol: float,
    max_iter: int,
    watch: Watch,
    anneal: np.ndarray | bool = True,
    is_final: bool = False,
) -> Outcome:
    """Minimise the entropic objective of `problem` from the plan T, whose buffer is used; None is the product plan.

    `anneal` False keeps to the basin of T. `is_final`: a caller sees the plan, so the last step, converged or not, meets the
    marginals as far as it can.

    Cost of an outer step: one gradient (the structure products) and a few dozen reads of the n x m kernel.
    """
    be, xp, B = problem.be, problem.be.xp, problem.shape[0]
    is_product = T is None
    T = problem.product_plan() if T is None else T
    host, low = be.host, np.dtype(problem.dtype).itemsize < 8
    feasible, slack = (2e-5, 1e-6) if low else (2e-7, 1e-12)
    kind, rules = (problem.loss != "product", problem.is_quadratic), control.rules(be)
    s = problem.allocate()
    G, L, T0 = (be.borrow(T.shape, T.dtype) for _ in range(3))
    work = be.borrow(T.shape, T.dtype) if problem.C1 is not None else None
    is_padded = bool((problem.size != T.shape[1:]).any())
    foresees = be.foresees and work is not None and not is_padded  # a kernel's padding must be 0
    if is_padded:
        T0[:] = 0  # it takes the place of T
    own = [G, L, T0] + [work] * (work is not None) + [T] * is_product
    mu, nu = problem.product_marginals() if is_product else be.plan_marginals(T)
    mu0, nu0 = mu, nu  # marginals of T0
    on, fresh, status = np.ones(B, bool), np.ones(B, bool), np.zeros(B, int)
    passes, gradients, iterations, spent = np.zeros(B, int), np.ones(B, int), np.zeros(B, int), np.zeros(B)
    sums, along, rough = problem.gradient(T, mu, nu, mu0, nu0, G, work, T0, L, s, on, on, is_product)
    facts, terms = control.facts(problem), np.zeros((B, 4))
    c = control.numbers(np.where(anneal, control.annealing_start(host(be.spread(G, s)), problem.eps), problem.eps))
    s.eps[:] = xp.asarray(c[:, EPS])
    _start_mass(be, G, s, on)
    rules.begin(c, facts, terms, sums, along, rough, *kind)
    history, changes = [], Changes(problem, is_product, tol)

    for iteration in range(max_iter):
        # ------------------------------------------------------------------------- step of the cost, kernel, scaling, plan
        if fresh.any():
            column_update(be, s, be.column_logsums(G, s, fresh), fresh)
        beta = c[:, BETA].copy()  # 1 where a stage begins
        moved = bool(on.all() and (beta == 1.0).all())
        if moved and foresees and iteration > 0 and not fresh.any() and (sums[:, ix.JUMP] < JUMP).all():
            L, G, T, T0, work = G, L, work, T, T0  # the kernel is there
        else:
            if moved:  # the cost and the plan move all the way: the buffers change places, and nothing is copied
                L, G, T, T0 = G, L, T0, T
            be.kernel(L, G, T, T0, s, beta, fresh, on, moved)
        goal, strict = rules.target(c, facts, tol, problem.is_quadratic)
        is_last = is_final and iteration == max_iter - 1
        newton_steps = NEWTON_STEPS * (3 if iteration == 0 or is_last else 1)
        passes += be.ascend(T, s, goal, np.where(strict | is_last, 0.5 * feasible, np.inf), newton_steps, slack, spent, on)
        be.plan(T, s, on)
        step = xp.asarray(beta)[:, None]
        mu0, nu0 = mu0 + step * (mu - mu0), nu0 + step * (nu - nu0)
        mu, nu = s.row.copy(), s.col.copy()
        iterations += on

        # ------------------------------------------------------------------- gradient, certificate, damping, progress, next stage
        args = T, mu, nu, mu0, nu0, G, work, T0, L, s, ~on, on, False, foresees
        sums, along, rough = changes.gradient(c[:, STATION], on, args)
        gradients += changes.made * on
        if be.divergences is not None and (needed := rules.unsure(c, sums, along, on)).any():
            sums[needed, ix.BREG : ix.KL + 1] = be.divergences(T, T0, L, s, needed)[needed]
        before, last = on.copy(), c[:, EPS] == problem.eps
        rules.observe(c, facts, terms, sums, along, rough, host(s.vals), on, fresh, status, tol, feasible, low, *kind)
        history.append((before & last, c[:, OBJECTIVE].copy(), c[:, STATION].copy()))
        if watch(iteration, c[:, OBJECTIVE], c[:, STATION]) or not on.any():
            break
        if fresh.any():
            eps = xp.asarray(c[:, EPS])
            ratio = (s.eps / eps)[:, None]
            s.rows[:, ix.F] *= ratio
            s.cols[:, ix.G] *= ratio
            s.eps[:] = eps
            spent[fresh] = 0.0
            s.used[:] = xp.where(xp.asarray(fresh), 0.0, s.used)  # another eps, another map
    else:
        on[:] = False

    be.give_back(x for x in own if x is not T and x is not G)
    be.give_back(changes.arrays)
    eps = xp.asarray(c[:, EPS])[:, None]
    potentials = (s.f * eps, s.g * eps, s.h * eps[:, 0])
    ends = [Status.STOPPED if running else control.STATUS[code] for running, code in zip(on, status, strict=True)]
    split = dict(zip(("linear", "quad", "reg", "marginal"), terms.T, strict=True))
    lines = [np.array([(F_[b], r[b]) for which, F_, r in history if which[b]]).reshape(-1, 2) for b in range(B)]
    return Outcome(T, G, potentials, split, c[:, STATION].copy(), ends, iterations, passes, gradients, lines)


def _start_mass(be: Any, G: Any, s: Scaling, on: np.ndarray) -> None:
    """h such that the kernel has the fixed mass: the one multiplier that needs a sensible start."""
    fixed = np.isfinite(be.host(s.mass))
    if fixed.any():
        xp = be.xp
        logsums = be.column_logsums(G, s, on & fixed)
        valid = xp.arange(logsums.shape[1])[None] < s.size[:, 1:2]
        logsums = xp.where(valid, logsums, -np.inf)
        top = xp.maximum(logsums.max(axis=1), -1e300)  # problems without a fixed mass have no sums
        total = top + xp.log(xp.exp(logsums - top[:, None]).sum(axis=1))
        s.h[:] = xp.where(xp.isnan(s.mass), 0.0, xp.log(s.mass) - total)


def column_update(be: Any, s: Scaling, logsums: Any, on: np.ndarray) -> None:
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
