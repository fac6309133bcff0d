"""Products with arrays in half the time: in float32, of what has changed in the plan since the last product in float64.

A(T) = C1 T C2' is linear, so A(T) = A(T0) + C1 (T - T0) C2'. In float32 the second term is off by about u max|C1| max|C2|
||T - T0||_1, u = 2^-24, which shrinks as the plan settles: one or two products in float64 are enough for a whole solve. The
first T0 is the product plan, whose A is an outer product.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._backends import _protocol as ix
from .._problem import Problem, cross
from ..structure import Dense

SMALLEST = 2**16  # pairs from which a product outlasts the casts
LARGEST = 1e20  # of max|C1| max|C2|, and of its inverse
ROUNDING = 2.0**-24
SURE, DOUBT = 1e-3, 0.03  # error of log T that is let pass, of the certificate before the step and of that after it


class Changes:
    """Gradients at the plans of one solve, one after another; `is_product` if the first was at the product plan."""

    def __init__(self, problem: Problem, is_product: bool, tol: float) -> None:
        self.problem, self.has_base, self.tol = problem, is_product, tol
        self.arrays: list[Any] = []  # T0 and A(T0)
        self.pays = _has_large_arrays(problem)
        if self.pays:
            be = problem.be
            largest = [np.maximum(*(np.abs(be.host(x)) for x in C.extent())) for C in problem._placed]
            size = largest[0] * largest[1]
            self.pays = bool(((size > 1 / LARGEST) & (size < LARGEST)).all())
        if self.pays:
            self.rounded = [_rounded(be, C, w) for C, w in zip(problem._placed, (largest[1], 1 / largest[1]), strict=True)]
            self.unit = np.abs(problem.weight_of_cross) / problem.eps * size * ROUNDING  # of log T, for a change of T by 1
            self.error, self.allowed = np.zeros(len(problem.size)), np.zeros(len(problem.size))

    def gradient(self, station: np.ndarray, on: np.ndarray, args: tuple[Any, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`Problem.gradient` of the problems `on`, given the certificates of the plans before; `made` is how many that took."""
        self.made = 1
        if not self.pays:
            return self.problem.gradient(*args)
        self.allowed = SURE * np.minimum(station, 1.0)
        sums, along, rough = self.problem.gradient(*(*args, self.cross))
        mass = along[:, ix.TOTAL]
        if (self.error * mass > DOUBT * np.maximum(sums[:, ix.FIXED], self.tol * mass))[on].any():
            self.made, self.allowed = 2, np.zeros(len(on))
            sums, along, rough = self.problem.gradient(*(*args, self.cross))
        return sums, along, rough

    def cross(self, T: Any, out: Any, work: Any, on: np.ndarray) -> None:
        """`Problem.cross`; `error` is about what log T may be off by because of it."""
        be, problem = self.problem.be, self.problem
        if not self.arrays:
            self.arrays = [be.borrow(T.shape, T.dtype) for _ in range(2)]
            if self.has_base:
                problem.product_plan(self.arrays[0])
                problem.cross_of_product(self.arrays[1])
        T0, A0 = self.arrays
        if self.has_base and self._is_made_of_change(T, T0, A0, out, work, on):
            return
        problem.cross(T, out, work, on)
        T0[:], A0[:] = T, out  # of the problems that are done as well: nobody reads those
        self.has_base, self.error = True, np.zeros(len(on))

    def _is_made_of_change(self, T: Any, T0: Any, A0: Any, out: Any, work: Any, on: np.ndarray) -> bool:
        """Makes A from the change, unless that would be too rough."""
        be, xp = self.problem.be, self.problem.be.xp
        which = slice(None) if on.all() else xp.asarray(np.flatnonzero(on))
        D = _halves(out if on.all() else xp.empty_like(T[which]))[0]
        self.error[on] = self.unit[on] * be.host(be.rounded_change(T[which], T0[which], 1.0, xp.ones(len(D)), D))
        if not (self.error <= self.allowed)[on].all():
            return False
        half, A = _halves(work[: len(D)])
        C1, C2 = (C.take(which) for C in self.rounded)
        cross(be, C1, C2, D, A, half)
        if on.all():
            xp.add(A0, A, out=out)
        else:
            out[which] = A0[which] + A
        return True


def _has_large_arrays(problem: Problem) -> bool:
    _, n, m = problem.shape
    return isinstance(problem.C1, Dense) and isinstance(problem.C2, Dense) and problem.dtype == np.float64 and n * m >= SMALLEST


def _rounded(be: Any, C: Any, weight: np.ndarray) -> Dense:
    """weight C in float32: one structure with entries up to 1, the other takes the scales of both."""
    x = be.xp.empty(C.shape, np.float32)
    be.rounded_change(C.array, C.array, 0.0, be.xp.asarray(weight), x)
    return C._like(x)


def _halves(x: Any) -> list[Any]:
    """Two arrays of float32 in the memory of one of float64."""
    flat = x.reshape(-1).view(np.float32)
    return [flat[: x.size].reshape(x.shape), flat[x.size :].reshape(x.shape)]
