"""The inner solve compiled: the text of `_backends/inner.py` with the serial kernels beside it as its primitives.

For batches of problems whose passes cost less than a call from the interpreter. Each runs on its own, without waiting for the
others, and one thread works on it: its matrix stays in the cache.

Compiling is dear, half a minute to two minutes: what a parallel form calls is optimised three times over. So there is nothing
between the loop and the kernels, only `warmup` and minutes of work compile it; before that all problems walk in lockstep.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, prange

from .. import inner
from .._protocol import USED
from . import dual as _d
from . import scaling as _k
from ._jit import Rare, jit


@jit
def _numbers(R, C, S, size, v, hist, part, sums, factor):  # type: ignore[no-untyped-def]
    return S.copy()


@jit
def _forget(R, C, S, size, v, hist, part, sums, factor, which):  # type: ignore[no-untyped-def]
    for b in range(len(which)):
        if which[b]:
            S[b, USED] = 0.0


@jit
def _factor(K, R, C, S, size, v, hist, part, sums, factor, on):  # type: ignore[no-untyped-def]
    return np.zeros(len(on), np.int64)  # conjugate gradients alone, as in lockstep


_kernels = {
    "sweep": _k.sweep,
    "anderson": _d.anderson,
    "newton": _d.newton,
    "cg": _d.cg,
    "trial": _d.trial,
    "shorten": _d.shorten,
}
_names = {name: f.serial for name, f in _kernels.items()}
_names |= {name: jit(inner.bound(f, "_compiled")) for name, f in inner.HELPERS.items()}
_names |= {"numbers": _numbers, "forget": _forget, "factor": _factor}
_ascend = njit(inline="always")(inner.bound(inner.ascend, "_compiled", **_names))


def _each(K, R, C, S, size, v, hist, part, sums, factor, target, feasible, steps, slack, spent, on):  # type: ignore[no-untyped-def]
    passes = np.zeros(len(on), np.int64)
    for b in prange(len(on)):
        if on[b]:
            c = b + 1
            s = (R[b:c], C[b:c], S[b:c], size[b:c], v[b:c], hist[b:c], part[b:c], sums[b:c], factor[b:c])
            passes[b] = _ascend(K[b:c], s, target[b:c], feasible[b:c], steps, slack, spent[b:c], on[b:c])[0]
    return passes


# the file of one says nothing of the other
_by_dtype = {np.dtype(name): Rare(inner.bound(_each, "_" + name)) for name in ("float32", "float64")}


def each(lockstep: Callable[..., Any], K: np.ndarray, state: tuple[np.ndarray, ...], *rest: Any) -> Any:
    """Reads of K that each problem took, of `inner.ascend`; `lockstep` does the same where this is not compiled."""
    return _by_dtype[K.dtype](lockstep, K, *state, *rest)
