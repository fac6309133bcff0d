"""The inner solve compiled: the text of `_backends/inner.py` with the kernels of `scaling.py` under the primitives' names.

A problem of a batch runs on its own, without waiting for the others, and one thread works on it: its matrix stays in the cache.
One problem alone has its rows shared by the threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from .. import inner
from .._protocol import USED
from . import scaling as k
from ._jit import Kernel, jit


def _sweep(K, s, on):  # type: ignore[no-untyped-def]
    sweep(K, s[0], s[1], s[2], s[3], s[4], s[6], s[7], on)  # type: ignore[name-defined]  # noqa: F821


def _anderson(s, restart, on):  # type: ignore[no-untyped-def]
    anderson(s[1], s[2], s[3], s[5], restart, on)  # type: ignore[name-defined]  # noqa: F821


def _newton(K, s, on):  # type: ignore[no-untyped-def]
    newton(K, s[0], s[1], s[2], s[3], s[4], s[6], s[7], s[8], on)  # type: ignore[name-defined]  # noqa: F821


@jit
def _factor(K, s, on):  # type: ignore[no-untyped-def]
    built = np.zeros(len(on), np.int64)
    k.factor(K, s[0], s[1], s[2], s[3], s[4], s[8], on, built)
    return built


def _cg(K, s, stop, on):  # type: ignore[no-untyped-def]
    cg(K, s[0], s[1], s[2], s[3], s[4], s[6], s[7], s[8], stop, on)  # type: ignore[name-defined]  # noqa: F821


def _trial(s, a, on):  # type: ignore[no-untyped-def]
    trial(s[1], s[2], s[3], a, on)  # type: ignore[name-defined]  # noqa: F821


@jit
def _numbers(s):  # type: ignore[no-untyped-def]
    return s[2].copy()


@jit
def _forget(s, which):  # type: ignore[no-untyped-def]
    for b in range(len(which)):
        if which[b]:
            s[2][b, USED] = 0.0


def _compiled(form: str) -> Any:
    """`inner.ascend` over the "serial" or the "parallel" form of the kernels."""
    names = {}
    for function in (_sweep, _anderson, _newton, _cg, _trial):
        name = function.__name__[1:]
        names[name] = jit(inner.bound(function, "_" + form, **{name: getattr(getattr(k, name), form)}))
    return jit(inner.bound(inner.ascend, "_" + form, numbers=_numbers, forget=_forget, factor=_factor, **names))


_one = _compiled("serial")


def _each(K, R, C, S, size, v, hist, part, sums, factor, target, feasible, steps, slack, spent, on):  # type: ignore[no-untyped-def]
    passes = np.zeros(len(on), np.int64)
    for b in prange(len(on)):
        if on[b]:
            c = b + 1
            s = (R[b:c], C[b:c], S[b:c], size[b:c], v[b:c], hist[b:c], part[b:c], sums[b:c], factor[b:c])
            passes[b] = _one(K[b:c], s, target[b:c], feasible[b:c], steps, slack, spent[b:c], on[b:c])[0]
    return passes


class _Loop(Kernel):
    def _units(self, result: Any) -> float:
        return max(float(result.sum()) / max(int(np.count_nonzero(result)), 1), 1.0)


def _shared(K, R, C, S, size, v, hist, part, sums, factor, target, feasible, steps, slack, spent, on):  # type: ignore[no-untyped-def]
    return _together(K, (R, C, S, size, v, hist, part, sums, factor), target, feasible, steps, slack, spent, on)


_together = _compiled("parallel")
problems = _Loop(_each)
alone = _Loop(_each)
alone.serial, alone.parallel = problems.serial, jit(_shared)  # threads share the rows of a problem
