"""Decisions of the outer loop: one row of numbers per problem on the host, in plain code that the backend may compile.

After each outer step `observe` works out the objective and the certificate, the damping of the next step, who is done, and who
goes on to a smaller eps. The rules are explained in `entropic`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .._backends import _protocol as ix
from ..result import Status

ANNEAL, FLAT, STAGE_TOL = 3.0, 0.15, 0.1  # ratio of the annealing, its start relative to the spread, tolerance of a stage
THETA, THETA_MIN = 0.03, 0.003  # inner target relative to the outer residual
BETA_MIN, BETA_GROWTH, BEND_FREE = 0.05, 1.2, 0.5  # damping: floor, growth per step, bend that needs none
UNBOUNDED = 1e15  # mass (of totals about 1) at which a problem with soft marginals is given up
PATIENCE, STALLS = 25, 4  # outer steps without 10 % progress before the rules tighten; how often before giving up
LEAP_FROM, SHARE_MIN, SHARE_MAX, STEADY_STEPS = 0.1, 0.005, 0.4, 3  # long steps: residual and shares at which, after how many
SAME = 0.2  # relative difference of shares that count as equal
FALLS = 1e-5  # of the terms of F: by this much it has fallen where the solver is not stuck, only slow

# What is fixed for a problem ...
GOAL, SCALE, WL, WQ, GAMMA, ROUGH_WEIGHT, LAMBDA, WEIGHTS, REFERENCE_MASS = range(9)
FACTS = 9
# ... and what moves: eps, damping and its bounds, inner target, progress, residuals, F, what long steps go by; F's parts at T0, T
EPS, BETA, CAP, FLOOR, INNER, BEST, SINCE, STALLED, MARK, OUTER, STATION, OBJECTIVE, STEADY, SHARE = range(14)
PARTS, HERE = 14, 17  # three each: energy and linear terms; entropy / eps; marginals
NUMBERS = 20
LINEAR, QUAD, REG, MARGINAL = range(4)
RUNNING, DONE, LOST, IMPRECISE, STUCK = range(5)
STATUS = (Status.MAX_ITER, Status.CONVERGED, Status.UNBOUNDED, Status.PRECISION, Status.STALLED)


def annealing_start(spread: np.ndarray, eps: np.ndarray) -> np.ndarray:
    """First eps: the asked one times the largest power of 3 that keeps it below a share of the spread of the costs."""
    with np.errstate(divide="ignore"):
        steps = np.floor(np.log(np.maximum(FLAT * spread / eps, 1.0)) / np.log(ANNEAL) + 1e-9)
    return np.asarray(eps * ANNEAL**steps)


def facts(problem: Any) -> np.ndarray:
    """The numbers of each problem that do not change."""
    host, B = problem.be.host, len(problem.size)
    P, Q = np.asarray(host(problem.p.sum(1))), np.asarray(host(problem.q.sum(1)))
    out = np.zeros((B, FACTS))
    out[:, GOAL], out[:, WL], out[:, WQ] = problem.eps, problem.wl, problem.wq
    out[:, SCALE] = np.where(np.isnan(problem.mass), np.minimum(P, Q), problem.mass)
    if problem.smoothness is not None:
        out[:, GAMMA], out[:, ROUGH_WEIGHT] = problem.smoothness, problem.smoothness / problem.weight_of_cross
    if problem.price is not None:
        out[:, LAMBDA] = problem.price
    out[:, WEIGHTS], out[:, REFERENCE_MASS] = P + Q, problem.reference_mass
    return out


class Rules(NamedTuple):
    """The functions of this module that a loop calls, compiled by the backend."""

    target: Callable[..., Any]
    begin: Callable[..., Any]
    unsure: Callable[..., Any]
    observe: Callable[..., Any]


_rules: dict[str, Rules] = {}


def rules(be: Any) -> Rules:
    """The rules for a backend."""
    if be.name not in _rules:
        helpers = _evaluate, _resistance, _new_stage, _keep
        _rules[be.name] = Rules(*(be.compiled(f, *helpers) for f in (target, begin, unsure, observe)))
    return _rules[be.name]


def numbers(eps: np.ndarray) -> np.ndarray:
    """The moving numbers at the start."""
    c = np.zeros((len(eps), NUMBERS))
    c[:, EPS], c[:, OBJECTIVE], c[:, STATION] = eps, np.inf, np.inf
    for b in range(len(eps)):
        _new_stage(c[b])
    return c


def _new_stage(c):  # type: ignore[no-untyped-def]
    c[BETA], c[CAP], c[FLOOR], c[INNER] = 1.0, 1.0, BETA_MIN, THETA
    c[BEST], c[SINCE], c[MARK], c[OUTER] = np.inf, 0.0, np.inf, np.inf


def target(c, facts, tol, quadratic):  # type: ignore[no-untyped-def]
    """Residual at which the inner solve may stop, and where it must be feasible point by point as well."""
    B = len(c)
    goal, strict = np.empty(B), np.empty(B, np.bool_)
    for b in range(B):
        floor, last = 0.1 * tol * facts[b, SCALE], c[b, EPS] == facts[b, GOAL]
        goal[b] = max(c[b, INNER] * min(c[b, OUTER], facts[b, SCALE]), floor)
        if last and not quadratic:
            goal[b] = floor
        strict[b] = last and goal[b] <= 3 * floor
    return goal, strict


def _evaluate(c, fact, terms, sums, along, rough, square, quadratic):  # type: ignore[no-untyped-def]
    """Terms of F at the plan in hand, and the three parts of F there."""
    mass = along[ix.TOTAL]
    fixed = along[ix.REFERENCE] + sums[ix.BIAS]
    terms[LINEAR] = fact[WL] * sums[ix.LIN]
    terms[QUAD] = 0.0
    if quadratic:
        cross = sums[ix.CROSS] - fact[ROUGH_WEIGHT] * rough  # <A, T>: what was added to A is taken out again
        bent = fact[WQ] * (along[ix.SQUARES] - 2 * cross if square else cross) if fact[WQ] > 0 else 0.0
        terms[QUAD] = bent + fact[GAMMA] * rough / 2
    entropy = sums[ix.ENT] - mass + fact[REFERENCE_MASS]
    terms[REG] = fact[GOAL] * entropy + fixed
    terms[MARGINAL] = along[ix.PRICE] + fact[LAMBDA] * (fact[WEIGHTS] - 2 * mass)
    c[HERE] = terms[LINEAR] + terms[QUAD] + fixed - 2 * fact[LAMBDA] * mass
    c[HERE + 1] = entropy
    c[HERE + 2] = along[ix.PRICE]


def _resistance(c, sums, along):  # type: ignore[no-untyped-def]
    """What the convex terms resist a step with: the smaller of their symmetrised and twice their forward Bregman divergence."""
    both, forward = c[EPS] * sums[ix.BREG] + along[ix.BOTH], c[EPS] * sums[ix.KL] + along[ix.FORWARD]
    return max(min(both, 2 * forward), 1e-300)


def unsure(c, sums, along, on):  # type: ignore[no-untyped-def]
    """Problems whose next step would depend on more than bounds of the divergences."""
    found = np.zeros(len(c), np.bool_)
    for b in range(len(c)):
        bend, resist = sums[b, ix.BEND], _resistance(c[b], sums[b], along[b])
        plain, no_leap = bend <= BEND_FREE * resist, 1.0 + bend / resist >= (1.0 + SAME) * SHARE_MAX
        found[b] = on[b] and not (plain and no_leap)
    return found


def _keep(c):  # type: ignore[no-untyped-def]
    for k in range(3):
        c[PARTS + k] = c[HERE + k]


def begin(c, facts, terms, sums, along, rough, square, quadratic):  # type: ignore[no-untyped-def]
    """F at the starting plan."""
    for b in range(len(c)):
        _evaluate(c[b], facts[b], terms[b], sums[b], along[b], rough[b], square, quadratic)
        _keep(c[b])
        c[b, OBJECTIVE] = c[b, PARTS] + c[b, EPS] * c[b, PARTS + 1] + c[b, PARTS + 2]


def observe(c, facts, terms, sums, along, rough, vals, on, fresh, status, tol, feasible, low, square, quadratic):  # type: ignore[no-untyped-def]
    """All decisions after an outer step; `on` loses the problems that end, `fresh` says who starts a stage."""
    for b in range(len(c)):
        fresh[b] = False
        if not on[b]:
            continue
        x, fact, s, a = c[b], facts[b], sums[b], along[b]
        _evaluate(x, fact, terms[b], s, a, rough[b], square, quadratic)

        # -------------------------------------------------------------------- certificate, and the damping of the next step
        # beta = 1 where the energy bends less than half of what the regulariser resists, else resistance / (resistance + bend)
        grown, x[OUTER] = s[ix.FIXED] > x[OUTER], s[ix.FIXED]
        x[STATION] = (s[ix.FIXED] + vals[b, ix.RES]) / max(fact[SCALE], vals[b, ix.MASS])
        resist = _resistance(x, s, a)
        beta = resist / (resist + max(s[ix.BEND], 0.0)) if s[ix.BEND] > BEND_FREE * resist else 1.0
        x[BETA] = max(min(beta, min(BETA_GROWTH * min(x[BETA], 1.0), x[CAP])), x[FLOOR])
        # Where the energy is concave and one direction is left, a plain step takes away the same share of the error each time:
        # once that is seen to be so, one long step takes the rest, as far as a tenth of the mass.
        share = 1.0 + s[ix.BEND] / resist
        # Beside a saddle the share is below 0 and each step is larger than the last by the same factor: a long step leaves it.
        known = SHARE_MIN < share < SHARE_MAX or (share < 0.0 and grown)
        steady = x[EPS] == fact[GOAL] and x[STATION] < LEAP_FROM and known
        x[STEADY] = x[STEADY] + 1.0 if steady and abs(share - x[SHARE]) < SAME * abs(share) else min(x[STEADY], 0.0)
        x[SHARE], leap = share, 1.0
        if x[STEADY] >= STEADY_STEPS:
            most = LEAP_FROM / max(x[STATION], 1e-300)
            leap, x[STEADY] = max(min(1.0 / share, most) if share > 0.0 else most, 1.0), -STEADY_STEPS

        # ------------------------------------------------------- F at the damped plan T0 + beta (T - T0): what damping makes fall
        # The energy there follows exactly from both ends and the bend between them, the convex terms are bounded by their
        # chord; F counts what the marginals still lack to first order.
        x[HERE + 2] += x[EPS] * a[ix.LACK]
        for k in range(3):  # not by difference where beta is 1: a start may cost 1e30 where pairs are forbidden
            x[PARTS + k] = x[HERE + k] if x[BETA] == 1.0 else x[PARTS + k] + x[BETA] * (x[HERE + k] - x[PARTS + k])
        if x[BETA] != 1.0:
            x[PARTS] -= x[BETA] * (1 - x[BETA]) * s[ix.BEND] / 2
        x[OBJECTIVE] = x[PARTS] + x[EPS] * x[PARTS + 1] + x[PARTS + 2]
        x[BETA] *= leap

        # ------------------------------------------------------------------------------- who is done, who is stuck, who goes on
        last = x[EPS] == fact[GOAL]
        if last and x[STATION] <= tol and vals[b, ix.VIOL] <= feasible:
            status[b], on[b] = DONE, False
            continue
        if vals[b, ix.MASS] > UNBOUNDED:
            status[b], on[b] = LOST, False
            continue
        x[SINCE] += 1.0
        if x[STATION] < 0.9 * x[BEST]:
            x[BEST], x[SINCE] = x[STATION], 0.0
        stuck = x[SINCE] >= PATIENCE
        if stuck:  # tighten the rules; give up after a few times
            x[INNER], x[SINCE] = max(0.3 * x[INNER], THETA_MIN), 0.0
            if s[ix.BEND] > 0:  # a concave energy asks for no damping: the way out of a saddle is long enough
                x[FLOOR] = 0.3 * x[FLOOR]
                x[CAP] = max(x[FLOOR], 0.6 * x[CAP])
            size = abs(x[HERE]) + x[EPS] * abs(x[HERE + 1]) + abs(x[HERE + 2])
            if last and x[OBJECTIVE] > x[MARK] - FALLS * size:
                x[STALLED] += 1.0
            x[MARK] = x[OBJECTIVE]
        if x[STALLED] >= STALLS:
            status[b], on[b] = IMPRECISE if low and x[STATION] < 1e-2 else STUCK, False
            continue
        if not last and (x[STATION] <= STAGE_TOL or stuck):
            fresh[b] = True
            finer = max(x[EPS] / ANNEAL, fact[GOAL])
            x[EPS] = fact[GOAL] if finer < 1.01 * fact[GOAL] else finer
            _new_stage(x)
            _keep(x)
