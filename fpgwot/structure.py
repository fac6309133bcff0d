"""Intra-domain structure matrices C1 (n, n) and C2 (m, m) as operators.

A solver asks a structure for products along an axis and for its elementwise square, never for its entries. With the square
loss that is all that Gromov-Wasserstein needs:

    E(T) = sum_ijkl (C1_ik - C2_jl)^2 T_ij T_kl = <s1 1' + 1 s2' - 2 A, T>,
    s1 = (C1*C1) T 1,   s2 = (C2*C2) T' 1,   A = C1 T C2'          (averaged with their transposed twins where asymmetric).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Dense:
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

    def single(self, b: int, n: int) -> Dense:
        """The structure of problem b in float64, cut to its first n points."""
        return Dense(np.ascontiguousarray(self.array[b % len(self.array), :n, :n], dtype=np.float64))

    def take(self, index: Any) -> Dense:
        """The structures of some problems of a batch; one that is shared by all stays as it is."""
        return self if self.shape[0] == 1 else Dense(self.array[index])

    def matmul(self, be: Any, X: Any, transpose: bool = False, out: Any = None) -> Any:
        """C X (or C' X) for X of shape (B, n, k)."""
        C = self.array
        return be.matmul(C.swapaxes(-1, -2) if transpose else C, X, out=out)

    def rmatmul(self, be: Any, X: Any, transpose: bool = False, out: Any = None) -> Any:
        """X C (or X C') for X of shape (B, k, n)."""
        C = self.array
        return be.matmul(X, C.swapaxes(-1, -2) if transpose else C, out=out)

    def square(self) -> Dense:
        """The operator of the elementwise square, C*C."""
        return Dense(self.array * self.array)

    def symmetrized(self) -> Dense:
        """(C + C')/2."""
        return self if self.is_symmetric else Dense((self.array + self.array.swapaxes(-1, -2)) / 2)

    def to_dense(self) -> Any:
        """The array itself, (B, n, n)."""
        return self.array


def _is_symmetric(C: Any) -> bool:
    """Equal to its transpose up to a few roundings: then the cheaper symmetric gradient is exact to the same rounding."""
    scale = abs(C).max() if C.size else 0.0
    return bool(abs(C - C.swapaxes(-1, -2)).max(initial=0.0) <= 4 * np.finfo(C.dtype).eps * scale)


def as_structure(C: Any) -> Dense:
    """A structure operator from an array; an operator is returned as it is."""
    return C if isinstance(C, Dense) else Dense(C)
