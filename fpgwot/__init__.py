"""Fused partial Gromov-Wasserstein optimal transport: `solve`, `solve_batch`, `align`, `audit`.

Importing the package loads NumPy only; kernels, POT and plotting are loaded when they are first needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .api import Audit, align, audit, solve, solve_batch
    from .result import ConvergenceError, ConvergenceWarning, Residuals, Result, Status

__all__ = [
    "Audit", "ConvergenceError", "ConvergenceWarning", "Residuals", "Result", "Status", "__version__", "align", "audit", "solve",
    "solve_batch",
]  # fmt: skip

_HOME = {name: "result" if name[0].isupper() and name != "Audit" else "api" for name in __all__ if name != "__version__"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
