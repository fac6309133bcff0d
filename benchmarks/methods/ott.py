"""OTT-JAX: Sinkhorn and entropic (fused) GW on the CPU, float32, compiled once for each shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ott.geometry import geometry
from ott.problems.linear import linear_problem
from ott.problems.quadratic import quadratic_problem
from ott.solvers.linear import sinkhorn
from ott.solvers.quadratic import gromov_wasserstein

from ..problems import Problem
from . import Method

INNER, OUTER = 1e-3, 1e-3  # its default thresholds


def solver(z: Problem, inner: float = INNER, outer: float = OUTER) -> Callable[[], np.ndarray]:
    """The compiled call for one problem.

    OTT linearises E to half its gradient H and adds fused_penalty M, so the same plan has fused_penalty = (1-a)/(2a) and
    epsilon = reg/(2a).
    """
    M, C1, C2, p, q = (None if x is None else jnp.asarray(x, jnp.float32) for x in (z.M, z.C1, z.C2, z.p, z.q))
    linear = sinkhorn.Sinkhorn(threshold=inner, max_iterations=20_000)
    if z.kind == "linear":

        @jax.jit
        def run(M: Any, p: Any, q: Any) -> Any:
            return linear(linear_problem.LinearProblem(geometry.Geometry(cost_matrix=M, epsilon=z.reg), a=p, b=q)).matrix

        ready = run.lower(M, p, q).compile()  # outside the clock
        return lambda: np.asarray(ready(M, p, q))
    alpha = float(z.alpha) if z.alpha is not None else 1.0
    gw = gromov_wasserstein.GromovWasserstein(linear, epsilon=z.reg / (2 * alpha), threshold=outer, max_iterations=200)

    @jax.jit
    def run_gw(M: Any, C1: Any, C2: Any, p: Any, q: Any) -> Any:
        problem = quadratic_problem.QuadraticProblem(
            geometry.Geometry(cost_matrix=C1),
            geometry.Geometry(cost_matrix=C2),
            None if M is None else geometry.Geometry(cost_matrix=M),
            fused_penalty=(1 - alpha) / (2 * alpha),
            a=p,
            b=q,
        )
        return gw(problem).matrix

    ready = run_gw.lower(M, C1, C2, p, q).compile()
    return lambda: np.asarray(ready(M, C1, C2, p, q))


def methods() -> tuple[list[Method], dict[str, str]]:
    """Balanced problems with entropy; its own thresholds, and tight ones."""

    def solves(z: Problem) -> bool:
        return z.reg > 0 and z.m is None and z.tau is None and z.loss == "square"

    return [
        Method("OTT", "ott-jax", solves, solver, "float32, OTT's default thresholds 1e-3 (inner and outer)"),
        Method("OTT tight", "ott-jax", solves, lambda z: solver(z, 1e-5, 1e-6), "float32, thresholds 1e-5 (inner), 1e-6 (outer)"),
    ], {}
