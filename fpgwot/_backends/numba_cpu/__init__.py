"""Numba on the CPU: the default backend. Every function is a primitive of `_protocol`."""

from __future__ import annotations

import sys
from functools import partial

import numpy as np

from .. import inner, numpy_whole
from .._protocol import MARGINAL_SUMS, ROWS, SUMS, Scaling
from ..numpy_whole import is_distance  # noqa: F401
from . import dual as _d
from . import loop as _loop
from . import scaling as _k
from . import whole as _w
from ._jit import both_forms, compiled, nothing_deferred, one_thread  # noqa: F401
from ._memory import borrow, give_back  # noqa: F401
from .cholesky import factor  # noqa: F401
from .descent import descend  # noqa: F401
from .direct import linear  # noqa: F401
from .lp import (  # noqa: F401
    active_weights,
    add_laplacians,
    fgw_gradient,
    lp_nearest,
    plan_changes,
    plan_energy,
    plan_pairing,
    plan_sums,
    product_factors,
    square_matvec,
)
from .simplex import DENSE_UP_TO, lp_basis, lp_solve  # noqa: F401
from .structured import decay_matmul, distance_starts, power_matmul, toeplitz_matmul  # noqa: F401

name = "numba"
xp = np
matmul = np.matmul
host = np.asarray
factors = foresees = scans = True
WHOLE_FROM = 2**16  # entries from which a read of a whole matrix earns what its kernel takes to compile
LARGE = 200_000  # entries from which the passes of a batch outlast the calls: several threads share the rows of each problem


def _work(K: np.ndarray, on: np.ndarray) -> int:
    return int(np.count_nonzero(on)) * K.shape[1] * K.shape[2]


def _has_kernel(a: np.ndarray) -> bool:
    """Large, and of a kind that kernels are compiled for: they would be once more for a read-only array."""
    return a.size >= WHOLE_FROM and a.dtype in (np.float32, np.float64) and a.flags.c_contiguous and a.flags.writeable


