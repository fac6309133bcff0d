"""How much to match, chosen from the price of mass: the problem is solved on a grid of masses, each from the one before.

F(m), the least objective at mass m, has the derivative dF/dm = h, the multiplier of the mass constraint: what the next bit of
mass costs. Points that have a partner are cheap, background is dear, so the price has a low and a high level. Two criteria:

* split: the two-level fit of the prices with least squared error (Otsu's criterion in one dimension); the mass where it jumps;
* knee: the point of the curve F(m) farthest below its chord.

They agree where the background is clearly apart. Where they do not, the masses between them are all defensible. Two levels can
be fitted to any curve: where they explain little more of the prices than of an even rise, the knee is taken, with a warning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from .._backends._protocol import LACK, RES, Scaling
from .._problem import Problem
from ..marginals import fixed_mass
from ..result import two_levels
from . import control, entropic, exact
from ._loop import Watch
from ._outcome import Outcome

POINTS = 20  # masses on the path: 1/20, 2/20, ... of the largest
# After the first mass one outer step each, the cost linearised at the plan before it, scaled. Fifteen steps gave the same
# choices, and prices that differ by 1 % of their range, at many times the cost.
ENTROPIC_TOL, EXACT_TOL, EXACT_STEPS = 1e-2, 1e-2, 15
INNER = 0.01  # residual of a step's marginals, per unit of mass
NEWTON_STEPS = 24


def with_mass(problem: Problem, mass: np.ndarray) -> Problem:
    """The problem at another mass for each member of the batch; a side that is used up becomes an equality."""
    host, xp = problem.be.host, problem.be.xp
    P, Q = host(problem.p.sum(1)), host(problem.q.sum(1))
    rules, fixed, cap, both = fixed_mass(mass, P, Q)
    q = problem.q * xp.asarray(np.where(both, P / Q, 1.0))[:, None]
    return replace(problem, q=q, marginals=rules, cap=cap, mass=fixed)


def trace(problem: Problem, name: str, points: int = POINTS) -> tuple[np.ndarray, np.ndarray, np.ndarray, Any]:
    """Masses (points, B), least objective found and price of mass at each, and the reads and gradients per problem."""
    host = problem.be.host
    largest = np.minimum(host(problem.p.sum(1)), host(problem.q.sum(1)))
    grid = largest[None] * (np.arange(1, points + 1) / points)[:, None]
    values, prices, work = np.zeros(grid.shape), np.zeros(grid.shape), np.zeros((2, len(largest)), int)
    steps = (_entropic if name == "entropic" else _exact)(problem, grid[::-1])  # downwards: a plan scaled down stays feasible
    for k, (value, price, passes, gradients) in zip(reversed(range(points)), steps, strict=True):
        values[k], prices[k] = value, price
        work += passes, gradients
    # at the last mass a side is used up, and the price of mass is not a multiplier of its own any more
    prices[-1] = (values[-1] - values[-2]) / (grid[-1] - grid[-2])
    return grid, values, prices, work


def _record(out: Outcome, host: Any) -> tuple[Any, ...]:
    # the history corrects F for what the marginals still lack: that matters at this accuracy
    plain = np.sum(list(out.terms.values()), axis=0)
    values = np.array([h[-1, 0] if len(h) else F for h, F in zip(out.history, plain, strict=True)])
    return values, host(out.potentials[2]), out.n_passes, out.n_gradients


def _exact(problem: Problem, masses: np.ndarray) -> Iterator[tuple[Any, ...]]:
    """Objective, price, reads and gradients at each mass by the exact solver."""
    plan = None
    for mass in masses:
        start = None if plan is None else plan * (mass / plan.sum((1, 2)))[:, None, None]
        out = exact.solve(with_mass(problem, mass), [start], tol=EXACT_TOL, max_iter=EXACT_STEPS, watch=Watch())
        yield _record(out, problem.be.host)
        plan = out.plan


def _entropic(problem: Problem, masses: np.ndarray) -> Iterator[tuple[Any, ...]]:
    """The same by the entropic solver: a solve at the largest mass, then one step for each, with one gradient."""
    be, xp, host = problem.be, problem.be.xp, problem.be.host
    out = entropic.solve(with_mass(problem, masses[0]), None, tol=ENTROPIC_TOL, max_iter=100, watch=Watch())
    yield _record(out, host)

    below = with_mass(problem, masses[1])
    s, on, B = below.allocate(), np.ones(len(masses[0]), bool), len(masses[0])
    _start(below, s, *out.potentials)
    G, T = out.gradient, out.plan
    G0, work = below.constant_gradient(T, s, on), xp.zeros_like(T)
    spent, fresh, zero = np.zeros(B), np.zeros(B, bool), np.zeros(B)
    lost = on.copy()  # whose potentials may be far off: first all, later those whose marginals are not met
    facts, terms, c = control.facts(below), np.zeros((B, 4)), control.numbers(problem.eps)
    kind, rules = (problem.loss != "product", problem.is_quadratic), control.rules(be)
    before = host(T.sum((1, 2), dtype=float))
    for mass in masses[1:]:
        ratio = np.where(before > 0.5 * mass, mass / np.maximum(before, 1e-300), 1.0)  # a plan that was lost is not scaled
        s.mass[:] = xp.asarray(mass)
        s.h[:] += xp.asarray(np.log(ratio))
        be.kernel(G, G0, T, work, s, 1 - ratio, fresh, on)  # from the gradient at ratio T
        if lost.any():
            entropic.column_update(be, s, be.column_logsums(G, s, lost), lost)
            be.kernel(G, G0, T, work, s, zero, fresh, lost)
        passes = be.ascend(T, s, INNER * mass, np.full(B, np.inf), NEWTON_STEPS, 1e-12, spent, on)
        lost = ~(host(s.vals[:, RES]) <= 2 * INNER * mass)
        be.plan(T, s, on)
        mu, nu = s.row.copy(), s.col.copy()
        before = host(mu.sum(1))
        sums, along, rough = below.gradient(T, mu, nu, mu, nu, G, work, work, work, s, on, on)
        rules.begin(c, facts, terms, sums, along, rough, *kind)
        yield c[:, control.OBJECTIVE] + problem.eps * along[:, LACK], host(s.h) * problem.eps, passes, np.ones(B, int)


def _start(problem: Problem, s: Scaling, f: Any, g: Any, h: Any) -> None:
    """The same sums f + g + h with f, g <= 0, largest 0: a used-up side puts no bound on its potential, nor meaning in h."""
    xp, eps = problem.be.xp, problem.be.xp.asarray(problem.eps)
    top_f, top_g = (xp.where(w > 0, x, -np.inf).max(1) for w, x in ((problem.p, f), (problem.q, g)))
    s.f[:], s.g[:] = (f - top_f[:, None]) / eps[:, None], (g - top_g[:, None]) / eps[:, None]
    s.h[:] = (h + top_f + top_g) / eps


def choose(grid: np.ndarray, values: np.ndarray, prices: np.ndarray) -> tuple[float, float]:
    """Masses of the split and of the knee, from one problem's path."""
    split = float(grid[two_levels(prices)[0] - 1])
    m, F = np.concatenate(([0.0], grid)), np.concatenate(([0.0], values))
    chord = F[-1] * m / m[-1]
    knee = float(m[int(np.argmax(chord - F))])
    return split, knee if knee > 0 else float(grid[0])
