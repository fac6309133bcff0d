"""Whether a mask leaves enough pairs for the marginals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from . import _dispatch
from ._backends._protocol import FORBIDDEN_FROM
from ._solvers import exact
from ._validate import Prepared


def check_feasible(prep: Prepared) -> None:
    """A mask can leave too few pairs: the least mass on forbidden pairs is a linear program with costs 0 and 1."""
    problem = prep.problem
    if problem.bias is None or not (problem.bias >= FORBIDDEN_FROM).any():
        return
    host = problem.be.host  # a linear program: the one thing that takes a matrix from a GPU to the host
    problem = replace(problem, bias=host(problem.bias), p=host(problem.p), q=host(problem.q))
    if problem.marginals.kind == "kl":  # a hard side against a soft one: every point needs a partner, and may have any
        for b, size in enumerate(problem.size):
            allowed = problem.bias[b % len(problem.bias), : size[0], : size[1]] < FORBIDDEN_FROM
            for side, tau in enumerate(problem.marginals.tau):
                alone = np.flatnonzero(~allowed.any(1 - side))
                if np.isinf(tau) and len(alone):
                    name = ("row", "column")[side]
                    raise ValueError(
                        f"the mask is infeasible: {name} {alone[0]} has a hard marginal and no allowed partner; "
                        "allow a pair, give the point weight 0, or a finite tau"
                    )
        return
    if problem.marginals.kind == "priced":
        return
    be = _dispatch.load_backend("numba")
    for b in range(len(problem.size)):
        lost = exact.forbidden_mass(be, problem, b, problem.bias[b % len(problem.bias)] >= FORBIDDEN_FROM)
        if lost > 1e-9:
            where = f" of problem {b}" if prep.is_batch else ""
            raise ValueError(
                f"the mask{where} is infeasible: at least {lost * prep.scale[b]:.3g} of the mass would have to go through "
                "forbidden pairs; allow more pairs, or relax the marginals with m= or tau="
            )
