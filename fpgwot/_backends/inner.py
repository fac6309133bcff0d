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

from ._protocol import DONE, FACTORED, GAIN, PHI, RES, STEPS, VIOL

SWEEPS, CG_STEPS, CG_STOP, BACKTRACKS = 10, 60, 0.3, 8
FREE_STEPS, MIXED = 2, 4  # CG steps of a Newton step that a factor would not save; mixed sweeps of an outer step that it would
EARLY = 0.5  # a factor is bought when what it would have saved adds up to this share of its price: it serves many outer steps
PRICE, COLUMNS = 16, 16  # of a factor in passes, and one more for so many columns: measured 20, 25, 45, 45, 80 at 64 ... 1024
AT_ONCE = 1  # CG steps that a call of `cg` makes before the host looks; a backend may have its own
ENOUGH = 1e-4  # share of the expected gain that a line search accepts

sweep: Any = None  # the primitives, and `numbers(s)`, a host copy of s.vals
anderson: Any = None
newton: Any = None
factor: Any = None
cg: Any = None
trial: Any = None
shorten: Any = None
numbers: Any = None
forget: Any = None  # `forget(s, which)` empties the mixing


# Loops, not array expressions: those would take seconds to compile.


def unfinished(out, target, feasible, work):  # type: ignore[no-untyped-def]
    """Strike the problems that are done off `work`; whether any is left."""
    left = False
    for b in range(len(work)):
        work[b] = work[b] and not (out[b, RES] <= target[b] and out[b, VIOL] <= feasible[b])
        left = left or work[b]
    return left


def fallen(out, old, slack, work, worse):  # type: ignore[no-untyped-def]
    """Mark the problems whose dual fell below `old`; whether there are any."""
    found = False
    for b in range(len(work)):
        worse[b] = work[b] and not out[b, PHI] >= old[b, PHI] - slack * abs(old[b, PHI])
        found = found or worse[b]
    return found


def without_factor(out, work, mix):  # type: ignore[no-untyped-def]
    """Mark the problems without a factor (with one, Newton steps are cheaper than mixing); whether there are any."""
    found = False
    for b in range(len(work)):
        mix[b] = work[b] and out[b, FACTORED] == 0
        found = found or mix[b]
    return found


def running(out, todo):  # type: ignore[no-untyped-def]
    """Strike the problems whose conjugate gradients are done off `todo`; whether any is left."""
    left = False
    for b in range(len(todo)):
        todo[b] = todo[b] and out[b, DONE] == 0
        left = left or todo[b]
    return left


def refused(out, start, slack, search):  # type: ignore[no-untyped-def]
    """Strike the problems whose step raised the dual enough off `search`; whether any is left."""
    left = False
    for b in range(len(search)):
        phi, before = out[b, PHI], start[b, PHI]
        enough = phi >= before + ENOUGH * out[b, GAIN] or abs(phi - before) < slack * max(1.0, abs(before))
        search[b] = search[b] and not (np.isfinite(phi) and enough)
        left = left or search[b]
    return left


def costly(spent, work, price, heavy):  # type: ignore[no-untyped-def]
    """Mark the problems whose conjugate gradients have cost as much as a factor, and begin to count anew; whether any is."""
    found = False
    for b in range(len(work)):
        heavy[b] = work[b] and spent[b] > price
        if heavy[b]:
            spent[b], found = 0.0, True
    return found


def count(total, which, unit):  # type: ignore[no-untyped-def]
    """total += unit where `which`."""
    for b in range(len(which)):
        if which[b]:
            total[b] += unit


def charge(passes, built):  # type: ignore[no-untyped-def]
    """Count factors of so many columns as passes."""
    for b in range(len(built)):
        if built[b] > 0:
            passes[b] += PRICE + built[b] // COLUMNS


def tally(out, which, passes, spent):  # type: ignore[no-untyped-def]
    """Add the CG steps of a Newton step, and those that a factor would have saved."""
    for b in range(len(which)):
        if which[b]:
            passes[b] += int(out[b, STEPS])
            spent[b] += max(out[b, STEPS] - FREE_STEPS, 0.0)


