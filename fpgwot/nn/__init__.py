"""Differentiable transport in torch: `solve`, `solve_batch`, `FPGWLoss`, `plan_cross_entropy`.

Values have gradients in every input by the envelope theorem, plans by implicit differentiation; `docs/training.md` says which
of the two a loss should use.
"""

from __future__ import annotations

from ._loss import FPGWLoss, plan_cross_entropy
from ._solve import Transport, solve, solve_batch
from ._structure import Temporal, laplace_kernel, power_distance, toeplitz

__all__ = ["FPGWLoss", "Temporal", "Transport", "laplace_kernel", "plan_cross_entropy", "power_distance", "solve"]
__all__ += ["solve_batch", "toeplitz"]
