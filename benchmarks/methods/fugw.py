"""fugw: block coordinate descent on two coupled plans, torch float32 on the CPU; balanced here (rho = inf)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from fugw.solvers import dense

from ..problems import Problem
from . import Method

# The inner loop draws a progress bar whatever `verbose` says; without it fugw is faster, and that is what should be compared
if not isinstance(dense.solver_sinkhorn, partial):
    dense.solver_sinkhorn = partial(dense.solver_sinkhorn, verbose=False)


def solver(z: Problem, blocks: int = 10, inner: int = 1000, tol: float = 1e-7) -> Callable[[], np.ndarray]:
    """The call for one problem.

    Both plans carry their own entropy (reg_mode "independent"); where they agree, each block solves
    (1-a)/2 M + a H with epsilon reg/2, half of our linearised problem.
    """
    M, C1, C2, p, q = (None if x is None else torch.tensor(x, dtype=torch.float32) for x in (z.M, z.C1, z.C2, z.p, z.q))
    descent = dense.FUGWSolver(nits_bcd=blocks, nits_uot=inner, tol_bcd=tol, tol_uot=tol, eval_bcd=1, eval_uot=10)
    alpha = float(z.alpha) if z.alpha is not None else 1.0

    def run() -> np.ndarray:
        with contextlib.redirect_stdout(io.StringIO()):  # the empty lines of bars that are not drawn
            out = descent.solve(
                alpha=alpha, rho_s=float("inf"), rho_t=float("inf"), eps=z.reg / 2, reg_mode="independent",
                F=M, Ds=C1, Dt=C2, ws=p, wt=q, solver="sinkhorn",
            )  # fmt: skip
        return out["pi"].numpy()

    return run


def methods() -> tuple[list[Method], dict[str, str]]:
    """Balanced entropic (fused) GW."""

    def solves(z: Problem) -> bool:
        return z.kind != "linear" and z.reg > 0 and z.m is None and z.tau is None and z.loss == "square"

    return [
        Method(
            "fugw",
            "fugw",
            solves,
            solver,
            "float32, its default 10 blocks of at most 1000 Sinkhorn steps, tolerances 1e-7, no progress bar",
        )
    ], {}
