"""The inner solve: raise the dual of a scaling problem until its residual is small. Written once, for every backend.

A few Sinkhorn sweeps under Anderson mixing, then projected Newton steps by conjugate gradients with a line search on the dual.
Rows are exact in every evaluation, so the unknowns are the column potentials and the mass multiplier.

`ascend` calls the primitives of `_protocol` by their names; `bound` gives a copy of it whose names are a backend's. It is plain
array code on one number per problem, so that the Numba backend compiles the same text: small problems then cost no interpreter.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import numpy as np

from ._protocol import DONE, GAIN, PHI, RES, VIOL

SWEEPS, CG_STEPS, CG_STOP, BACKTRACKS = 8, 60, 0.3, 8
FREE_STEPS, PRICE = (
    2,
    60,
)  # CG steps of a Newton step that cost nothing; passes that a factor costs: bought when the rest adds up to it

sweep: Any = None  # the primitives, and `numbers(s)`, a host copy of s.vals, and `forget(s, which)`, which empties the mixing
anderson: Any = None
newton: Any = None
factor: Any = None
cg: Any = None
trial: Any = None
numbers: Any = None
forget: Any = None


def ascend(K, s, target, feasible, newton_steps, slack, spent, on):  # type: ignore[no-untyped-def]
    """Raise the dual until the residual is below `target` and no point off by more than `feasible`; reads of K per problem.

    `spent` counts the CG steps that a better preconditioner would have saved since the last one was built, from call to call.
    """
    passes, none, zero = np.zeros(len(on), np.int64), np.zeros(len(on), np.bool_), np.zeros(len(on))
    work = on.copy()
    sweep(K, s, work)
    passes += work
    out = numbers(s)
    forget(s, work)
    for k in range(SWEEPS):
        if k > 0:
            work = work & ~((out[:, RES] <= target) & (out[:, VIOL] <= feasible))
        if not work.any():
            return passes
        old = out[:, PHI]
        anderson(s, none, work)
        sweep(K, s, work)
        passes += work
        out = numbers(s)
        worse = work & ~(out[:, PHI] >= old - slack * np.abs(old))
        if worse.any():  # the mixed point is below the last image: take that one
            anderson(s, worse, worse)
            sweep(K, s, worse)
            passes += worse
            out = numbers(s)
    for _ in range(newton_steps):
        work = work & ~((out[:, RES] <= target) & (out[:, VIOL] <= feasible))
        if not work.any():
            return passes
        newton(K, s, work)
        passes += work
        heavy = work & (spent > PRICE)
        if heavy.any():
            passes += PRICE * factor(K, s, heavy)
            spent[heavy] = 0.0
        todo = work & (numbers(s)[:, DONE] == 0)
        for k in range(CG_STEPS):
            if not todo.any():
                break
            cg(K, s, CG_STOP, todo)
            passes += todo
            if k >= FREE_STEPS:
                spent += todo
            todo = todo & (numbers(s)[:, DONE] == 0)
        start, a, search = out[:, PHI], np.ones(len(on)), work.copy()
        for _ in range(BACKTRACKS):
            trial(s, a, search)
            sweep(K, s, search)
            passes += search
            out = numbers(s)
            phi = out[:, PHI]
            enough = (phi >= start + 1e-4 * out[:, GAIN]) | (np.abs(phi - start) < slack * np.maximum(1.0, np.abs(start)))
            search = search & ~(np.isfinite(phi) & enough)
            if not search.any():
                break
            a = np.where(search, 0.3 * a, a)
        if search.any():  # back to the start of the line search: the Sinkhorn step below always raises the dual
            trial(s, zero, search)
            sweep(K, s, search)
            passes += search
        forget(s, work)  # mixing without a memory is the Sinkhorn step
        anderson(s, none, work)
        sweep(K, s, work)
        passes += work
        out = numbers(s)
    return passes


def bound(function: Callable[..., Any], suffix: str, **names: Any) -> Callable[..., Any]:
    """A copy of a function that sees other objects under some of its global names; `suffix` keeps compiled copies apart."""
    scope = {**function.__globals__, **names} if names else function.__globals__
    twin = types.FunctionType(function.__code__, scope, function.__name__ + suffix, function.__defaults__, function.__closure__)
    twin.__qualname__, twin.__module__, twin.__doc__ = function.__qualname__ + suffix, function.__module__, function.__doc__
    return twin


def interpreted(be: Any) -> Callable[..., Any]:
    """`ascend` of a backend whose primitives are called from Python."""
    names = {name: getattr(be, name) for name in ("sweep", "anderson", "newton", "factor", "cg", "trial")}

    def forget(s: Any, which: np.ndarray) -> None:
        s.used[be.xp.asarray(which)] = 0

    return bound(ascend, "_" + be.name, numbers=lambda s: np.array(be.host(s.vals)), forget=forget, **names)
