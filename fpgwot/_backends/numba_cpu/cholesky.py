"""Cholesky factors of Newton systems in float32: a preconditioner needs no more, and they cost half.

On LAPACK's own factorisation of a large matrix the number of threads leaves its mark in the last digits, and through conjugate
gradients on the way that the solver takes. Products of matrices and factors of small blocks are the same on any number.
"""

from __future__ import annotations

import numpy as np

from .._protocol import FACTORED, RIDGE, SHIFT, Scaling
from . import dual

BLOCK = 64  # rows that LAPACK factorises at a time: in one thread


def factor(K: np.ndarray, s: Scaling, on: np.ndarray) -> np.ndarray:
    """Factors of the Newton systems that `newton` has set up, and the first direction through them.

    Returns the columns of a full system whose factor would cost as much, 0 where none was built.
    """
    built = np.zeros(len(on), np.int64)
    for b in np.flatnonzero(on) if s.factor.size else ():
        A, border = dual.system_rows(K, s.rows, s.cols, s.vals, s.size, s.v, b)
        k = A.shape[1]
        U = s.factor[b, :k, :k]
        np.negative(A.T @ A, out=U)
        U[np.diag_indices(k)] += np.float32(1 + s.vals[b, SHIFT] + RIDGE)
        U[: len(border), -1:] += border[:, None]
        s.vals[b, FACTORED] = k if _cholesky(U) else 0
        if s.vals[b, FACTORED] > 0:
            built[b] = max(len(A) * k**2 // (K.shape[1] * K.shape[2]), 1)
            dual.first_direction(s.cols, s.vals, s.factor, b)
    return built


def _cholesky(U: np.ndarray) -> bool:
    """The upper triangular factor of a matrix in its upper half; False where that is not positive up to rounding."""
    from scipy.linalg import lapack  # not with the package: few problems need it, and it takes a tenth of a second

    for i in range(0, len(U), BLOCK):
        here, rest = slice(i, i + BLOCK), slice(i + BLOCK, None)
        U[here, here], bad = lapack.spotrf(U[here, here], lower=0)
        if bad:
            return False
        inverse, _ = lapack.strtri(U[here, here], lower=0)
        U[here, rest] = inverse.T @ U[here, rest]
        U[rest, rest] -= U[here, rest].T @ U[here, rest]
    return True
