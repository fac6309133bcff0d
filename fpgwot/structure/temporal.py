"""Structures of points in time: distances, kernels and symmetric Toeplitz matrices."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import comb
from typing import Any

import numpy as np

from .base import CHUNK, Dense, Structure
from .low_rank import LowRank

FFT_FROM = 512  # the same for a Toeplitz matrix without a pattern
BAND = 32  # widest band that is multiplied entry by entry instead of by FFT


class _Uniform(Structure):
    """An operator on points with time stamps: `n` of them one apart, or increasing `times`."""

    n: int | None
    times: Any
    is_symmetric = True

    def _check(self, name: str) -> None:
        if self.times is None:
            if self.n is None or self.n != int(self.n) or self.n < 1:
                raise ValueError(f"{name} needs n, a number of points of 1 or more, or times; got n={self.n!r}")
            return
        t = np.asarray(self.times, dtype=float)
        if t.ndim != 1 or len(t) < 1 or not np.isfinite(t).all() or (np.diff(t) <= 0).any():
            raise ValueError(f"times of {name} must be a vector of increasing finite numbers: sort them and merge equal ones")
        if self.n not in (None, len(t)):
            raise ValueError(f"n={self.n} and {len(t)} times do not fit: pass one of them")
        object.__setattr__(self, "times", t)
        object.__setattr__(self, "n", len(t))

    @property
    def shape(self) -> tuple[int, int, int]:
        """One matrix; rows, columns."""
        return 1, int(self.n), int(self.n)  # type: ignore[arg-type]

    @cached_property
    def _t(self) -> np.ndarray:
        return np.arange(float(self.shape[1])) if self.times is None else np.asarray(self.times)

    @cached_property
    def _gaps(self) -> np.ndarray:
        return np.diff(self._t, prepend=self._t[0])

    def _lags(self) -> np.ndarray:
        return np.abs(self._t[:, None] - self._t)[None]

    def _points(self, index: np.ndarray) -> dict[str, Any] | None:
        """Arguments n and times of the same kind on some of the points; None where they are not in order."""
        step = np.diff(index)
        if (step <= 0).any() or not len(index):
            return None
        return {"n": len(index), "times": None if self.times is None and (step == 1).all() else self._t[index]}


@dataclass(frozen=True, eq=False)
class PowerDistance(_Uniform):
    """Temporal distances C_ik = scale |t_i - t_k|^power, power 1 or 2; t_i = i unless times are given.

    Products by running sums, O(n) per column; for power 1 each entry of a column is rounded as the largest one.

    Parameters
    ----------
    n : int
        Number of points.
    power : 1 or 2
    scale : float
        Positive factor, 1/n for distances as shares of the sequence.
    times : array (n,), optional
        Increasing time stamps.

    Examples
    --------
    >>> PowerDistance(3, scale=0.5).to_dense()[0]
    array([[0. , 0.5, 1. ],
           [0.5, 0. , 0.5],
           [1. , 0.5, 0. ]])
    """

    n: int | None
    power: int = 1
    scale: float = 1.0
    times: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self._check("PowerDistance")
        if self.power not in (1, 2):
            raise ValueError(f"power must be 1 or 2, got {self.power!r}; for others use Toeplitz(scale * np.arange(n)**power)")
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale must be positive and finite, got {self.scale!r}")

    def _product(self, be: Any, X: Any, axis: int, transpose: bool, out: Any) -> Any:
        return be.power_matmul(X, self._gaps, self.power, self.scale, axis, out)

    def distances(self) -> tuple[np.ndarray, float] | None:
        """Gaps and scale for power 1."""
        return (self._gaps, self.scale) if self.power == 1 else None

    def square(self) -> Structure:
        """Power doubled; (t_i - t_k)^4 has rank 5 in the powers of t about the centre."""
        if self.power == 1:
            return PowerDistance(self.n, 2, self.scale**2, self.times)
        t = self._t - (self._t[0] + self._t[-1]) / 2
        r = np.arange(5)
        signs = np.array([comb(4, k) * (-1) ** k for k in r])
        return LowRank(self.scale**2 * signs * t[:, None] ** (4 - r), t[:, None] ** r, symmetric=True)

    def to_dense(self) -> np.ndarray:
        """The matrix, (1, n, n)."""
        return np.asarray(self.scale * self._lags() ** self.power)

    def subset(self, index: np.ndarray) -> Structure:
        """Distances between some of the points: the same kind with time stamps."""
        points = self._points(index)
        return super().subset(index) if points is None else PowerDistance(power=self.power, scale=self.scale, **points)

    def extent(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest entry, O(1)."""
        return np.zeros(1), np.array([self.scale * (self._t[-1] - self._t[0]) ** self.power])


