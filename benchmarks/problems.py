"""Problems that the benchmarks share. Every one is made from a seed or from recordings in the repository."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from fpgwot.datasets import STATISTICS, make_procedures

MOCAP = Path(__file__).parents[1] / "examples" / "data" / "mocap6" / "dataset.npz"
WINDOW = 11  # frames of mocap6 that one feature vector describes, about one second
ALPHA = 0.3


@dataclass(frozen=True, eq=False)
class Problem:
    """One problem in the letters of `fpgwot.solve`; `loss` is that of the structures, `labels` the steps of the frames."""

    name: str
    M: np.ndarray | None
    C1: np.ndarray | None
    C2: np.ndarray | None
    p: np.ndarray
    q: np.ndarray
    alpha: float | None = None
    m: float | None = None
    tau: Any = None
    reg: float = 0.0
    reference: Any = None
    loss: str = "square"
    labels: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.p), len(self.q)

    @property
    def kind(self) -> str:
        """ "linear", "gw" or "fgw", by what is given."""
        return "linear" if self.C1 is None else "gw" if self.M is None else "fgw"

    @property
    def marginals(self) -> str:
        return "partial" if self.m is not None else "balanced" if self.tau is None else "kl"

    def but(self, **changes: Any) -> Problem:
        return replace(self, **changes)

    def linear(self) -> Problem:
        """The same without structures."""
        return replace(self, C1=None, C2=None, alpha=None)

    def structural(self) -> Problem:
        """The same without features."""
        return replace(self, M=None, alpha=None)

    def normalized(self) -> Problem:
        """Costs divided by their means at the product plan, as `normalize="mean"` does: <M, p q'> = 1 and E(p q') = 1."""
        M, C1, C2 = self.M, self.C1, self.C2
        if M is not None:
            M = M / float(self.p @ np.abs(M) @ self.q)
        if C1 is not None and C2 is not None:
            p, q = self.p, self.q
            E = p @ C1**2 @ p + q @ C2**2 @ q - 2 * (p @ C1 @ p) * (q @ C2 @ q)
            C1, C2 = C1 / np.sqrt(E), C2 / np.sqrt(E)
        return replace(self, M=M, C1=C1, C2=C2)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of `solve` and of `audit` beside the arrays."""
        common = {"alpha": self.alpha, "m": self.m, "tau": self.tau, "reg": self.reg}
        return common | {"reference": self.reference, "loss": self.loss}


def lag(n: int) -> np.ndarray:
    """|i-k|/n as a dense array."""
    return np.abs(np.subtract.outer(np.arange(n), np.arange(n))) / n


def _problem(name: str, M: np.ndarray, C1: np.ndarray, C2: np.ndarray, **more: Any) -> Problem:
    n, k = M.shape
    return Problem(name, M, C1, C2, np.full(n, 1 / n), np.full(k, 1 / k), ALPHA, **more)


