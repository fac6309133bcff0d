"""Intra-domain structure matrices C1 (n, n) and C2 (m, m) as operators.

A solver asks a structure for products along an axis and for its elementwise square, never for its entries. With the square
loss that is all that Gromov-Wasserstein needs:

    E(T) = sum_ijkl (C1_ik - C2_jl)^2 T_ij T_kl = <s1 1' + 1 s2' - 2 A, T>,
    s1 = (C1*C1) T 1,   s2 = (C2*C2) T' 1,   A = C1 T C2'          (averaged with their transposed twins where asymmetric).

==============================  ================================  =========================  ===============================
class                           entry (i, k)                      cost of C X, per column    square
==============================  ================================  =========================  ===============================
Dense(array)                    any                               n^2 (BLAS)                 Dense
PowerDistance(n, power, scale)  scale |t_i - t_k|^power           n, power 1 or 2            power 2, or of rank 5
LaplaceKernel(n, scale)         offset + weight e^-lag/scale      n                          sum of two such kernels
Toeplitz(weights)               weights[|i - k|]                  n (band), n log n (FFT)    Toeplitz
LowRank(U, V), PointCloud(X)    U V', ||x_i - x_k||^2             n r, r = d + 2             of rank r^2, or Dense
==============================  ================================  =========================  ===============================
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import comb
from typing import Any

import numpy as np

SCAN_FROM = 128  # points from which running sums beat a matrix product, measured on one core against BLAS
FFT_FROM = 512  # the same for a Toeplitz matrix without a pattern
BAND = 32  # widest band that is multiplied entry by entry instead of by FFT
CHUNK = 64  # columns or rows of one FFT, rows of one block of entries


class Structure:
    """What every structure can do. An operator is one matrix, shared by all problems of a batch; arrays may be a stack."""

    is_symmetric: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """Problems in the stack (1: shared by all), rows, columns."""
        raise NotImplementedError

    def _product(self, be: Any, X: Any, axis: int, transpose: bool, out: Any) -> Any:
        raise NotImplementedError

    def matmul(self, be: Any, X: Any, transpose: bool = False, out: Any = None) -> Any:
        """C X (or C' X) for X of shape (B, n, k)."""
        return self._product(be, X, 0, transpose, out)

    def rmatmul(self, be: Any, X: Any, transpose: bool = False, out: Any = None) -> Any:
        """X C (or X C') for X of shape (B, k, n)."""
        return self._product(be, X, 1, transpose, out)

    def square(self) -> Structure:
        """The operator of the elementwise square, C*C."""
        return Dense(self.to_dense() ** 2)

    def symmetrized(self) -> Structure:
        """(C + C')/2."""
        if self.is_symmetric:
            return self
        C = self.to_dense()
        return Dense((C + C.swapaxes(-1, -2)) / 2)

    def to_dense(self) -> Any:
        """The matrix, (1, n, n) in float64; a stack of arrays as it is."""
        raise NotImplementedError

    def take(self, index: Any) -> Structure:
        """The structures of some problems of a batch; one that is shared by all stays as it is."""
        return self

    def on(self, be: Any, dtype: Any) -> Structure:
        """The structure with its matrices where the backend `be` computes, for products with arrays of `dtype`."""
        return self

    def single(self, b: int, n: int) -> Structure:
        """The structure of problem b in float64, cut to its first n points."""
        return self if n == self.shape[1] else self.subset(np.arange(n))

    def subset(self, index: np.ndarray) -> Structure:
        """The same structure on some of the points, in the order given; an array where the kind does not allow it."""
        return Dense(np.ascontiguousarray(self.to_dense()[:, index[:, None], index]))

    def extent(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest entry, one each for every matrix of the stack."""
        C = self.to_dense()
        return C.min((1, 2)), C.max((1, 2))


@dataclass(frozen=True, eq=False)
class Dense(Structure):
    """Structure given by an array: one matrix (n, n), or a stack of one for each problem of a batch (B, n, n).

    Products are matrix multiplications of the backend (BLAS): O(n^2 k) for k columns.
    """

    array: Any
    is_symmetric: bool = field(init=False)

    def __post_init__(self) -> None:
        C = self.array
        if C.ndim not in (2, 3) or C.shape[-1] != C.shape[-2]:
            raise ValueError(f"a structure must be square, (n, n) or (B, n, n); got shape {tuple(C.shape)}")
        C = C if C.ndim == 3 else C[None]
        object.__setattr__(self, "array", C)
        object.__setattr__(self, "is_symmetric", bool(_is_symmetric(C)))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Problems in the stack (1: shared by all), rows, columns."""
        return tuple(self.array.shape)  # type: ignore[return-value]

    def on(self, be: Any, dtype: Any) -> Dense:
        """The array on the backend's device."""
        return self if isinstance(self.array, be.xp.ndarray) else Dense(be.xp.asarray(self.array.astype(dtype)))

    def single(self, b: int, n: int) -> Dense:
        """The structure of problem b in float64, cut to its first n points."""
        one = np.ascontiguousarray(self.array[b % len(self.array), :n, :n], dtype=np.float64)
        if not self.is_symmetric:
            return Dense(one)
        D = object.__new__(Dense)  # what is symmetric in the stack is so alone: no second check
        object.__setattr__(D, "array", one[None])
        object.__setattr__(D, "is_symmetric", True)
        return D

    def take(self, index: Any) -> Dense:
        """The structures of some problems of a batch; one that is shared by all stays as it is."""
        return self if self.shape[0] == 1 else self._like(self.array[index])

    def _like(self, array: Any) -> Dense:
        """An array that is symmetric where this one is, without looking."""
        out = object.__new__(Dense)
        object.__setattr__(out, "array", array)
        object.__setattr__(out, "is_symmetric", self.is_symmetric)
        return out

    def _product(self, be: Any, X: Any, axis: int, transpose: bool, out: Any) -> Any:
        C = self.array.swapaxes(-1, -2) if transpose else self.array
        return be.matmul(C, X, out=out) if axis == 0 else be.matmul(X, C, out=out)

    def square(self) -> Dense:
        """The operator of the elementwise square, C*C."""
        return self._like(self.array * self.array)

    def to_dense(self) -> Any:
        """The array itself, (B, n, n)."""
        return self.array


@dataclass(frozen=True, eq=False)
class Transformed(Dense):
    """The array h(C) of a loss L(a, b) = f1(a) + f2(b) - 2 h1(a) h2(b) other than the square; `square` is f(C) then.

    Made by `kl_structures`; it takes part in every product and sum as an array does.
    """

    squares: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "squares", self.squares if self.squares.ndim == 3 else self.squares[None])

    def single(self, b: int, n: int) -> Transformed:
        """The structure of problem b in float64, cut to its first n points."""
        b = b % len(self.array)
        return Transformed(*(np.ascontiguousarray(x[b, :n, :n], dtype=np.float64) for x in (self.array, self.squares)))

    def take(self, index: Any) -> Transformed:
        """The structures of some problems of a batch; one that is shared by all stays as it is."""
        return self if self.shape[0] == 1 else Transformed(self.array[index], self.squares[index])

    def square(self) -> Dense:
        """f(C)."""
        return Dense(self.squares)


KL_OFFSET = 1e-18  # added inside the logarithms of the KL loss: log 0 is -41.4


def kl_structures(be: Any, C1: Structure, C2: Structure, dtype: Any) -> tuple[Transformed, Transformed]:
    """Structures of the KL loss L(a, b) = a log(a/b) - a + b = (a log a - a) + b - 2 a (log b)/2, a and b not negative."""
    xp = be.xp
    A, B = (xp.asarray(C.to_dense(), dtype) for C in (C1, C2))
    for name, C in (("C1", A), ("C2", B)):
        if (C < 0).any():
            low = float(C.min())
            raise ValueError(f"loss='kl' compares entries of 0 or more, but {name} has negative ones (smallest {low:g})")
    return Transformed(A, A * xp.log(A + KL_OFFSET) - A), Transformed(xp.log(B + KL_OFFSET) / 2, B)


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

    Products by running sums in both directions, O(n) per column; nothing but additions, so that no digits cancel where X >= 0.

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


@dataclass(frozen=True, eq=False)
class LowRank(Structure):
    """C = U V' for factors (n, r): two thin products, O(n r) per column.

    Parameters
    ----------
    U, V : arrays (n, r)
    symmetric : bool, optional
        Whether U V' is its own transpose; None finds out, once, at O(n^2 r).
    """

    U: Any
    V: Any
    symmetric: bool | None = None

    def __post_init__(self) -> None:
        U, V = (np.ascontiguousarray(x, dtype=float) for x in (self.U, self.V))
        if U.ndim != 2 or U.shape != V.shape or not U.size or not (np.isfinite(U).all() and np.isfinite(V).all()):
            raise ValueError(f"U and V must be finite factors of one shape (n, r); got shapes {U.shape} and {V.shape}")
        object.__setattr__(self, "U", U)
        object.__setattr__(self, "V", V)

    @cached_property
    def is_symmetric(self) -> bool:  # type: ignore[override]
        """Whether C = C' up to rounding."""
        if self.symmetric is not None or self.U is self.V:
            return self.symmetric is not False
        top = gap = 0.0
        for k in range(0, len(self.U), CHUNK):
            C = self.U[k : k + CHUNK] @ self.V.T
            top, gap = max(top, np.abs(C).max()), max(gap, np.abs(C - self.V[k : k + CHUNK] @ self.U.T).max())
        return bool(gap <= 4 * self.U.shape[1] * np.finfo(float).eps * top)

    @property
    def shape(self) -> tuple[int, int, int]:
        """One matrix; rows, columns."""
        return 1, len(self.U), len(self.U)

    def on(self, be: Any, dtype: Any) -> Structure:
        """The factors on the backend's device."""
        if be.xp is np:
            return self
        return _Factors(be.xp.asarray(self.U.astype(dtype)), be.xp.asarray(self.V.astype(dtype)), self.is_symmetric)

    def _product(self, be: Any, X: Any, axis: int, transpose: bool, out: Any) -> Any:
        U, V = (x.astype(X.dtype, copy=False) for x in ((self.V, self.U) if transpose else (self.U, self.V)))
        return be.matmul(U, be.matmul(V.T, X), out=out) if axis == 0 else be.matmul(be.matmul(X, U), V.T, out=out)

    def square(self) -> Structure:
        """Row-wise Kronecker products of the factors, of rank r^2; an array where that is more than n."""
        n, r = self.U.shape
        if r * r > n:
            return super().square()
        U, V = ((x[:, :, None] * x[:, None, :]).reshape(n, r * r) for x in (self.U, self.V))
        return LowRank(U, V, True if self.is_symmetric else None)

    def symmetrized(self) -> LowRank:
        """(C + C')/2, of twice the rank."""
        if self.is_symmetric:
            return self
        return LowRank(np.hstack((self.U, self.V)) / 2, np.hstack((self.V, self.U)), symmetric=True)

    def to_dense(self) -> np.ndarray:
        """The matrix, (1, n, n)."""
        return (self.U @ self.V.T)[None]

    def subset(self, index: np.ndarray) -> LowRank:
        """Rows of the factors."""
        return LowRank(self.U[index], self.V[index], self.symmetric)

    def extent(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest entry, O(n^2 r) in blocks of rows."""
        blocks = [self.U[k : k + CHUNK] @ self.V.T for k in range(0, len(self.U), CHUNK)]
        return np.array([min(C.min() for C in blocks)]), np.array([max(C.max() for C in blocks)])


@dataclass(frozen=True, eq=False)
class _Factors(Structure):
    """U V' with factors on a device; its square is made from the `LowRank` that it comes from."""

    U: Any
    V: Any
    is_symmetric: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        return 1, len(self.U), len(self.U)

    def _product(self, be: Any, X: Any, axis: int, transpose: bool, out: Any) -> Any:
        U, V = (self.V, self.U) if transpose else (self.U, self.V)
        return be.matmul(U, be.matmul(V.T, X), out=out) if axis == 0 else be.matmul(be.matmul(X, U), V.T, out=out)


@dataclass(frozen=True, eq=False)
class PointCloud(Structure):
    """Squared Euclidean distances C_ik = ||x_i - x_k||^2 of points (n, d), a matrix of rank d + 2: O(n d) per column.

    Parameters
    ----------
    X : array (n, d) or (n,)
    """

    X: Any
    is_symmetric = True

    def __post_init__(self) -> None:
        X = np.array(self.X, dtype=float)
        X = X[:, None] if X.ndim == 1 else X
        if X.ndim != 2 or not X.size or not np.isfinite(X).all():
            raise ValueError(f"X must be a finite matrix (points, features), got shape {X.shape}")
        object.__setattr__(self, "X", X)

    @cached_property
    def factors(self) -> LowRank:
        """||x_i||^2 + ||x_k||^2 - 2 <x_i, x_k> about the centre of the points, where the least is lost to rounding."""
        X = self.X - self.X.mean(0)
        norms, one = (X**2).sum(1, keepdims=True), np.ones((len(X), 1))
        return LowRank(np.hstack((norms, one, -2 * X)), np.hstack((one, norms, X)), symmetric=True)

    @property
    def shape(self) -> tuple[int, int, int]:
        """One matrix; rows, columns."""
        return 1, len(self.X), len(self.X)

    def on(self, be: Any, dtype: Any) -> Structure:
        """The factors on the backend's device."""
        return self if be.xp is np else self.factors.on(be, dtype)

    def _product(self, be: Any, X: Any, axis: int, transpose: bool, out: Any) -> Any:
        return self.factors._product(be, X, axis, transpose, out)

    def _block(self, k: int) -> np.ndarray:
        from scipy.spatial.distance import cdist

        return np.asarray(cdist(self.X[k : k + CHUNK], self.X, "sqeuclidean"))

    def square(self) -> Structure:
        """Of rank (d + 2)^2; an array where that is more than n."""
        n, d = self.X.shape
        return self.factors.square() if (d + 2) ** 2 <= n else super().square()

    def to_dense(self) -> np.ndarray:
        """The matrix, (1, n, n)."""
        return np.concatenate([self._block(k) for k in range(0, len(self.X), CHUNK)])[None]

    def subset(self, index: np.ndarray) -> PointCloud:
        """Some of the points."""
        return PointCloud(self.X[index])

    def extent(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest (0) and largest entry, O(n^2 d) in blocks of rows."""
        return np.zeros(1), np.array([max(self._block(k).max() for k in range(0, len(self.X), CHUNK))])


def _is_symmetric(C: Any) -> bool:
    """Equal to its transpose up to a few roundings: then the cheaper symmetric gradient is exact to the same rounding."""
    turned = C.swapaxes(-1, -2)
    if bool((turned == C).all()):  # most are, to the last digit
        return True
    return bool(abs(C - turned).max() <= 4 * float(np.finfo(C.dtype).eps) * abs(C).max())


# ------------------------------------------------------------------------------------------------------------- recognition


def as_structure(C: Any, be: Any = None) -> Structure:
    """The fastest operator for an array, equal to it up to rounding; an operator is returned as it is.

    A single symmetric Toeplitz matrix of SCAN_FROM points or more, which every structure on a uniform time grid is, becomes
    `PowerDistance` (|i-k|^p for p = 1, 2), `LaplaceKernel` (offset + weight e^(-|i-k|/b)) or `Toeplitz`; all else `Dense`.
    The tolerance is 8 roundings of the largest entry, the cost O(n^2). `be` is the backend of an array on a GPU,
    where it stays.

    Examples
    --------
    >>> t = np.arange(200) / 200
    >>> type(as_structure(abs(t[:, None] - t))).__name__
    'PowerDistance'
    """
    if isinstance(C, Structure):
        return C
    single = C if C.ndim == 2 else C[0] if C.ndim == 3 and len(C) == 1 else None
    if single is None or len(single) < SCAN_FROM or single.shape[0] != single.shape[1] or C.dtype.kind != "f":
        return Dense(C)
    xp = np if be is None else be.xp
    weights = np.asarray(single[0] if be is None else be.host(single[0])).astype(float)
    tolerance = 8 * float(np.finfo(C.dtype).eps) * float(np.abs(weights).max())
    if not _is_toeplitz(single, weights, tolerance, xp):
        return Dense(C)
    found = _pattern(weights, tolerance)
    return Dense(C) if found is None else found


def _is_toeplitz(C: Any, weights: np.ndarray, tolerance: float, xp: Any) -> bool:
    n = len(C)
    if abs(C[-1] - xp.asarray(weights[::-1].copy())).max() > tolerance:  # most arrays end here
        return False
    if xp is not np:
        points = xp.arange(n)
        return bool(abs(C - xp.asarray(weights)[abs(points[:, None] - points)]).max() <= tolerance)
    rows = np.lib.stride_tricks.sliding_window_view(np.concatenate((weights[:0:-1], weights)), n)[::-1]
    return all(np.abs(C[k : k + CHUNK] - rows[k : k + CHUNK]).max() <= tolerance for k in range(0, n, CHUNK))


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
