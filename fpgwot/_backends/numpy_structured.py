"""The structure products in plain NumPy: build the matrix, multiply in float64. The oracle of the compiled ones."""

from __future__ import annotations

from typing import Any

import numpy as np


def _product(C: np.ndarray, X: np.ndarray, axis: int, out: Any) -> np.ndarray:
    Y = C @ X if axis == 0 else X @ C
    if out is None:
        return Y.astype(X.dtype)
    out[...] = Y
    return out  # type: ignore[no-any-return]


def _lags(gaps: np.ndarray) -> np.ndarray:
    t = np.cumsum(gaps)
    return np.abs(t[:, None] - t)


def power_matmul(X: np.ndarray, gaps: np.ndarray, power: int, scale: float, axis: int, out: Any = None) -> np.ndarray:
    """scale |t_i - t_k|^power times X; gaps[i] = t_i - t_(i-1), gaps[0] = 0."""
    return _product(scale * _lags(gaps) ** power, X, axis, out)


def decay_matmul(X: np.ndarray, ratios: np.ndarray, weight: float, offset: float, axis: int, out: Any = None) -> np.ndarray:
    """offset + weight exp(-|t_i - t_k|) times X; ratios[i] = exp(-(t_i - t_(i-1))), ratios[0] = 0."""
    with np.errstate(divide="ignore"):
        gaps = -np.log(np.concatenate(([1.0], ratios[1:])))
    return _product(offset + weight * np.exp(-_lags(np.minimum(gaps, 1e3))), X, axis, out)


def toeplitz_matmul(X: np.ndarray, weights: np.ndarray, axis: int, out: Any = None) -> np.ndarray:
    """Symmetric Toeplitz band times X; weights[lag] for lag = 0 ... width, zero beyond."""
    lag = _lags(np.ones(X.shape[axis + 1])).astype(int)
    return _product(np.append(weights, 0.0)[np.minimum(lag, len(weights))], X, axis, out)
