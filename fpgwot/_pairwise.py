"""All pairs of a collection: batches of pairs in lockstep, spread over workers by joblib."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import _dispatch
from ._batch import solve_batch
from .api import solve
from .result import ConvergenceError, ConvergenceWarning, Result
from .structure import LaplaceKernel, PowerDistance

PAIRS, ENTRIES = 32, 1 << 20  # most pairs of a batch, and most entries of its padded plans
KINDS = ("features", "structures")


@dataclass(frozen=True)
class Pairwise:
    """What `pairwise` returns; arrays have one entry for each pair that was solved.

    Attributes
    ----------
    pairs : array (K, 2)
        Indices (i, j) of the items.
    value, mass : arrays (K,)
    converged : boolean array (K,)
    n_items : int
    """

    pairs: np.ndarray
    value: np.ndarray = field(repr=False)
    mass: np.ndarray = field(repr=False)
    converged: np.ndarray = field(repr=False)
    n_items: int
    _plans: list[np.ndarray] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def matrix(self) -> np.ndarray:
        """Values as a symmetric matrix (n_items, n_items), as F is the same from either side; NaN where no pair was solved."""
        out = np.full((self.n_items, self.n_items), np.nan)
        i, j = self.pairs.T
        out[j, i] = self.value
        out[i, j] = self.value
        return out

    def plan(self, i: int, j: int) -> np.ndarray:
        """The plan from item i to item j, (n_i, n_j); `pairwise` must have been asked for `plans`."""
        if self._plans is None:
            raise LookupError("the plans were not kept: pass plans=True to pairwise")
        for a, b, flip in ((i, j, False), (j, i, True)):
            where = np.flatnonzero((self.pairs == (a, b)).all(1))
            if len(where):
                plan = self._plans[int(where[0])]
                return plan.T if flip else plan
        raise LookupError(f"the pair ({i}, {j}) was not solved")

    def to_pandas(self) -> Any:
        """One row for each pair: i, j, value, mass, converged (needs pandas)."""
        import pandas as pd

        columns = {"i": self.pairs[:, 0], "j": self.pairs[:, 1], "value": self.value, "mass": self.mass}
        return pd.DataFrame(columns | {"converged": self.converged})


def pairwise(
    items: Sequence[Any],
    *,
    pairs: Any = None,
    kind: str = "features",
    metric: str = "cosine",
    structure: str | None = None,
    scale: float = 0.05,
    alpha: float | None = None,
    loss: str = "square",
    m: float | None = None,
    tau: Any = None,
    tv: float | None = None,
    sink: float | None = None,
    reg: float = 0.0,
    reg_rel: float | None = None,
    normalize: str | None = None,
    init: str | None = None,
    n_init: int = 1,
    random_state: int | None = None,
    tol: float | None = None,
    max_iter: int | None = None,
    backend: str = "auto",
    plans: bool = False,
    n_jobs: int | None = None,
    progress: bool = False,
    on_fail: str = "warn",
) -> Pairwise:
    """Solve all pairs of a collection, in batches and on as many workers as joblib is told to use.

    Parameters
    ----------
    items : sequence of arrays or dicts
        Feature sequences (n_i, d), or structure matrices (n_i, n_i) with kind="structures". A dict may hold "X" (features),
        "C" (structure matrix) and "p" (weights), the same keys in each.
    pairs : sequence of pairs of indices, optional
        All i < j by default.
    kind : "features", "structures"
        What bare arrays are.
    metric : "cosine" (1 - cos), "sqeuclidean", "euclidean"
        Feature cost, where items have features.
    structure : None, "laplace", "linear"
        Temporal structure of items without a matrix of their own, as in `align`; `scale` is the width of "laplace".
    alpha, loss, m, tau, tv, sink, reg, reg_rel, normalize, init, n_init, tol, max_iter, backend
        As in `solve`.
    random_state : int, optional
        Seed of random starts; every batch gets a stream of its own, whoever solves it.
    plans : bool
        Keep the plans: n_i n_j numbers for each pair.
    n_jobs : int, optional
        Workers, -1 for all cores. None: what a surrounding `joblib.parallel_config` says, else 1. With
        `parallel_config(backend="dask")` the batches run on the cluster of the current Dask client.
    progress : bool
        A bar of pairs on stderr (needs tqdm).
    on_fail : "warn", "raise", "ignore"
        What to do, at the end, where certificates do not hold.

    Returns
    -------
    Pairwise

    Raises
    ------
    ValueError, TypeError
        As `solve`, and for items that do not go together.

    Notes
    -----
    Batches depend on the sizes of the items only, so results do not depend on the number of workers. Each worker uses one thread
    for its kernels where there are several. An interrupt ends the workers and comes through as KeyboardInterrupt.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> sequences = [rng.standard_normal((n, 4)) for n in (12, 9, 10)]
    >>> res = pairwise(sequences, structure="laplace", alpha=0.3, m=0.8, reg_rel=0.05, normalize="mean", plans=True)
    >>> res.pairs.tolist(), res.matrix.shape, res.plan(2, 0).shape
    ([[0, 1], [0, 2], [1, 2]], (3, 3), (10, 12))
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; choose one of {KINDS}")
    if metric not in ("cosine", "sqeuclidean", "euclidean"):
        raise ValueError(f"unknown metric {metric!r}; choose 'cosine', 'sqeuclidean' or 'euclidean'")
    if structure not in ("laplace", "linear", None):
        raise ValueError(f"unknown structure {structure!r}; choose 'laplace', 'linear' or None")
    if on_fail not in ("warn", "raise", "ignore"):
        raise ValueError(f"unknown on_fail {on_fail!r}; choose 'warn', 'raise' or 'ignore'")
    known = [_item(k, x, kind, structure, scale) for k, x in enumerate(items)]
    for k, x in enumerate(known):
        if set(x) != set(known[0]):
            raise ValueError(f"item {k} has {sorted(x)}, item 0 has {sorted(known[0])}: all items need the same")
    index = _pairs(pairs, len(known))
    options = {
        "alpha": alpha, "loss": loss, "m": m, "tau": tau, "tv": tv, "sink": sink, "reg": reg, "reg_rel": reg_rel, "init": init,
        "normalize": normalize, "n_init": n_init, "tol": tol, "max_iter": max_iter, "backend": backend, "on_fail": "ignore",
    }  # fmt: skip
    batches = _batches(index, [_length(x) for x in known])
    seeds = np.random.SeedSequence(random_state).generate_state(max(len(batches), 1))
    calls = []
    for batch, seed in zip(batches, seeds, strict=True) if batches else ():
        used = sorted({int(k) for k in index[batch].ravel()})
        own = [(used.index(i), used.index(j)) for i, j in index[batch]]
        calls.append(([known[k] for k in used], own, metric, options | {"random_state": int(seed)}, plans))
    value, mass, converged = np.empty(len(index)), np.empty(len(index)), np.empty(len(index), bool)
    kept: list[Any] = [None] * len(index)
    with _bar(len(index), progress) as advance:
        for batch, found in zip(batches, _spread(calls, n_jobs), strict=True):
            for k, one in zip(batch, found, strict=True):
                value[k], mass[k], converged[k], kept[k] = one
            advance(len(batch))
    _complain(converged, index, on_fail)
    return Pairwise(index, value, mass, converged, len(known), kept if plans else None)