def is_finite(a: np.ndarray) -> bool:
    if not _has_kernel(a):
        return numpy_whole.is_finite(a)
    part = np.empty(-(-a.size // _w.CHUNK))
    _w.not_numbers(a.size, a.reshape(-1), part)
    return not np.isnan(part).any()


def is_toeplitz(C: np.ndarray, weights: np.ndarray, tolerance: float) -> bool:
    if not _has_kernel(C):
        return numpy_whole.is_toeplitz(C, weights, tolerance)
    weights, part = weights.astype(C.dtype), np.empty(-(-len(C) // ROWS))
    _w.lag_errors(C.size, C, np.concatenate((weights[:0:-1], weights)), C.dtype.type(tolerance), part)
    return not part.any()


def outer(x: np.ndarray, y: np.ndarray, out: np.ndarray) -> np.ndarray:
    if out.size < WHOLE_FROM:
        return numpy_whole.outer(x, y, out)
    _w.outer(out.size, np.ascontiguousarray(x, out.dtype), np.ascontiguousarray(y, out.dtype), out)
    return out


def rounded_change(T: np.ndarray, T0: np.ndarray, share: float, weight: np.ndarray, out: np.ndarray) -> np.ndarray:
    if not (_has_kernel(T) and _has_kernel(T0)):
        return numpy_whole.rounded_change(T, T0, share, weight, out)
    part = np.empty((len(T), -(-T.shape[1] // ROWS)))
    _w.rounded_change(2 * T.size, T, T0, share, weight, out, part)
    return part.sum(1)


def plan_marginals(T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not _has_kernel(T):
        return numpy_whole.plan_marginals(T)
    B, n, m = T.shape
    rows, cols = np.empty((B, n)), np.empty((B, m))
    _w.marginals(2 * T.size, T, np.empty((B, -(-n // ROWS), m)), rows, cols)
    return rows, cols


_NONE = np.empty(0)
_UNUSED = (False, np.empty((0, 0, 0, 0)), _NONE, 0.0, _NONE, _NONE, 0.0)  # where `gradient` gets A ready


def gradient(  # type: ignore[no-untyped-def]
    A, M, bias, T, T0, L, s: Scaling, r, c, wl, wq, first, on, ahead=None, distances=None
) -> np.ndarray:
    out, scan = np.empty((len(A), SUMS)), _UNUSED
    if distances is not None:
        (gaps1, scale1), (gaps2, scale2) = distances
        scan = (True, distance_starts(T, gaps1, scale1), gaps1, 2.0 * scale1, gaps2, np.cumsum(gaps2), float(scale2))
    work, state, write = 8 * _work(A, on), (s.rows, s.cols, s.vals), ahead is not None
    ahead = ahead if write else A
    _k.gradient(work, A, M, bias, T, T0, L, *state, r, c, wl, wq, first, s.size, on, ahead, write, *scan, s.sums, out)
    return out


def divergences(T: np.ndarray, T0: np.ndarray, L: np.ndarray, s: Scaling, on: np.ndarray) -> np.ndarray:
    out = np.empty((len(T), 2))
    _k.divergences(8 * _work(T, on), T, T0, L, s.rows, s.cols, s.vals, s.size, on, s.sums, out)
    return out


def marginal_sums(mu, nu, mu0, nu0, s1, s2, r, c, s: Scaling) -> np.ndarray:  # type: ignore[no-untyped-def]
    out = np.empty((len(mu), MARGINAL_SUMS))
    _k.marginal_sums(mu, nu, mu0, nu0, s1, s2, r, c, s.rows, s.cols, s.vals, s.size, out)
    return out


def roughness(T: np.ndarray, G: np.ndarray, weight: np.ndarray, size: np.ndarray, on: np.ndarray) -> np.ndarray:
    out, part = np.empty(len(T)), np.empty((len(T), (T.shape[1] + ROWS - 1) // ROWS))
    _k.roughness(2 * _work(T, on), T, G, weight, size, on, part, out)
    return out


def spread(G: np.ndarray, s: Scaling) -> np.ndarray:
    out = np.empty(len(G))
    _k.spread(2 * G.size, G, s.size, np.empty((len(G), s.part.shape[1])), out)
    return out


def column_logsums(L: np.ndarray, s: Scaling, on: np.ndarray) -> np.ndarray:
    out = np.zeros((L.shape[0], L.shape[2]))
    _k.column_logsums(4 * _work(L, on), L, s.rows, s.cols, s.vals, s.size, on, np.empty_like(s.part), s.part, out)
    return out


def kernel(L, G, T, T0, s: Scaling, beta, fresh, on, moved=False) -> None:  # type: ignore[no-untyped-def]
    _k.kernel_matrix(4 * _work(T, on), L, G, T, T0, s.rows, s.cols, s.vals, s.size, beta, fresh, on, moved)


def _state(s: Scaling) -> tuple[np.ndarray, ...]:
    return s.rows, s.cols, s.vals, s.size, s.v, s.hist, s.part, s.sums, s.factor


def sweep(K: np.ndarray, s: Scaling, on: np.ndarray) -> None:
    _k.sweep(_work(K, on), K, *_state(s), on)


def anderson(s: Scaling, restart: np.ndarray, on: np.ndarray) -> None:
    work = int(np.count_nonzero(on)) * s.cols.shape[2] * 50 if len(on) > 1 else 0
    _d.anderson(work, *_state(s), restart, on)


def newton(K: np.ndarray, s: Scaling, on: np.ndarray) -> None:
    _d.newton(_work(K, on), K, *_state(s), on)


def cg(K: np.ndarray, s: Scaling, stop: float, on: np.ndarray) -> None:
    _d.cg(_work(K, on), K, *_state(s), stop, on)


def trial(s: Scaling, a: np.ndarray, on: np.ndarray) -> None:
    _d.trial(0, *_state(s), a, on)


def shorten(s: Scaling, a: np.ndarray, on: np.ndarray) -> None:
    _d.shorten(0, *_state(s), a, on)


def plan(K: np.ndarray, s: Scaling, on: np.ndarray) -> None:
    _k.plan(_work(K, on), K, s.rows, s.cols, s.vals, s.size, s.v, on)


def ascend(  # type: ignore[no-untyped-def]
    K: np.ndarray, s: Scaling, target, feasible, steps: int, slack: float, spent: np.ndarray, on: np.ndarray
) -> np.ndarray:
    if len(on) == 1 or K.shape[1] * K.shape[2] > LARGE:
        return np.asarray(_interpreted(K, s, target, feasible, steps, slack, spent, on))
    rest = target, feasible, steps, slack, spent, on
    lockstep = partial(_in_lockstep, K, s, *rest)
    return np.asarray(_loop.each(lockstep, K, _state(s), *rest) if np.count_nonzero(on) > 1 else lockstep())


def _no_factor(K: np.ndarray, s: Scaling, on: np.ndarray) -> np.ndarray:
    """Conjugate gradients alone: a factor gained small problems no time, and would take seconds to compile."""
    return np.zeros(len(on), int)


_interpreted = inner.interpreted(sys.modules[__name__])
_in_lockstep = inner.interpreted(sys.modules[__name__], compiled, factor=_no_factor)
