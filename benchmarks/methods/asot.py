"""The iteration that ASOT publishes, written in torch (float32) from its description; batched.

min (1-a) <C,T> + a/2 <Cx T Cy, T> + eps sum T (log T - 1), T1 = p and T'1 = q, by T <- T exp(-eta grad) and one Sinkhorn
rescaling of rows, then columns, a step; eta = 4 / max grad at the start; 25 steps from p q'. Cx is the band 1/r within a share r
of the frames (a convolution: running sums here), Cy = 1 - I (a row sum), so a step is O(n k).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..problems import Problem
from . import Method

STEPS = 25


def iterate(
    M: torch.Tensor, p: torch.Tensor, q: torch.Tensor, width: int, weight: float, alpha: float, eps: float, steps: int = STEPS
) -> torch.Tensor:
    """Plans (B, n, k) of costs (B, n, k), in the letters of the module; `alpha` is ASOT's own a, Cx is `weight` on its band."""
    T = p[:, :, None] * q[:, None, :]
    log_T = torch.log(T)
    n, eta = M.shape[1], torch.zeros(())
    low = torch.clamp(torch.arange(n) - width, min=0)
    high = torch.clamp(torch.arange(n) + width + 1, max=n)
    for step in range(steps):
        sums = torch.nn.functional.pad(torch.cumsum(T, 1), (0, 0, 1, 0))
        banded = weight * (sums[:, high] - sums[:, low] - T)
        coupled = banded.sum(2, keepdim=True) - banded
        grad = (1 - alpha) * M + alpha * coupled + eps * log_T
        if step == 0:
            eta = 4 / grad.amax((1, 2), keepdim=True)
        log_T = log_T - eta * grad
        log_T = log_T - torch.logsumexp(log_T, 2, keepdim=True) + torch.log(p)[:, :, None]
        log_T = log_T - torch.logsumexp(log_T, 1, keepdim=True) + torch.log(q)[:, None, :]
        T = torch.exp(log_T)
    return T


def solver(problems: list[Problem], steps: int = STEPS) -> Callable[[], np.ndarray]:
    """The call for problems of one size that differ in M, p, q only; the plans have a batch axis."""
    M, p, q = (torch.tensor(np.stack([getattr(z, k) for z in problems]), dtype=torch.float32) for k in ("M", "p", "q"))
    z = problems[0]
    scale = 1 / (1 + float(z.alpha or 0))  # from our alpha to ASOT's a: alpha = a/(2-a), so 1 - a/2 = 1/(1 + alpha)
    width, weight = band(z)
    alpha, eps = 2 * float(z.alpha or 0) * scale, z.reg * scale
    return lambda: iterate(M, p, q, width, weight, alpha, eps, steps).numpy()


def band(z: Problem) -> tuple[int, float]:
    """Width and weight of the band in C1; raises where C1, C2 are not ASOT's."""
    if z.C1 is None or z.C2 is None:
        raise ValueError("ASOT's problem has structures")
    row = z.C1[0]
    width, weight = int(np.count_nonzero(row)), float(row[1])
    n = len(row)
    apart = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    same = np.allclose(z.C1, np.where((apart >= 1) & (apart <= width), weight, 0)) and np.allclose(z.C2, 1 - np.eye(len(z.C2)))
    if not same or z.loss != "product":
        raise ValueError("C1 must be a band of one weight, C2 = 1 - I, loss 'product'")
    return width, weight


def methods() -> tuple[list[Method], dict[str, str]]:
    """Its 25 steps, and as many as it takes."""

    def solves(z: Problem) -> bool:
        return z.loss == "product" and z.m is None and z.tau is None and z.reg > 0 and z.reference is None

    def single(steps: int) -> Callable[[Problem], Callable[[], np.ndarray]]:
        def prepare(z: Problem) -> Callable[[], np.ndarray]:
            run = solver([z], steps)
            return lambda: run()[0]

        return prepare

    return [
        Method("ASOT iteration", "torch", solves, single(STEPS), "float32, 25 steps as published, no test of convergence"),
        Method("ASOT iteration x 20", "torch", solves, single(20 * STEPS), "float32, 500 steps", 2048, slow=True),
    ], {}