# ------------------------------------------------------------------------------------------------------------------- items


def _item(k: int, x: Any, kind: str, structure: str | None, scale: float) -> dict[str, Any]:
    """Features "X", structure "C" (an array, or an operator of time) and weights "p" of an item, what there is of them."""
    given = dict(x) if isinstance(x, dict) else {"X" if kind == "features" else "C": x}
    if set(given) - {"X", "C", "p"} or not given.keys() & {"X", "C"}:
        raise TypeError(
            f"item {k} must be an array, or a dict with X (features), C (structure), p (weights); got {sorted(given)}"
        )
    _, _, take, _ = _dispatch.resolve(list(given.values()), "numba")
    out: dict[str, Any] = {name: np.asarray(take(a)) for name, a in given.items() if a is not None}
    for name, a in out.items():
        if a.ndim != (1 if name == "p" else 2) or a.dtype.kind not in "fiub" or not np.isfinite(a).all():
            raise ValueError(
                f"{name} of item {k} must be a finite real {'vector' if name == 'p' else 'matrix'}, got shape {a.shape}"
            )
    if structure is not None:
        if "C" in out:
            raise ValueError("structure= is for items without a matrix C of their own: pass one of them")
        n = len(out["X"])
        out["C"] = PowerDistance(n, scale=1 / n) if structure == "linear" else LaplaceKernel(n, scale * n, None, -1.0, 1.0)
    if len({_size(a) for a in out.values()}) > 1:
        raise ValueError(f"sizes of item {k} differ: { ({name: _size(a) for name, a in out.items()}) }")
    return out


def _size(a: Any) -> int:
    return int(a.shape[-2] if a.ndim > 1 else len(a)) if isinstance(a, np.ndarray) else int(a.shape[1])


def _length(x: dict[str, Any]) -> int:
    return _size(next(iter(x.values())))


