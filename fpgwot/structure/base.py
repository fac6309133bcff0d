"""What every structure can do, and structures given by arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

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

    def distances(self) -> tuple[np.ndarray, float] | None:
        """Gaps t_i - t_(i-1), the first one 0, and factor of a structure scale |t_i - t_k|; None for another."""
        return None

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

    def in_double(self) -> Structure:
        """The structure with its arrays in float64."""
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

    def in_double(self) -> Dense:
        """The array in float64."""
        return Dense(self.array.astype(float))

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

    def in_double(self) -> Transformed:
        """Both arrays in float64."""
        return Transformed(self.array.astype(float), self.squares.astype(float))

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


def loss_slopes(be: Any, C: Structure, loss: str, side: int) -> tuple[Any, Any]:
    """f'(C) and 2 h'(C) of a loss f1(a) + f2(b) - 2 h1(a) h2(b): square, or KL, whose C is `Transformed`; side 0 is a."""
    if not isinstance(C, Transformed) or loss != "kl":
        return 2 * C.to_dense(), 2.0
    if side == 0:
        return be.xp.log(C.array + KL_OFFSET), 2.0
    return be.xp.ones_like(C.squares), 1 / (C.squares + KL_OFFSET)


def _is_symmetric(C: Any) -> bool:
    """Equal to its transpose up to a few roundings: then the cheaper symmetric gradient is exact to the same rounding."""
    turned = C.swapaxes(-1, -2)
    if bool((turned == C).all()):  # most are, to the last digit
        return True
    return bool(abs(C - turned).max() <= 4 * float(np.finfo(C.dtype).eps) * abs(C).max())
