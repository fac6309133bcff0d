"""Which operator an array is."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._backends import numpy_whole
from .base import Dense, Structure
from .temporal import FFT_FROM, LaplaceKernel, PowerDistance, Toeplitz

SCAN_FROM = 128  # points from which running sums beat a matrix product, measured on one core against BLAS


def as_structure(C: Any, be: Any = None) -> Structure:
    """The fastest operator for an array, equal to it up to rounding; an operator is returned as it is.

    A single symmetric Toeplitz matrix of SCAN_FROM points or more, which every structure on a uniform time grid is, becomes
    `PowerDistance` (|i-k|^p for p = 1, 2), `LaplaceKernel` (offset + weight e^(-|i-k|/b)) or `Toeplitz`. Distances |t_i-t_k|^p,
    p = 1, 2, between increasing or decreasing time stamps become `PowerDistance` with `times`; all else `Dense`. The tolerance
    is 8 roundings of the largest entry, the cost O(n^2). `be` is the backend that compares: that of an array on a GPU, where it
    stays; plain NumPy if not given.

    Examples
    --------
    >>> t = np.arange(200) / 200
    >>> type(as_structure(abs(t[:, None] - t))).__name__
    'PowerDistance'
    >>> t = np.cumsum(np.random.default_rng(0).random(200) + 0.1)
    >>> as_structure(abs(t[:, None] - t)).times.shape
    (200,)
    """
    if isinstance(C, Structure):
        return C
    found = recognised(C, numpy_whole if be is None else be)
    return Dense(C) if found is None else found


def recognised(C: Any, be: Any) -> Structure | None:
    """The operator that an array is, up to rounding; None for an array like any other, or with entries that are no numbers."""
    single = C if C.ndim == 2 else C[0] if C.ndim == 3 and len(C) == 1 else None
    if single is None or len(single) < SCAN_FROM or single.shape[0] != single.shape[1] or C.dtype.kind != "f":
        return None
    first, last = (be.host(single[k]).astype(float) for k in (0, -1))
    tolerance = 8 * float(np.finfo(C.dtype).eps) * float(np.abs(first).max())
    if not np.isfinite(tolerance):
        return None
    if np.abs(last - first[::-1]).max() <= tolerance and be.is_toeplitz(single, first, tolerance):
        return _pattern(first, tolerance)
    if first[0] != 0 or (np.diff(first) <= 0).any():  # most arrays end here
        return None
    for power in (1, 2):
        times = first ** (1 / power)
        fits = np.abs(last - (times[-1] - times) ** power).max() <= tolerance and np.all(np.diff(times) > 0)
        if fits and be.is_distance(single, times, power, tolerance):
            return PowerDistance(len(times), power, times=times)
    return None


def _pattern(weights: np.ndarray, tolerance: float) -> Structure | None:
    n = len(weights)
    lag = np.arange(n, dtype=float)
    for power in (1, 2):
        scale = weights[-1] / lag[-1] ** power
        if scale > 0 and np.abs(weights - scale * lag**power).max() <= tolerance:
            return PowerDistance(n, power, float(scale))
    band = Toeplitz(weights)
    if band._band is not None:
        return band
    kernel = _laplace(weights, lag, tolerance)
    return kernel if kernel is not None else band if n >= FFT_FROM else None


def _laplace(weights: np.ndarray, lag: np.ndarray, tolerance: float) -> LaplaceKernel | None:
    """Gauss-Newton fit of offset + weight e^(-lag/b): differences give a start, all lags together the last digits."""
    step = weights[:-1] - weights[1:]
    if step[0] == 0:
        return None
    far = int(np.argmax(np.append(step / step[0] < 0.5, True)))  # decayed by half: a long lever and little noise
    far = min(far, len(step) - 1)
    ratio = step[far] / step[0]
    if not 0 < ratio < 1:
        return None
    rate = -np.log(ratio) / far
    weight = step[0] / -np.expm1(-rate)
    offset = weights[0] - weight
    for _ in range(8):
        decay = np.exp(-rate * lag)
        residual = weights - offset - weight * decay
        if np.abs(residual).max() <= tolerance:
            # a kernel nearly linear over the whole sequence is a difference of two large numbers: leave it to the FFT
            small = abs(offset) + abs(weight) <= 30 * np.abs(weights).max()
            return LaplaceKernel(len(lag), float(1 / rate), None, float(weight), float(offset)) if small else None
        J = np.stack((np.ones_like(lag), decay, -weight * lag * decay), 1)
        change = np.linalg.lstsq(J, residual, rcond=None)[0]
        offset, weight, rate = offset + change[0], weight + change[1], rate + change[2]
        if not (np.isfinite(change).all() and rate > 0):
            return None
    return None