def _pairs(pairs: Any, n: int) -> np.ndarray:
    if pairs is None:
        return np.stack(np.triu_indices(n, 1), axis=1)
    index = np.asarray(pairs)
    if index.size == 0:
        return np.zeros((0, 2), np.int64)
    if index.ndim != 2 or index.shape[1] != 2 or index.dtype.kind not in "iu":
        raise ValueError(f"pairs must be pairs of indices, (K, 2) integers; got shape {index.shape} of {index.dtype}")
    if index.min() < 0 or index.max() >= n:
        raise ValueError(f"pairs must lie in 0, ..., {n - 1}; got {index.min()} to {index.max()}")
    return index.astype(np.int64)


def _batches(index: np.ndarray, lengths: list[int]) -> list[np.ndarray]:
    """Pairs of like size together, the largest first, so that the last batches to run are short."""
    size = np.asarray(lengths, dtype=np.int64)[index].reshape(-1, 2)
    order = np.lexsort((np.arange(len(index)), size[:, 1], size[:, 0]))[::-1]
    order = order[np.argsort(-size[order].prod(1), kind="stable")]
    out: list[np.ndarray] = []
    start = 0
    while start < len(order):
        stop = start + 1
        top = size[order[start]]
        while stop < len(order) and stop - start < PAIRS:
            top = np.maximum(top, size[order[stop]])
            if (stop + 1 - start) * top.prod() > ENTRIES:
                break
            stop += 1
        out.append(order[start:stop])
        start = stop
    return out


# ----------------------------------------------------------------------------------------------------------------- workers


def _solve_pairs(items: list[dict[str, Any]], pairs: list[tuple[int, int]], metric: str, options: Any, plans: bool) -> list[Any]:
    """What a worker does: one batch; only what was asked for travels back."""
    problems = [_problem(items[i], items[j], metric) for i, j in pairs]
    found: list[Result]
    if len(problems) == 1:  # operators stay operators
        found = [solve(**problems[0], **options)]
    else:
        dense = [{k: a if isinstance(a, np.ndarray) else a.to_dense()[0] for k, a in x.items()} for x in problems]
        found = solve_batch(dense, **options)
    return [(r.value, r.mass, r.converged, r.plan if plans else None) for r in found]


def _solve_alone(*call: Any) -> list[Any]:
    """The same on one thread, where other workers have the other cores."""
    with _dispatch.load_backend("numba").one_thread():
        return _solve_pairs(*call)


def _problem(a: dict[str, Any], b: dict[str, Any], metric: str) -> dict[str, Any]:
    out: dict[str, Any] = {"M": _cost(a["X"], b["X"], metric)} if "X" in a else {}
    if "C" in a:
        out |= {"C1": a["C"], "C2": b["C"]}
    if "p" in a:
        out |= {"p": a["p"], "q": b["p"]}
    return out


def _cost(X: np.ndarray, Y: np.ndarray, metric: str) -> np.ndarray:
    from scipy.spatial.distance import cdist

    if X.shape[1] != Y.shape[1]:
        raise ValueError(f"two items of a pair need the same features, got {X.shape[1]} and {Y.shape[1]} columns")
    if metric != "cosine":
        return np.asarray(cdist(X, Y, metric))
    X, Y = (Z / np.maximum(np.linalg.norm(Z, axis=1, keepdims=True), 1e-12) for Z in (X.astype(float), Y.astype(float)))
    return np.asarray(1 - X @ Y.T)


def _spread(calls: list[Any], n_jobs: int | None) -> Iterator[list[Any]]:
    """The results of the calls in their order, as they come."""
    try:
        import joblib
    except ImportError:
        if n_jobs not in (None, 1):
            raise ImportError("more than one worker needs joblib: pip install joblib, or leave n_jobs out") from None
        yield from (_solve_pairs(*call) for call in calls)
        return
    # n_jobs=None said aloud would hide what parallel_config says
    pool = joblib.Parallel(return_as="generator", **({} if n_jobs is None else {"n_jobs": n_jobs}))
    run = _solve_pairs if pool.n_jobs == 1 else _solve_alone
    results = pool(joblib.delayed(run)(*call) for call in calls)
    try:
        yield from results
    finally:  # an interrupt or an error: take back what has not begun
        results.close()


@contextlib.contextmanager
def _bar(total: int, progress: bool) -> Iterator[Any]:
    if not progress:
        yield lambda _: None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="pair") as bar:
        yield bar.update


def _complain(converged: np.ndarray, index: np.ndarray, on_fail: str) -> None:
    bad = np.flatnonzero(~converged)
    if on_fail == "ignore" or not len(bad):
        return
    i, j = index[bad[0]]
    text = f"{len(bad)} of {len(index)} pairs did not converge, the first is ({i}, {j}): raise reg, tol or max_iter"
    if on_fail == "raise":
        raise ConvergenceError(text)
    warnings.warn(text, ConvergenceWarning, stacklevel=3)