def problem_t(n: int, seed: int = 0, dim: int = 64, steps: int = 8, background: float = 0.25, noise: float = 0.5) -> Problem:
    """Problem T: two sequences of n frames of one procedure.

    Frames are unit features around a prototype for each of `steps` steps; the second sequence swaps one pair of neighbouring
    steps; a quarter of the frames is background (label 0). M = 1 - cosine, C1 = C2 = |i-k|/n as dense arrays.
    """
    rng = np.random.default_rng(seed)
    prototypes = rng.standard_normal((steps, dim))
    order = np.arange(steps)
    swapped = order.copy()
    swapped[[steps // 2 - 1, steps // 2]] = swapped[[steps // 2, steps // 2 - 1]]

    def sequence(order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        label = np.repeat(order, -(-n // steps))[:n]
        X = prototypes[label] + noise * rng.standard_normal((n, dim))
        private = rng.random(n) < background
        X[private] = rng.standard_normal((int(private.sum()), dim))
        return X / np.linalg.norm(X, axis=1, keepdims=True), np.where(private, 0, label + 1)

    (X, a), (Y, b) = sequence(order), sequence(swapped)
    return _problem(f"T n {n} seed {seed}", 1 - X @ Y.T, lag(n), lag(n), labels=(a, b))


def structure_problem(n: int) -> Problem:
    """Pure GW: |i-k|/n against |t_j-t_l| with t = (j/n)^1.5, the second sequence slow at first.

    T's own two structures are equal and symmetric in time. From the product plan every solver then sits on a saddle, the mean of
    the diagonal and the antidiagonal, until rounding lets it fall off: times would be noise.
    """
    t = (np.arange(n) / n) ** 1.5
    return problem_t(n).structural().but(name=f"warped n {n}", C2=np.abs(t[:, None] - t[None]))


def random_problem(n: int, seed: int = 0) -> Problem:
    """No structure anywhere: uniform M, symmetric uniform C1 and C2, all in [0, 1). The structures are indefinite."""
    rng = np.random.default_rng(10_000 + seed)
    C1, C2 = (np.triu(rng.random((n, n)), 1) for _ in range(2))
    return _problem(f"random n {n} seed {seed}", rng.random((n, n)), C1 + C1.T, C2 + C2.T)


def graph_problem(n: int, seed: int = 0, degree: float = 8.0, swaps: float = 0.05) -> Problem:
    """A random graph and a relabelled copy with a few edges changed; hop-like structure 0, 1 or 2, degree as the feature."""
    rng = np.random.default_rng(20_000 + seed)
    A = np.triu(rng.random((n, n)) < degree / n, 1)
    B = A ^ np.triu(rng.random((n, n)) < swaps * degree / n, 1)
    order = rng.permutation(n)
    A, B = A | A.T, (B | B.T)[np.ix_(order, order)]
    a, b = A.sum(1), B.sum(1)
    C1, C2 = (np.where(G, 1.0, 2.0) * (1 - np.eye(n)) / 2 for G in (A, B))
    return _problem(f"graph n {n} seed {seed}", np.abs(a[:, None] - b[None]) / degree, C1, C2)


def mocap_routines() -> list[tuple[np.ndarray, np.ndarray]]:
    """Six exercise routines: (features (n, 24), exercise of each frame). Mean and spread of joint angles over one second."""
    with np.load(MOCAP, allow_pickle=False) as data:
        X, z, bounds = data["X"], data["TrueZ"], data["doc_range"]
    X = (X - X.mean(0)) / X.std(0)
    pad = ((WINDOW // 2, WINDOW // 2), (0, 0))
    parts = []
    for start, stop in pairwise(bounds):
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(X[start:stop], pad, mode="edge"), WINDOW, axis=0)
        parts.append(np.hstack([windows.mean(-1), windows.std(-1)]))
    everything = np.vstack(parts)
    scaled = (everything - everything.mean(0)) / everything.std(0)
    return [(scaled[a:b], z[a:b]) for a, b in pairwise(bounds)]


def mocap_problem(i: int, j: int) -> Problem:
    """Routines i and j of mocap6: M = 1 - cosine, C1, C2 = |i-k|/n."""
    routines = mocap_routines()
    (X, a), (Y, b) = routines[i], routines[j]
    X, Y = (Z / np.linalg.norm(Z, axis=1, keepdims=True) for Z in (X, Y))
    return _problem(f"mocap6 {i}-{j}", 1 - X @ Y.T, lag(len(a)), lag(len(b)), labels=(a, b))


def simulated_problem(length: int, seed: int = 0, statistics: str = "kitchen") -> Problem:
    """Two recordings of `fpgwot.datasets.make_procedures`: Euclidean M, C1, C2 = |i-k|/n."""
    data = make_procedures(2, length=length, random_state=seed, **dict(STATISTICS[statistics]))
    X, Y = data.sequences
    M = np.sqrt(np.maximum((X**2).sum(1)[:, None] + (Y**2).sum(1) - 2 * X @ Y.T, 0))
    M /= M.mean()
    labels = (data.labels[0], data.labels[1])
    return _problem(f"simulated {statistics} n {length} seed {seed}", M, lag(len(X)), lag(len(Y)), labels=labels)


def worm_problem(file: Path, i: int, j: int) -> Problem:
    """Connectomes i and j of the Witvliet series (a file of the caller's; MIT licence, not in the repository).

    Structure: symmetrised log synapse counts over the largest; M: Euclidean distance of the log numbers of synapses to and from
    each cell type, over its mean; labels: the neurons' names.
    """
    with np.load(file, allow_pickle=False) as data:
        names, kind, counts, present = data["names"], data["cell_type"], data["chemical"].astype(float), data["present"]
    kinds = np.unique(kind)
    member = (kind[:, None] == kinds[None]).astype(float)

    def worm(k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        A, on = counts[k], present[k]
        features = np.log1p(np.hstack([A @ member, A.T @ member]))[on]
        C = np.log1p(A + A.T)[np.ix_(on, on)]
        return features, C / C.max(), names[on]

    (X, C1, a), (Y, C2, b) = worm(i), worm(j)
    M = np.sqrt(np.maximum((X**2).sum(1)[:, None] + (Y**2).sum(1) - 2 * X @ Y.T, 0))
    return _problem(f"C. elegans {i}-{j}", M / M.mean(), C1, C2, labels=(a, b))


def segmentation_problem(n: int, k: int, seed: int = 0, radius: float = 0.04, eps: float = 0.07) -> Problem:
    """ASOT's problem on a simulated n x k cost, balanced: product loss, band Cx (1/r within r n), Cy = 1 - I.

    (1-a) <C,T> + a/2 <Cx T Cy, T> + eps sum T (log T - 1) with a = .3, in the scaling of `fpgwot.presets.asot`;
    the entropy is KL(T || p q') here, which differs by a constant where both marginals are hard, and keeps F of order one.
    """
    rng = np.random.default_rng(30_000 + seed)
    prototypes = rng.standard_normal((k, 64))
    steps = np.minimum(np.arange(n) * k // n, k - 1)
    X = prototypes[steps] + 0.5 * rng.standard_normal((n, 64))
    X, Y = (Z / np.linalg.norm(Z, axis=1, keepdims=True) for Z in (X, prototypes))
    M = 1 - X @ Y.T + 0.15 * np.abs(np.arange(n)[:, None] / n - np.arange(k)[None] / k)
    steps_apart = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    C1 = np.where((steps_apart >= 1) & (steps_apart <= int(n * radius)), 1 / radius, 0.0)
    a = 0.3
    scale = 1 - a / 2
    flat = _problem(f"ASOT {n} x {k} seed {seed}", M, C1, 1 - np.eye(k))
    return flat.but(alpha=a / (2 - a), loss="product", reg=eps / scale)
