"""The quadratic part of the exact solver's objective: its value and its gradient at sparse plans.

    w E(T),   E(T) = <s1 1' + 1 s2' + kappa A, T>,   gradient 2 w (s1 1' + 1 s2' + kappa A)

square loss: kappa = -2, s1 = (C1*C1) T 1, s2 = (C2*C2) T' 1;   product loss: kappa = 1, s1 = s2 = 0;   A = C1 T C2' in both,
the mean with C1' T C2 where a structure is not symmetric. KL loss: as the square loss, of the structures h(C) that carry the
cross term, with f(C) in place of their squares (`structure.Transformed`). Smoothness gamma/2 <T, L T + T L'>, L the Laplacians
of the paths, is quadratic as well and goes in with A: A + gamma/(2 w kappa) (L T + T L').
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..structure import Dense, Structure
from .linear_program import EMPTY, Codes

SMALL = 40_000  # pairs up to which calls from Python cost more than the work in them
THIN = 24  # changed rows up to which adding their share is cheaper than two products with operators
CANCELLED = 1e-3  # of the terms of E: below, E is computed by its definition, so that 0 is 0
BLOCK = 64  # rows of a structure that are built at a time


class Energy:
    """Products with the structures of one problem, and with the path Laplacians.

    Symmetric and skew parts, C = S + K, give one formula for arrays with and without symmetry: A = S1 T S2 + K1' T K2 and
    s1 = (S1*S1 + K1*K1) T 1. Operators are asked for products only.
    """

    def __init__(
        self, be: Any, C1: Structure | None, C2: Structure | None, shape: tuple[int, int], w: float, loss: str, smoothness: float
    ) -> None:
        if w == 0.0:
            C1 = C2 = None
        self.be, self.C1, self.C2, self.shape = be, C1, C2, shape
        self.is_square = C1 is not None and loss != "product"
        self.w, self.kappa = (1.0 if C1 is None else w), (-2.0 if self.is_square else 1.0)
        self.smooth = smoothness / (2.0 * self.w * self.kappa)
        self.is_kl = self.is_square and loss == "kl"
        self.is_dense = isinstance(C1, Dense) and isinstance(C2, Dense)
        self.parts1, self.parts2 = _parts(C1), _parts(C2)
        self.pairs = list(zip(self.parts1, self.parts2, strict=False)) if self.is_dense else []  # K only where both have one
        # operators and the KL loss only: an array's squares are summed without being built
        self.squared = [_squared(C, self.is_kl) for C in (C1, C2)] if self.is_square else []
        self._zeros: np.ndarray | None = None

    @property
    def is_small(self) -> bool:
        """Whether the compiled loop for arrays is the faster way."""
        return self.is_dense and not self.is_kl and self.smooth == 0.0 and self.shape[0] * self.shape[1] <= SMALL

    def arrays(self) -> tuple[np.ndarray, ...]:
        """S1, K1, S2, K2; a skew part that is zero is an empty array."""
        none = np.zeros((0, 0))
        return tuple(X for parts in (self.parts1, self.parts2) for X in (parts if len(parts) == 2 else (parts[0], none)))

    def squares(self, mu: np.ndarray, nu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """s1 and s2."""
        if not self.is_square:
            return np.zeros(len(mu)), np.zeros(len(nu))
        out = []
        for parts, operator, x in zip((self.parts1, self.parts2), self.squared, (mu, nu), strict=True):
            if operator is not None:
                out.append(operator.matmul(self.be, x[None, :, None])[0, :, 0])
                continue
            s = self.be.square_matvec(parts[0], x)
            for K in parts[1:]:
                s += self.be.square_matvec(K, x)
            out.append(s)
        return out[0], out[1]

    def rank_one(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """A of the plan a b'."""
        if self.is_dense:
            terms = [(X1.T @ a, b @ X2) for X1, X2 in self.pairs]
        elif self.C1 is not None and self.C2 is not None:
            twins = (False,) if self.C1.is_symmetric and self.C2.is_symmetric else (False, True)
            column, row = a[None, :, None], b[None, None, :] / len(twins)
            terms = [
                (self.C1.matmul(self.be, column, transpose=t)[0, :, 0], self.C2.rmatmul(self.be, row, transpose=not t)[0, 0])
                for t in twins
            ]
        else:
            terms = [(np.zeros(len(a)), np.zeros(len(b)))]
        A = np.multiply(terms[0][0][:, None], terms[0][1])
        for left, right in terms[1:]:
            A += left[:, None] * right
        if self.smooth:
            A += self.smooth * (_laplacian(a)[:, None] * b + a[:, None] * _laplacian(b))
        return A

    def product(
        self,
        code: Codes,
        x: np.ndarray,
        last: tuple[Codes, np.ndarray] = EMPTY,
        A: np.ndarray | None = None,
        out: np.ndarray | None = None,
        work: np.ndarray | None = None,
    ) -> np.ndarray:
        """A of a sparse plan from that of another, A (none: zero), at the cost of what differs between the two.

        `out`, where given, is written to, and `work` overwritten: fresh memory is dear. Neither may be A, nor each other.
        """
        n, m = self.shape
        out = np.empty(self.shape) if out is None else out
        if self.C1 is None:
            _add([], A, out)
        elif self.is_dense and len(x) <= n * m // 8:
            _add([self.be.product_factors(code, x, *last, X1, X2) for X1, X2 in self.pairs], A, out)
        else:
            thin = None if A is None else self._thin(code, x, last)
            if thin is not None:
                _add(thin, A, out)
            else:
                self._whole(code, x, out, np.empty(self.shape) if work is None else work)
                if A is not None and not len(last[0]):
                    out += A
                last = EMPTY
        if self.smooth:
            self.be.add_laplacians(code, x, self.smooth, out)
            if len(last[0]):
                self.be.add_laplacians(*last, -self.smooth, out)
        return out

    def _thin(self, code: Codes, x: np.ndarray, last: tuple[Codes, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]] | None:
        """Factors of the change where it is in few rows; None where it is not."""
        assert self.C1 is not None and self.C2 is not None
        n, m = self.shape
        i, j, d = self.be.plan_changes(code, x, *last, n, m)
        rows, where = np.unique(i, return_inverse=True)
        if len(rows) > THIN:
            return None
        if not len(rows):
            return []
        unit, change = np.zeros((1, len(rows), n)), np.zeros((1, len(rows), m))
        unit[0, np.arange(len(rows)), rows] = 1.0
        np.add.at(change[0], (where, j), d)
        if self.C1.is_symmetric and self.C2.is_symmetric:
            return [(self.C1.rmatmul(self.be, unit)[0], self.C2.rmatmul(self.be, change)[0])]
        return [
            (self.C1.rmatmul(self.be, unit, transpose=t)[0] / 2.0, self.C2.rmatmul(self.be, change, transpose=t)[0])
            for t in (True, False)
        ]

    def _whole(self, code: Codes, x: np.ndarray, out: np.ndarray, work: np.ndarray) -> None:
        assert self.C1 is not None and self.C2 is not None
        T, half = self.scatter(code, x)[None], work[None]
        self.C2.rmatmul(self.be, T, transpose=True, out=half)
        self.C1.matmul(self.be, half, out=out[None])
        if not (self.C1.is_symmetric and self.C2.is_symmetric):
            self.C2.rmatmul(self.be, T, out=half)
            out += self.C1.matmul(self.be, half, transpose=True)[0]
            out *= 0.5
        T.reshape(-1)[code] = 0.0

    def scatter(self, code: Codes, x: np.ndarray) -> np.ndarray:
        """The plan as a matrix, in the one buffer of zeros that there is."""
        if self._zeros is None:
            self._zeros = np.zeros(self.shape)
        self._zeros.reshape(-1)[code] = x
        return self._zeros

    def pairing(self, code: Codes, x: np.ndarray, s1: np.ndarray, s2: np.ndarray, A: np.ndarray) -> float:
        """w E(T, D): the bilinear form, from the products of T and the entries of D."""
        return self.w * self.be.plan_pairing(code, x, s1, s2, A, self.kappa)  # type: ignore[no-any-return]

    def value(self, code: Codes, x: np.ndarray, E: float, size: float) -> float:
        """w E(T), by its definition where little is left of terms of that size and T is sparse."""
        if not self.is_square or self.is_kl or self.smooth or abs(E) > CANCELLED * size or len(x) > 6 * sum(self.shape):
            return E
        i, j = np.divmod(code, self.shape[1])
        if self.is_dense:
            return self.w * self.be.plan_energy(i, j, x, self.C1.array[0], self.C2.array[0])  # type: ignore
        total = 0.0
        for k in range(0, len(x), BLOCK):
            part = slice(k, k + BLOCK)
            a, b = (_rows(self.be, C, t[part])[:, t] for C, t in ((self.C1, i), (self.C2, j)))
            total += float(x[part] @ (a - b) ** 2 @ x)
        return self.w * total


