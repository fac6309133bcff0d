"""How much to match, chosen from the price of mass: the problem is solved on a grid of masses, each from the one before.

F(m), the least objective at mass m, has the derivative dF/dm = h, the multiplier of the mass constraint: what the next bit of
mass costs. Points that have a partner are cheap, background is dear, so the price has a low and a high level. Two criteria:

* split: the two-level fit of the prices with least squared error (Otsu's criterion in one dimension); the mass where it jumps;
* knee: the point of the curve F(m) farthest below its chord.

They agree where the background is clearly apart. Where they do not, the masses between them are all defensible. Two levels can
be fitted to any curve: where they explain little more of the prices than of an even rise, the knee is taken, with a warning.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .._problem import Problem
from ..marginals import fixed_mass
from ..result import two_levels
from . import entropic, exact
from ._loop import Watch
from ._outcome import Outcome

POINTS = 20  # masses on the path: 1/20, 2/20, ... of the largest
# One outer step for each mass, the cost linearised at the plan before it: the path costs 1.5 to 6 cold solves. Fifteen steps
# gave the same choices, and prices that differ by 1 % of their range, at four times the cost.
ENTROPIC_TOL, ENTROPIC_STEPS = 1e-2, 1
EXACT_TOL, EXACT_STEPS = 1e-2, 15


def with_mass(problem: Problem, mass: np.ndarray) -> Problem:
    """The problem at another mass for each member of the batch; a side that is used up becomes an equality."""
    host, xp = problem.be.host, problem.be.xp
    P, Q = host(problem.p.sum(1)), host(problem.q.sum(1))
    rules, fixed, cap, both = fixed_mass(mass, P, Q)
    q = problem.q * xp.asarray(np.where(both, P / Q, 1.0))[:, None]
    return replace(problem, q=q, marginals=rules, cap=cap, mass=fixed)


def trace(problem: Problem, name: str, points: int = POINTS) -> tuple[np.ndarray, np.ndarray, np.ndarray, Any]:
    """Masses (points, B), least objective found and price of mass at each, and the outcomes' work per problem."""
    host = problem.be.host
    largest = np.minimum(host(problem.p.sum(1)), host(problem.q.sum(1)))
    grid = largest[None] * (np.arange(1, points + 1) / points)[:, None]
    values, prices, work = np.zeros(grid.shape), np.zeros(grid.shape), np.zeros((2, len(largest)), int)
    out: Outcome | None = None
    for k in reversed(range(points)):  # downwards: a plan that is scaled down stays feasible
        out = step(with_mass(problem, grid[k]), name, out, grid[k])
        # the history corrects F for what the marginals still lack: that matters at this accuracy
        plain = np.sum(list(out.terms.values()), axis=0)
        values[k] = [h[-1, 0] if len(h) else F for h, F in zip(out.history, plain, strict=True)]
        prices[k] = host(out.potentials[2])
        work += out.n_passes, out.n_gradients
    # at the last mass a side is used up, and the price of mass is not a multiplier of its own any more
    prices[-1] = (values[-1] - values[-2]) / (grid[-1] - grid[-2])
    return grid, values, prices, work


def step(problem: Problem, name: str, before: Outcome | None, mass: np.ndarray) -> Outcome:
    """Solve at one mass, from the solution at another where there is one."""
    if name != "entropic":
        start = None if before is None else before.plan * (mass / before.plan.sum((1, 2)))[:, None, None]
        return exact.solve(problem, [start], tol=EXACT_TOL, max_iter=EXACT_STEPS, watch=Watch())
    if before is None:
        return entropic.solve(problem, None, tol=ENTROPIC_TOL, max_iter=100, watch=Watch())
    xp = problem.be.xp
    ratio = mass / problem.be.host(before.plan.sum((1, 2), dtype=float))
    f, g, h = _capped(problem, *before.potentials)
    T = before.plan * xp.asarray(ratio.astype(before.plan.dtype))[:, None, None]
    warm = f, g, h + xp.asarray(problem.eps * np.log(ratio))
    return entropic.solve(problem, T, tol=ENTROPIC_TOL, max_iter=ENTROPIC_STEPS, watch=Watch(), anneal=False, potentials=warm)


def _capped(problem: Problem, f: Any, g: Any, h: Any) -> tuple[Any, Any, Any]:
    """The same sums f + g + h with f, g <= 0, largest 0: a used-up side puts no bound on its potential, nor meaning in h."""
    xp = problem.be.xp
    top_f, top_g = (xp.where(w > 0, x, -np.inf).max(1) for w, x in ((problem.p, f), (problem.q, g)))
    return f - top_f[:, None], g - top_g[:, None], h + top_f + top_g


def choose(grid: np.ndarray, values: np.ndarray, prices: np.ndarray) -> tuple[float, float]:
    """Masses of the split and of the knee, from one problem's path."""
    split = float(grid[two_levels(prices)[0] - 1])
    m, F = np.concatenate(([0.0], grid)), np.concatenate(([0.0], values))
    chord = F[-1] * m / m[-1]
    knee = float(m[int(np.argmax(chord - F))])
    return split, knee if knee > 0 else float(grid[0])
