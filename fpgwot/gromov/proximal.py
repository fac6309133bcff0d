"""Proximal steps, as in POT's "PPA", semi-relaxed and batched solvers: a sequence of linear entropic problems.

    T_{k+1} = argmin_T <grad F(T_k), T> + epsilon KL(T || T_k)

Each is one linear `solve`, or a row-wise softmax where the columns are free. Unlike an entropic plan, the limit has no entropy
left: epsilon is the inverse of a step size.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..api import solve
from ._call import host, loss_of
from .helpers import energy, linear_cost

SMALLEST = 1e-300  # of a plan entry that later steps may raise again


@dataclass(frozen=True)
class Steps:
    """How many steps, of what size: `every` is how often the change of the plan is measured, as in POT."""

    epsilon: float
    max_iter: float
    tol: float
    every: int = 10
    verbose: bool = False


@dataclass(frozen=True)
class Proximal:
    """Last plan, its two weighted terms, and the changes of the plan: read as a `Result` is."""

    plan: Any
    value_linear: Any
    value_quad: Any
    history: np.ndarray
    n_iter: int


def proximal(
    M: Any, C1: Any, C2: Any, p: Any, q: Any, loss_fun: str, alpha: float, G0: Any, steps: Steps, free_columns: bool = False
) -> Proximal:
    """Run the steps from G0 (default p q') until the plan moves by less than tol in the 2-norm.

    `free_columns`: semi-relaxed, only T1 = p holds. All arrays may have a leading batch axis.
    """
    loss_of(loss_fun)
    M, C1, C2, p, q, T = (host(x) for x in (M, C1, C2, p, q, G0))
    p = np.full(C1.shape[:-1], 1 / C1.shape[-1]) if p is None else p
    q = np.full(C2.shape[:-1], 1 / C2.shape[-1]) if q is None else q
    M, alpha = (None, 1.0) if M is None or alpha == 1 else (M, alpha)
    T = p[..., :, None] * q[..., None, :] if T is None else T
    changes: list[tuple[float, float]] = []
    k = 0
    while k < steps.max_iter:
        before, cost = T, linear_cost(M, C1, C2, T, alpha, loss_fun)
        if free_columns:
            T = _free_step(cost, T, p, steps.epsilon)
        else:
            start = np.maximum(T, SMALLEST)
            done = solve(cost, p=p, q=q, reg=steps.epsilon, reference=start, init=start, tol=1e-10, on_fail="ignore")
            T = done.plan
        k += 1
        if (k - 1) % steps.every == 0:
            change = float(np.linalg.norm(T - before))
            changes.append((float(k), change))
            if steps.verbose:
                sys.stderr.write(f"{k - 1:5d}  change {change:.3e}\n")
            if change <= steps.tol:
                break
    linear = 0.0 if M is None else (1 - alpha) * (M * T).sum((-2, -1))
    quad: Any
    if T.ndim == 2:
        quad = alpha * energy(C1, C2, T, loss_fun)
    else:
        quad = alpha * np.array([energy(a, b, t, loss_fun) for a, b, t in zip(C1, C2, T, strict=True)])
    return Proximal(T, linear, quad, np.array(changes).reshape(-1, 2), k)


def _free_step(cost: np.ndarray, T: np.ndarray, p: np.ndarray, epsilon: float) -> np.ndarray:
    """The linear problem with free columns has a closed form: each row is a softmax."""
    with np.errstate(divide="ignore"):  # log 0: an entry that is 0 stays 0
        L = np.log(T) - cost / epsilon
    K = np.exp(L - L.max(-1, keepdims=True))
    return np.asarray(K * (p / K.sum(-1))[..., None])
