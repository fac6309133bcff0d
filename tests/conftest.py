"""Fixtures of all tests. `oracle.py` beside this file holds the independent references."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest


def pytest_configure(config):
    # an unexpected warning is a defect: tests that expect one say so
    config.addinivalue_line("filterwarnings", "error")
    # the environment's own affairs: folders without write access for Numba's cache, old pandas and matplotlib on new NumPy
    config.addinivalue_line("filterwarnings", "ignore::numba.core.errors.NumbaWarning")
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning")
    config.addinivalue_line("filterwarnings", "ignore::PendingDeprecationWarning")


def pytest_report_collectionfinish(items):
    """What the CUDA kernels of this run are tested on."""
    emulated, on_device = (sum(x.get_closest_marker(name) is not None for x in items) for name in ("emulated", "gpu"))
    device = "none"
    if importlib.util.find_spec("cupy") is not None:
        import cupy

        if cupy.cuda.is_available():
            device = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    if emulated or on_device:
        return f"device: {device}; {emulated} kernel tests emulated on the CPU, {on_device if device != 'none' else 0} on a GPU"
    return []


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240917)


@pytest.fixture(params=("numpy", "numba"))
def backend(request) -> str:
    """Both backends, one after the other."""
    return request.param


@pytest.fixture
def sequences():
    """Maker of the project's model problem: two sequences of n frames, 8 steps, one pair of steps swapped, 25 % background."""

    def make(n: int, seed: int = 0, dim: int = 16, noise: float = 0.4) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        steps = rng.normal(size=(8, dim))
        orders = np.arange(8), np.array([0, 1, 2, 4, 3, 5, 6, 7])
        out = {}
        for name, order in zip("XY", orders, strict=True):
            Z = steps[order[np.arange(n) * 8 // n]] + noise * rng.normal(size=(n, dim))
            background = rng.permutation(n)[: n // 4]
            Z[background] = rng.normal(size=(len(background), dim))
            out[name] = Z / np.linalg.norm(Z, axis=1, keepdims=True)
        lag = np.abs(np.subtract.outer(np.arange(n), np.arange(n))) / n
        return out | {"M": 1 - out["X"] @ out["Y"].T, "C1": lag, "C2": lag.copy(), "p": np.full(n, 1 / n), "q": np.full(n, 1 / n)}

    return make
