"""Ordinary linear programs without the stops of a general call: for small ones these take ten times as long as the program.

What is out of the ordinary (weights of zero, a mask, float32, an error in the input, ...) is left to the general call, whose
result for the rest is the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _dispatch
from ._finish import FEASIBLE
from ._version import __version__
from .result import Residuals, Result, Status

TOL = 1e-9  # of the exact solver
NAN = float("nan")


def linear(M: Any, p: Any, q: Any, m: Any, tol: Any, backend: Any, seed: Any) -> Result | None:
    """The exact solution for the cost M, weights p and q, and the mass m (None: all of it); None: not for this function."""
    if type(M) is not np.ndarray or type(backend) is not str or backend not in ("auto", "numba"):
        return None
    if M.dtype != np.float64 or M.ndim != 2 or not M.size:
        return None
    be = _dispatch.load_backend("numba")
    if M.size > be.DENSE_UP_TO or not (m is None or (isinstance(m, (float, int)) and m == m)):
        return None
    n, k = M.shape
    p, q = _weights(p, n), _weights(q, k)
    if p is None or q is None:
        return None
    mass, G = NAN if m is None else float(m), np.array(M, order="C")
    ordinary, plan, a, b, f, g, h, value, lacks, noise, top, sweeps, worst, sent = be.linear(G, p, q, mass)
    if not ordinary:
        return None
    tol = tol or TOL
    is_certified, is_feasible = lacks <= tol * abs(value) + noise, worst <= FEASIBLE[8]
    station = lacks / max(abs(value) + 1e-14 / tol * top * sent, 1e-300)
    return Result(
        plan=plan,
        value=value,
        value_linear=value,
        value_quad=0.0,
        value_reg=0.0,
        value_marginal=0.0,
        mass=sent,
        marginal_a=a,
        marginal_b=b,
        potentials=(f, g, h),
        gradient=G,
        residuals=Residuals(worst, 0.0 if m is None else abs(sent - mass) / mass, station),
        status=Status.MAX_ITER if not is_certified else Status.CONVERGED if is_feasible else Status.STALLED,
        converged=is_certified and is_feasible,
        n_iter=1,
        n_passes=sweeps,
        n_gradients=1,
        history=np.array([[value, 0.0]]),
        method="conditional_gradient",
        backend="numba",
        device="cpu",
        weights=(p, q),
        provenance={"version": __version__, "backend": "numba", "dtype": "float64", "seed": seed},
    )


def _weights(w: Any, n: int) -> np.ndarray | None:
    """The caller's weights, copied, or uniform ones; None for anything but n numbers of float64."""
    if w is None:
        return np.full(n, 1.0 / n)
    return w.copy() if type(w) is np.ndarray and w.dtype == np.float64 and w.shape == (n,) else None
