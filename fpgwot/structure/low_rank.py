"""Structures of low rank: factors U V', and squared distances of points."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .base import CHUNK, Structure


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
