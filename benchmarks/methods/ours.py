"""fpgwot: every backend that runs here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np

import fpgwot
from fpgwot._backends.numba_cpu import both_forms, nothing_deferred

from ..problems import Problem, problem_t, segmentation_problem
from . import Method

NOTE = "certificate 1e-7 (float32: 1e-5), exact: Frank-Wolfe gap 1e-9"


def solver(z: Problem, dtype: type = np.float64, backend: str = "auto", tol: float | None = None) -> Callable[[], np.ndarray]:
    """The call for one problem."""
    M, C1, C2, p, q = (None if x is None else x.astype(dtype) for x in (z.M, z.C1, z.C2, z.p, z.q))
    options = {k: v for k, v in z.options.items() if v is not None and (k != "loss" or z.loss != "square")}
    return lambda: np.asarray(fpgwot.solve(M, C1, C2, p, q, **options, tol=tol, backend=backend, on_fail="ignore").plan)


def warm_up(full: bool) -> None:
    """Compiles what the benchmarks call, in both precisions.

    `full`: threaded forms as well, which take twice as long and which large problems need, and the loop of batches, which
    `fpgwot.warmup` compiles ahead, for half a minute or more in each precision.
    """
    rng = np.random.default_rng(0)
    with both_forms() if full else contextlib.nullcontext():
        for dtype in (np.float64, np.float32):
            M, C1, C2 = (rng.random(shape).astype(dtype) for shape in ((2, 8, 7), (8, 8), (7, 7)))
            with nothing_deferred():
                fpgwot.solve(M, C1, C2, reg=0.1, max_iter=3, on_fail="ignore")
        for m in (None, 0.8):
            solver(problem_t(700).linear().but(m=m))()  # large linear programs have kernels of their own
        for n in (6, 300):
            for z in (problem_t(n), problem_t(n).structural(), problem_t(n).linear(), segmentation_problem(n, 5)):
                for m in (None, 0.8) if z.loss == "square" else (None,):
                    for reg in (0.0, 0.05) if z.loss == "square" else (0.05,):
                        for dtype in (np.float64, np.float32) if reg else (np.float64,):
                            solver(z.but(m=m, reg=reg), dtype)()


def methods() -> tuple[list[Method], dict[str, str]]:
    """Numba in both precisions, the NumPy reference, and CuPy where it runs."""
    found = [
        Method("fpgwot", "fpgwot", _all, lambda z: solver(z, backend="numba"), NOTE),
        Method("fpgwot float32", "fpgwot", _entropic, lambda z: solver(z, np.float32, "numba"), NOTE),
        Method("fpgwot numpy", "fpgwot", _all, lambda z: solver(z, backend="numpy"), NOTE + "; the readable reference", 256),
    ]
    try:
        import cupy

        fpgwot.solve(cupy.ones((2, 2)), reg=1.0)
    except (ImportError, NotImplementedError, RuntimeError) as error:
        return found, {"fpgwot cupy": f"{type(error).__name__}: {error}".splitlines()[0]}

    def on_device(z: Problem) -> Callable[[], np.ndarray]:
        M, C1, C2, p, q = (None if x is None else cupy.asarray(x) for x in (z.M, z.C1, z.C2, z.p, z.q))
        options = {k: v for k, v in z.options.items() if v is not None}
        return lambda: cupy.asnumpy(fpgwot.solve(M, C1, C2, p, q, **options, on_fail="ignore").plan)

    return [*found, Method("fpgwot cupy", "fpgwot", _entropic, on_device, NOTE)], {}


def _all(z: Problem) -> bool:
    """Every problem of these benchmarks."""
    return z.reg > 0 or z.tau is None


def _entropic(z: Problem) -> bool:
    return z.reg > 0