def _add(factors: list[tuple[np.ndarray, np.ndarray]], A: np.ndarray | None, out: np.ndarray) -> None:
    """out <- A + sum of L' R."""
    factors = [(L, R) for L, R in factors if len(L)]
    for k, (L, R) in enumerate(factors):
        if k:
            out += L.T @ R
        else:
            np.matmul(L.T, R, out=out)
    if not factors:
        out[:] = 0.0 if A is None else A
    elif A is not None:
        out += A


def _rows(be: Any, C: Any, index: np.ndarray) -> np.ndarray:
    unit = np.zeros((1, len(index), C.shape[1]))
    unit[0, np.arange(len(index)), index] = 1.0
    return C.rmatmul(be, unit)[0]  # type: ignore[no-any-return]


def _parts(C: Structure | None) -> list[np.ndarray]:
    """Symmetric and, where there is one, skew part of an array."""
    if not isinstance(C, Dense):
        return []
    X = np.ascontiguousarray(C.array[0])
    return [X] if C.is_symmetric else [(X + X.T) / 2.0, (X - X.T) / 2.0]


def _squared(C: Any, is_kl: bool) -> Structure | None:
    return None if isinstance(C, Dense) and not is_kl else C.square().symmetrized()


def _laplacian(x: np.ndarray) -> np.ndarray:
    """L x of the path through the points of x."""
    step = np.diff(x)
    return np.append(0.0, step) - np.append(step, 0.0)  # type: ignore[no-any-return]
