"""The caller's array kind picks the backend; arrays go in and out as what they came in as."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

BACKENDS = ("auto", "numba", "numpy", "cupy")
_MODULES = {"numba": "numba_cpu", "numpy": "numpy_ref"}


def array_kind(a: Any) -> str:
    """ "numpy", "torch" or "cupy", answered without importing anything."""
    root = type(a).__module__.partition(".")[0]
    return root if root in ("torch", "cupy") and root in sys.modules else "numpy"


def resolve(arrays: list[Any], backend: str) -> tuple[Any, str, Callable[[Any], Any], Callable[[Any], Any]]:
    """Backend module, device, a function that takes arrays in and one that hands arrays back."""
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; choose one of {BACKENDS}")
    kinds = {array_kind(a) for a in arrays if a is not None and not np.isscalar(a) and hasattr(a, "dtype")}
    if len(kinds) > 1:
        raise TypeError(f"arrays of different kinds in one call: {sorted(kinds)}; convert them to one")
    kind = kinds.pop() if kinds else "numpy"
    cuda = kind == "torch" and any(getattr(a, "is_cuda", False) for a in arrays)
    if backend == "cupy" or kind == "cupy" or cuda:
        raise NotImplementedError("the CuPy backend is planned, not done: pass NumPy arrays or torch CPU tensors")
    module = load_backend("numba" if backend == "auto" else backend)
    if kind == "torch":
        torch = sys.modules["torch"]
        return module, "cpu", _from_torch, lambda x: torch.from_numpy(np.ascontiguousarray(x))
    return module, "cpu", lambda x: x, lambda x: x


def load_backend(name: str) -> Any:
    """The module of a backend, imported when it is first needed."""
    return importlib.import_module(f"._backends.{_MODULES[name]}", __package__)


def _from_torch(x: Any) -> Any:
    return x.detach().numpy() if hasattr(x, "detach") else x