@dataclass(frozen=True, eq=False)
class LaplaceKernel(_Uniform):
    """Temporal kernel C_ik = offset + weight exp(-|t_i - t_k|/scale); t_i = i unless times are given.

    offset=1, weight=-1 is a distance that saturates. Products by two first-order recursions, O(n) per column.

    Parameters
    ----------
    n : int, optional
        Number of points; not needed with times.
    scale : float
        Reach, in steps (or in the units of times); positive.
    times : array (n,), optional
        Increasing time stamps.
    weight, offset : float

    Examples
    --------
    >>> LaplaceKernel(3, scale=1.0).to_dense()[0].round(3)
    array([[1.   , 0.368, 0.135],
           [0.368, 1.   , 0.368],
           [0.135, 0.368, 1.   ]])
    """

    n: int | None = None
    scale: float = 1.0
    times: Any = field(default=None, repr=False)
    weight: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        self._check("LaplaceKernel")
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale must be positive and finite, got {self.scale!r}")
        if not np.isfinite([self.weight, self.offset]).all():
            raise ValueError(f"weight and offset must be finite, got {self.weight!r} and {self.offset!r}")

    @cached_property
    def _ratios(self) -> np.ndarray:
        r = np.exp(-self._gaps / self.scale)
        r[0] = 0.0
        return r

    def _product(self, be: Any, X: Any, axis: int, transpose: bool, out: Any) -> Any:
        return be.decay_matmul(X, self._ratios, self.weight, self.offset, axis, out)

    def square(self) -> Structure:
        """offset^2 + 2 offset weight e^(-lag/scale) + weight^2 e^(-2 lag/scale)."""
        half = LaplaceKernel(self.n, self.scale / 2, self.times, self.weight**2, self.offset**2)
        if self.offset == 0 or self.weight == 0:
            return half
        return _Sum((half, LaplaceKernel(self.n, self.scale, self.times, 2 * self.offset * self.weight)))

    def to_dense(self) -> np.ndarray:
        """The matrix, (1, n, n)."""
        return np.asarray(self.offset + self.weight * np.exp(-self._lags() / self.scale))

    def subset(self, index: np.ndarray) -> Structure:
        """The kernel on some of the points: the same kind with time stamps."""
        points = self._points(index)
        if points is None:
            return super().subset(index)
        return LaplaceKernel(scale=self.scale, weight=self.weight, offset=self.offset, **points)

    def extent(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest entry, O(1)."""
        ends = self.offset + self.weight * np.exp(-np.array([0.0, self._t[-1] - self._t[0]]) / self.scale)
        return ends.min(keepdims=True), ends.max(keepdims=True)


@dataclass(frozen=True, eq=False)
class _Sum(Structure):
    """Sum of symmetric operators."""

    terms: tuple[Structure, ...]
    is_symmetric = True

    def on(self, be: Any, dtype: Any) -> Structure:
        return _Sum(tuple(term.on(be, dtype) for term in self.terms))

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.terms[0].shape

    def _product(self, be: Any, X: Any, axis: int, transpose: bool, out: Any) -> Any:
        Y = self.terms[0]._product(be, X, axis, transpose, out)
        for term in self.terms[1:]:
            Y += term._product(be, X, axis, transpose, None)
        return Y

    def to_dense(self) -> Any:
        return sum(term.to_dense() for term in self.terms)


@dataclass(frozen=True, eq=False)
class Toeplitz(Structure):
    """C_ik = weights[|i-k|]: any structure on a uniform grid. Not symmetric with `upper`: C_ik = upper[k-i] for k > i.

    A band with equal weights beside the diagonal costs O(n) per column (window sums), a band of up to 32 its width times n,
    all else O(n log n) by FFT.

    Parameters
    ----------
    weights : array (n,)
        Weight of each lag 0, ..., n-1, zero beyond a band.
    upper : array (n,), optional
        Weights above the diagonal; upper[0] is not used.

    Examples
    --------
    >>> Toeplitz([0.0, 1.0, 0.0]).to_dense()[0]
    array([[0., 1., 0.],
           [1., 0., 1.],
           [0., 1., 0.]])
    """

    weights: Any
    upper: Any = None
    is_symmetric: bool = field(init=False)

    def __post_init__(self) -> None:
        for name in ("weights", "upper"):
            w = getattr(self, name)
            if w is None:
                continue
            w = np.array(w, dtype=float)
            if w.ndim != 1 or len(w) < 1 or not np.isfinite(w).all():
                raise ValueError(f"{name} must be a vector of finite numbers, one for each lag 0, ..., n-1; got shape {w.shape}")
            object.__setattr__(self, name, w)
        if self.upper is not None and len(self.upper) != len(self.weights):
            raise ValueError(f"weights and upper need the same length, got {len(self.weights)} and {len(self.upper)}")
        same = self.upper is None or np.array_equal(self.weights[1:], self.upper[1:])
        object.__setattr__(self, "is_symmetric", bool(same))

    @property
    def shape(self) -> tuple[int, int, int]:
        """One matrix; rows, columns."""
        return 1, len(self.weights), len(self.weights)

    @property
    def _upper(self) -> np.ndarray:
        return self.weights if self.upper is None else self.upper  # type: ignore[no-any-return]

    @cached_property
    def _band(self) -> np.ndarray | None:
        """Weights up to the last that is not zero, where the band kernels are the faster way."""
        w = self.weights
        width = int(np.flatnonzero(w)[-1]) if w.any() else 0
        w = w[: width + 1]
        return w if self.is_symmetric and (width <= BAND or (w[1:] == w[1]).all()) else None

    @cached_property
    def _spectrum(self) -> np.ndarray:
        """Transform of the circulant matrix that C is a corner of."""
        from scipy import fft

        n = len(self.weights)
        c = np.zeros(fft.next_fast_len(2 * n - 1, real=True))
        c[:n] = self.weights
        if n > 1:
            c[-(n - 1) :] = self._upper[:0:-1]
        return np.asarray(fft.rfft(c))

    def on(self, be: Any, dtype: Any) -> Structure:
        """A full matrix becomes an array on a device: there a matrix product beats the way to the FFT of the host and back."""
        return self if be.xp is np or self._band is not None else Dense(self.to_dense()).on(be, dtype)

    def _product(self, be: Any, X: Any, axis: int, transpose: bool, out: Any) -> Any:
        if self._band is not None:
            return be.toeplitz_matmul(X, self._band, axis, out)
        from scipy import fft

        n, out = len(self.weights), np.empty_like(X) if out is None else out
        size = fft.next_fast_len(2 * n - 1, real=True)
        # for real weights the transposed matrix has the conjugate spectrum; X C = (C' X')'
        spectrum = self._spectrum if transpose == bool(axis) else self._spectrum.conj()
        spectrum = spectrum.astype(np.complex64 if X.dtype == np.float32 else np.complex128)
        spectrum = spectrum[:, None] if axis == 0 else spectrum
        for x, y in zip(X, out, strict=True):
            for k in range(0, x.shape[1 - axis], CHUNK):
                part = (slice(None), slice(k, k + CHUNK)) if axis == 0 else (slice(k, k + CHUNK), slice(None))
                product = fft.irfft(fft.rfft(x[part], size, axis=axis) * spectrum, size, axis=axis)
                y[part] = product[:n] if axis == 0 else product[:, :n]
        return out

    def square(self) -> Toeplitz:
        """The squared weights."""
        return Toeplitz(self.weights**2, None if self.upper is None else self.upper**2)

    def symmetrized(self) -> Toeplitz:
        """(C + C')/2, of the mean weights."""
        if self.is_symmetric:
            return self
        return Toeplitz(np.append(self.weights[0], (self.weights[1:] + self._upper[1:]) / 2))

    def to_dense(self) -> np.ndarray:
        """The matrix, (1, n, n)."""
        n = len(self.weights)
        both = np.concatenate((self._upper[:0:-1], self.weights))  # lags -(n-1), ..., n-1
        return both[np.arange(n)[:, None] - np.arange(n) + n - 1][None]

    def subset(self, index: np.ndarray) -> Structure:
        """The structure on a run of consecutive points; an array for others."""
        if len(index) and (np.diff(index) == 1).all():
            return Toeplitz(self.weights[: len(index)], None if self.upper is None else self.upper[: len(index)])
        return super().subset(index)

    def extent(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest entry, O(n)."""
        w = np.concatenate((self.weights, self._upper[1:]))
        return w.min(keepdims=True), w.max(keepdims=True)
