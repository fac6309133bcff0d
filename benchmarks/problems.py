"""Problems that the benchmarks share; every one is made from a seed."""

from __future__ import annotations

import numpy as np


def problem_t(n: int, seed: int = 0, dim: int = 64, steps: int = 8, background: float = 0.25, noise: float = 0.5) -> tuple:
    """Problem T: two sequences of n frames of one procedure; returns M (n, n), C1, C2 (n, n).

    Frames are unit features around a prototype for each of `steps` steps; the second sequence swaps one pair of neighbouring
    steps; a quarter of the frames is background. M = 1 - cosine, C1 = C2 = |i-k|/n as dense arrays.
    """
    rng = np.random.default_rng(seed)
    prototypes = rng.standard_normal((steps, dim))
    order = np.arange(steps)
    swapped = order.copy()
    swapped[[steps // 2 - 1, steps // 2]] = swapped[[steps // 2, steps // 2 - 1]]

    def sequence(order: np.ndarray) -> np.ndarray:
        label = np.repeat(order, -(-n // steps))[:n]
        X = prototypes[label] + noise * rng.standard_normal((n, dim))
        private = rng.random(n) < background
        X[private] = rng.standard_normal((int(private.sum()), dim))
        return X / np.linalg.norm(X, axis=1, keepdims=True)

    X, Y = sequence(order), sequence(swapped)
    lag = np.abs(np.subtract.outer(np.arange(n), np.arange(n))) / n
    return 1 - X @ Y.T, lag, lag.copy()