HELPERS = {f.__name__: f for f in (unfinished, fallen, without_factor, running, refused, costly, count, charge, tally)}


def ascend(K, s, target, feasible, newton_steps, slack, spent, on):  # type: ignore[no-untyped-def]
    """Raise the dual until the residual is below `target` and no point off by more than `feasible`; reads of K per problem.

    `s` holds the state as the primitives take it: a tuple of one `Scaling`, or of its arrays. `spent` counts, from call to call,
    the CG steps and mixed sweeps that a factor would have saved since the last one was built.
    """
    B, price = len(on), PRICE + K.shape[2] // COLUMNS
    passes, none, some = np.zeros(B, np.int64), np.zeros(B, np.bool_), np.zeros(B, np.bool_)
    work, mix, zero = on.copy(), on.copy(), np.zeros(B)
    sweep(K, *s, work)
    count(passes, work, 1)
    out = numbers(*s)
    for k in range(SWEEPS):
        if k > 0 and not unfinished(out, target, feasible, work):
            return passes
        if not without_factor(out, work, mix):
            break
        old = out
        anderson(*s, none, mix)
        sweep(K, *s, mix)
        count(passes, mix, 1)
        out = numbers(*s)
        if fallen(out, old, slack, mix, some):  # the mixed point is below the last image: take that one
            anderson(*s, some, some)
            sweep(K, *s, some)
            count(passes, some, 1)
            out = numbers(*s)
    if unfinished(out, target, feasible, work) and without_factor(out, work, mix):
        count(spent, mix, MIXED)
    for _ in range(newton_steps):
        if not unfinished(out, target, feasible, work):
            return passes
        newton(K, *s, work)
        count(passes, work, 1)
        if costly(spent, work, EARLY * price, some):
            charge(passes, factor(K, *s, some))
        todo, k, made = work.copy(), 0, numbers(*s)
        while k < CG_STEPS and running(made, todo):
            cg(K, *s, CG_STOP, todo)
            made, k = numbers(*s), k + AT_ONCE
        tally(made, work, passes, spent)
        start, a, search, tries = out, np.ones(B), work.copy(), 0
        while tries < BACKTRACKS:
            trial(*s, a, search)
            sweep(K, *s, search)
            count(passes, search, 1)
            out = numbers(*s)
            tries += 1
            if not refused(out, start, slack, search):
                break
            shorten(*s, a, search)
        if search.any():  # back to the start of the line search: the Sinkhorn step below always raises the dual
            trial(*s, zero, search)
            sweep(K, *s, search)
            count(passes, search, 1)
        forget(*s, work)  # mixing without a memory is the Sinkhorn step
        anderson(*s, none, work)
        sweep(K, *s, work)
        count(passes, work, 1)
        out = numbers(*s)
    return passes


def bound(function: Callable[..., Any], suffix: str, **names: Any) -> Callable[..., Any]:
    """A copy of a function that sees other objects under some of its global names; `suffix` keeps compiled copies apart."""
    scope = {**function.__globals__, **names} if names else function.__globals__
    twin = types.FunctionType(function.__code__, scope, function.__name__ + suffix, function.__defaults__, function.__closure__)
    twin.__qualname__, twin.__module__, twin.__doc__ = function.__qualname__ + suffix, function.__module__, function.__doc__
    return twin


def interpreted(be: Any, compiled: Callable[..., Any] | None = None, **others: Any) -> Callable[..., Any]:
    """`ascend` of a backend whose primitives are called from Python; `compiled` for the helpers, where batches are large.

    `others` take the place of names of this module.
    """
    names = {name: getattr(be, name) for name in ("sweep", "anderson", "newton", "factor", "cg", "trial", "shorten")}

    def forget(s: Any, which: np.ndarray) -> None:
        s.used[be.xp.asarray(which)] = 0

    if compiled is not None:
        names |= {name: compiled(bound(f, "_" + be.name)) for name, f in HELPERS.items()}
    names |= others
    loop = bound(ascend, "_" + be.name, numbers=lambda s: np.array(be.host(s.vals)), forget=forget, **names)
    return lambda K, s, *rest: loop(K, (s,), *rest)
