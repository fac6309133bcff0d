"""Reads and writes of whole matrices outside the loop, in plain NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._protocol import TINY

CHUNK = 64  # rows that stay in the cache
host = np.asarray  # `as_structure` without a backend takes this module for one


def is_finite(a: np.ndarray) -> bool:
    """Whether every entry is a number."""
    return bool(np.logical_and.reduce(np.isfinite(a), axis=None))  # without the calls around it: small problems wait for it


def is_toeplitz(C: np.ndarray, weights: np.ndarray, tolerance: float) -> bool:
    """Whether |C_ij - weights[|i-j|]| is at most `tolerance` everywhere; NaN is not."""
    n, weights = len(C), weights.astype(C.dtype)
    rows = np.lib.stride_tricks.sliding_window_view(np.concatenate((weights[:0:-1], weights)), n)[::-1]
    chunks = (slice(k, k + CHUNK) for k in range(0, n, CHUNK))
    return all((np.abs(C[k] - rows[k]) <= tolerance).all() for k in chunks)


def is_distance(C: Any, times: np.ndarray, power: int, tolerance: float) -> bool:
    """Whether |C_ij - |t_i - t_j|^power| is at most `tolerance` everywhere; NaN is not."""
    chunks = (slice(k, k + CHUNK) for k in range(0, len(C), CHUNK))
    return all((np.abs(C[k] - np.abs(times[k, None] - times) ** power) <= tolerance).all() for k in chunks)


def outer(x: np.ndarray, y: np.ndarray, out: np.ndarray) -> np.ndarray:
    """out_ij = x_i y_j, of each problem."""
    return np.multiply(x[:, :, None], y[:, None, :], out=out)


def plan_marginals(T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column sums in float64."""
    return T.sum(2, dtype=float), T.sum(1, dtype=float)


def rounded_change(T: Any, T0: Any, share: float, weight: Any, out: Any) -> Any:
    """out <- weight (T - share T0) in its type, what would be denormal there to 0; the sums of |T - share T0|. CuPy's too."""
    D = T - share * T0
    out[:] = weight[:, None, None] * D
    out[abs(out) < TINY] = 0
    return abs(D).sum((1, 2))
