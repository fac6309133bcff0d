"""Fused partial Gromov-Wasserstein optimal transport: `solve`, `solve_batch`, `align`, `audit`, `accelerate`.

Importing the package loads NumPy only; kernels, POT and plotting are loaded when they are first needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from ._accelerate import accelerate
    from ._audit import Audit, audit
    from ._batch import solve_batch
    from ._pairwise import Pairwise, pairwise
    from ._warmup import warmup
    from .api import align, solve
    from .result import ConvergenceError, ConvergenceWarning, Residuals, Result, Status
    from .structure import Dense, LaplaceKernel, LowRank, PointCloud, PowerDistance, Toeplitz, as_structure

_HOME = {
    "solve": "api",
    "solve_batch": "_batch",
    "align": "api",
    "accelerate": "_accelerate",
    "audit": "_audit",
    "pairwise": "_pairwise",
    "warmup": "_warmup",
    "Pairwise": "_pairwise",
    "Audit": "_audit",
    "Result": "result",
    "Residuals": "result",
    "Status": "result",
    "ConvergenceWarning": "result",
    "ConvergenceError": "result",
    "Dense": "structure",
    "Toeplitz": "structure",
    "PowerDistance": "structure",
    "LaplaceKernel": "structure",
    "LowRank": "structure",
    "PointCloud": "structure",
    "as_structure": "structure",
}
__all__ = ["Audit", "ConvergenceError", "ConvergenceWarning", "Residuals", "Result", "Status", "__version__"]
__all__ += ["Pairwise", "accelerate", "align", "audit", "pairwise", "solve", "solve_batch", "warmup"]
__all__ += ["Dense", "LaplaceKernel", "LowRank", "PointCloud", "PowerDistance", "Toeplitz", "as_structure"]


def __getattr__(name: str) -> Any:
    import importlib

    if name == "gromov":  # the drop-in for ot.gromov, loaded when it is first named
        return importlib.import_module(f".{name}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
