"""Compile, or load from the cache on disk, what the first calls of a process would otherwise wait for."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from ._backends.numba_cpu import both_forms, nothing_deferred
from .api import solve
from .structure import SCAN_FROM, LaplaceKernel, PowerDistance, Toeplitz

DTYPES = ("float32", "float64")


def warmup(dtypes: Sequence[str] = DTYPES, *, exact: bool = True, operators: bool = True, parallel: bool = True) -> float:
    """Compile all kernels of the Numba backend for these dtypes; returns the seconds that it took.

    For servers, images and continuous integration: kernels are compiled when they are first needed, and kept on disk in a cache
    that later processes load (next to the package, or in the folder of the environment variable NUMBA_CACHE_DIR).

    Parameters
    ----------
    dtypes : sequence of "float32", "float64"
    exact : bool
        Kernels of exact solves (reg=0) as well; these are float64 always.
    operators : bool
        Kernels of temporal structures (`PowerDistance`, `LaplaceKernel`, `Toeplitz`) as well.
    parallel : bool
        The threaded forms of the kernels as well, which large problems use. Else each is compiled once 2 s of work in one
        thread have earned it, and kept on disk from then on. Also the threaded loop over a batch of small problems, which
        nothing else compiles: without it such batches take a fifth longer, tiny ones up to twice as long. Without effect where
        Numba has one thread.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        An unknown dtype.

    Examples
    --------
    >>> from fpgwot import warmup
    >>> warmup(dtypes=(), exact=False) < 1
    True
    """
    start = time.perf_counter()
    unknown = sorted(set(dtypes) - set(DTYPES))
    if unknown:
        raise ValueError(f"unknown dtypes {unknown}; the solver works in {DTYPES}")
    with nothing_deferred():
        for dtype in dtypes:
            _entropic(np.dtype(dtype), 8)
            if operators:
                _operators(np.dtype(dtype))
            if parallel:
                with both_forms():
                    _entropic(np.dtype(dtype), 8)
                    if operators:
                        _operators(np.dtype(dtype))
        if exact:
            M, C1, C2 = _problem(np.dtype("float64"), 8)
            for options in ({}, {"m": 0.6}, {"tv": 0.1}):
                solve(M, C1, C2, **options, on_fail="ignore")  # type: ignore[arg-type]
            solve(None, C1, C2, on_fail="ignore")
            solve(M)
    return time.perf_counter() - start


def _problem(dtype: np.dtype, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Costs without a pattern that would be recognised."""
    rng = np.random.default_rng(0)
    M, C1, C2 = rng.random((n, n - 1)), rng.random((n, n)), rng.random((n - 1, n - 1))
    return M.astype(dtype), (C1 + C1.T).astype(dtype), (C2 + C2.T).astype(dtype)


def _entropic(dtype: np.dtype, n: int) -> None:
    """One problem and a batch, with everything that brings a kernel or a signature of its own; at any size by few iterations.

    Several iterations: annealing, mixing, Newton steps and both forms of each kernel (they are tried in turn) come in the first.
    """
    M, C1, C2 = _problem(dtype, n)
    mask = np.ones(M.shape, bool)
    mask[0, 0] = False
    for options in ({}, {"m": 0.6}, {"m": 0.6, "mask": mask, "smoothness": 0.01}, {"tau": 0.2}):
        solve(M, C1, C2, reg=0.05, max_iter=8, on_fail="ignore", **options)  # type: ignore[arg-type]
    time = np.arange(24) / 24
    far = np.abs(time[:, None] - time[:-1]) + 0.05 * np.random.default_rng(0).random((24, 23))
    solve(far.astype(dtype), reg=1e-3, max_iter=20, on_fail="ignore")  # many Newton steps, and a factor
    solve(M, reg=0.05, max_iter=8, on_fail="ignore")
    solve(None, C1, C2, reg=0.05, max_iter=8, on_fail="ignore")
    solve(np.stack([M, M]), C1, C2, m=0.6, reg=0.05, max_iter=8, on_fail="ignore")


def _operators(dtype: np.dtype) -> None:
    """Each kind of structure once on either side."""
    n = SCAN_FROM + 1
    M = _problem(dtype, n + 1)[0][:n]
    band = np.zeros(n)
    band[:4] = 1, 2, 3, 4
    others = Toeplitz(1.0 - np.eye(n)[0])
    kinds = [PowerDistance(n), PowerDistance(n, 2), LaplaceKernel(n, 9.0), Toeplitz(band), Toeplitz((band > 0) * 1.0), others]
    t = np.arange(2 * n, dtype=dtype)
    far = np.abs(t[:, None] - t)  # large enough for kernels that read whole matrices
    solve(far, far, far, reg=1.0, alpha=n**-2, max_iter=2, on_fail="ignore")
    solve(*_problem(dtype, 2 * n), reg=1.0, max_iter=2, on_fail="ignore")
    for C1, C2 in zip(kinds + kinds[:1], kinds[1:] + 2 * kinds[:1], strict=True):  # and distances on both: a pass of their own
        solve(M, C1, C2, m=0.6, reg=0.1, alpha=n**-4, max_iter=3, on_fail="ignore")
