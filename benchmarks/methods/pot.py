"""POT (ot), with its own defaults, except numItermax = 1e7 in the exact calls that stop inside the linear program without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import ot

from ..problems import Problem
from . import Method

ITERATIONS = 10**7  # its partial exact solvers fail on problem T from n = 640 on with the default; ot.emd stops early at 2048


def call(z: Problem, solver: str = "PGD") -> Callable[[], Any] | None:
    """POT's function for a problem, or None where it has none."""
    if z.loss != "square" or (z.tau is not None and z.kind != "linear"):
        return None
    g, part = ot.gromov, ot.partial
    entropic, partial = z.reg > 0, z.m is not None
    quadratic = (z.C1, z.C2, z.p, z.q)
    fused = (z.M, *quadratic)
    if z.kind == "linear":
        if z.tau is not None:
            return (lambda: ot.unbalanced.sinkhorn_unbalanced(z.p, z.q, z.M, z.reg, z.tau)) if entropic else None
        if partial and entropic:
            return lambda: part.entropic_partial_wasserstein(z.p, z.q, z.M, z.reg, m=z.m)
        if partial:
            return lambda: part.partial_wasserstein(z.p, z.q, z.M, m=z.m, numItermax=ITERATIONS)
        if entropic:
            return lambda: ot.sinkhorn(z.p, z.q, z.M, z.reg, warn=False)
        return lambda: ot.emd(z.p, z.q, z.M, numItermax=ITERATIONS)
    if z.kind == "gw":
        if partial and entropic:
            return lambda: g.entropic_partial_gromov_wasserstein(*quadratic, z.reg, m=z.m)
        if partial:
            return lambda: g.partial_gromov_wasserstein(*quadratic, m=z.m, numItermax=ITERATIONS)
        if entropic:
            return lambda: g.entropic_gromov_wasserstein(*quadratic, epsilon=z.reg, solver=solver)
        return lambda: g.gromov_wasserstein(*quadratic)
    if partial and entropic:
        return lambda: g.entropic_partial_fused_gromov_wasserstein(*fused, z.reg, m=z.m, alpha=z.alpha)
    if partial:
        return lambda: g.partial_fused_gromov_wasserstein(*fused, m=z.m, alpha=z.alpha, numItermax=ITERATIONS)
    if entropic:
        return lambda: g.entropic_fused_gromov_wasserstein(*fused, alpha=z.alpha, epsilon=z.reg, solver=solver)
    return lambda: g.fused_gromov_wasserstein(*fused, alpha=z.alpha)


def loop(problems: list[Problem]) -> Callable[[], np.ndarray]:
    """Entropic FGW, one call after the other."""
    calls = [call(z) for z in problems]
    return lambda: np.stack([np.asarray(c()) for c in calls if c is not None])


def batch(problems: list[Problem], torch: Any = None, inner: int | None = None) -> Callable[[], np.ndarray]:
    """`ot.batch.solve_gromov_batch` in NumPy or torch. Its reg is a proximal step: it descends on the problem without entropy.

    `inner`: more steps of its inner loop than the 50 of the default, to a tolerance of 1e-7.
    """
    arrays = [np.stack([getattr(z, k) for z in problems]) for k in ("C1", "C2", "p", "q", "M")]
    C1, C2, p, q, M = arrays if torch is None else (torch.from_numpy(x) for x in arrays)
    keywords: dict[str, Any] = {"reg": problems[0].reg, "alpha": problems[0].alpha, "symmetric": True}
    if inner is not None:
        keywords |= {"max_iter_inner": inner, "tol_inner": 1e-7}
    return lambda: np.asarray(ot.batch.solve_gromov_batch(C1, C2, a=p, b=q, M=M, **keywords).plan)


def methods() -> tuple[list[Method], dict[str, str]]:
    """Its default solver for every problem that it has, and the proximal one for entropic (fused) GW."""

    def solves(z: Problem) -> bool:
        return call(z) is not None

    def proximal(z: Problem) -> bool:
        return z.kind != "linear" and z.reg > 0 and z.m is None and call(z) is not None

    def prepared(solver: str) -> Callable[[Problem], Callable[[], np.ndarray]]:
        def prepare(z: Problem) -> Callable[[], np.ndarray]:
            run = call(z, solver)
            if run is None:
                raise NotImplementedError(f"POT has no function for {z.name}")
            return lambda: np.asarray(run())

        return prepare

    note = "POT's defaults (exact: relative change 1e-9; entropic: change 1e-9, partial 1e-7)"
    return [
        Method("POT", "POT", solves, prepared("PGD"), note),
        Method(
            "POT PPA", "POT", proximal, prepared("PPA"), note + "; proximal: the entropy is a step, not a term", 128, slow=True
        ),
    ], {}
