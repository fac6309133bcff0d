r"""Key-steps of a task from embedded recordings: one clustering for all recordings, decoded along time, and put in order.

    cluster -> decode (nearest centre, Potts cut, or transport) -> order (`step_order`)

The Potts cut is exact. `alpha_expansion_cut` is the papers' approximation of it, for comparison with their numbers.

How many clusters: `cluster_count`. Where background is expected, clusters for it must come on top of those of the steps, twice
the number of steps in all; or frames without a partner are dropped first (`unmatched_share`), and K is the number of steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .step_order import Plans, by_value, checked_plans, step_times

DECODERS = ("nearest", "cut", "transport", "alpha_expansion")
ITERATIONS = 100  # of Lloyd's algorithm; it stops when no frame changes its cluster


@dataclass(frozen=True, eq=False)
class KeySteps:
    """Key-steps of the recordings of a task.

    Attributes
    ----------
    labels : list of int arrays, one a recording
        Cluster of each frame; -1 where the frame was dropped.
    centres : array (k, d)
    times : array (k,)
        Mean normalised time of each cluster, NaN where it is empty.
    order : list of int
        Clusters that are not empty, from first to last.
    """

    labels: list[np.ndarray] = field(repr=False)
    centres: np.ndarray = field(repr=False)
    times: np.ndarray
    order: list[int]


def cluster_count(steps: int, background: bool) -> int:
    """The rule for K: the expected number of steps, twice that where background is expected and not dropped first.

    A smaller K raises per-recording scores and lowers joint ones: the K = 7 of the papers is an optimum of the metric.
    """
    if steps < 1:
        raise ValueError(f"steps must be 1 or more, got {steps!r}")
    return 2 * steps if background else steps


def find_keysteps(
    sequences: Sequence[Any],
    k: int,
    *,
    decoder: str = "cut",
    weight: float = 0.5,
    unmatched: Sequence[Any] | None = None,
    drop: float = 0.0,
    n_init: int = 4,
    random_state: Any = None,
) -> KeySteps:
    """Cluster the frames of all recordings together, decode each recording along time, order the clusters.

    Parameters
    ----------
    sequences : sequence of arrays (n_i, d)
        Embedded frames.
    k : int
        Number of clusters; see `cluster_count`.
    decoder : "nearest", "cut" (`potts_cut`), "transport" (`decode_transport`) or "alpha_expansion" (`alpha_expansion_cut`)
    weight : float
        cut and alpha_expansion: price of a change of label, in units of the mean squared distance between frames and centres.
        .3 to 1; at 3 short steps vanish.
    unmatched : sequence of arrays (n_i,), optional
        Score of each frame, high where it has no partner: `unmatched_share`. Needed with drop.
    drop : float in [0, 1)
        Share of all frames, those of the highest score, to leave out of the clustering and to label -1.
    n_init, random_state
        As in `cluster`.

    Returns
    -------
    KeySteps

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.keysteps import find_keysteps
    >>> a, b = np.repeat([[0.0], [5.0]], [3, 2], axis=0), np.repeat([[0.1], [5.1]], [2, 4], axis=0)
    >>> found = find_keysteps([a, b], 2, random_state=0)
    >>> [[found.order.index(k) for k in x] for x in found.labels]
    [[0, 0, 0, 1, 1], [0, 0, 1, 1, 1, 1]]
    """
    if decoder not in DECODERS:
        raise ValueError(f"unknown decoder {decoder!r}; choose one of {DECODERS}")
    if not 0 <= drop < 1 or (drop > 0) != (unmatched is not None):
        raise ValueError(f"drop must be in [0, 1) and comes with unmatched, the score by which frames are dropped; got {drop!r}")
    X = _sequences(sequences)
    kept = [np.ones(len(x), bool) for x in X] if unmatched is None else _kept(X, unmatched, drop)
    centres = cluster([x[use] for x, use in zip(X, kept, strict=True) if use.any()], k, n_init=n_init, random_state=random_state)
    distances = [_squared_distances(x, centres) for x in X]
    scale = float(np.mean(np.concatenate([D[use] for D, use in zip(distances, kept, strict=True)])))
    labels = []
    for D, use in zip(distances, kept, strict=True):
        out, D = np.full(len(D), -1), D[use]
        if use.any():
            if decoder == "nearest":
                out[use] = D.argmin(1)
            elif decoder == "cut":
                out[use] = potts_cut(D, weight * scale)
            elif decoder == "alpha_expansion":
                out[use] = alpha_expansion_cut(D, weight * scale)
            else:
                out[use] = decode_transport(D)
        labels.append(out)
    times = step_times(labels, k)
    return KeySteps(labels, centres, times, by_value(times))


def cluster(sequences: Sequence[Any], k: int, *, n_init: int = 4, random_state: Any = None) -> np.ndarray:
    """Centres (k, d) of k-means on the frames of all recordings together, so that a cluster means the same in each of them.

    Lloyd's algorithm from k-means++ starts; the best of n_init. O(n k d) an iteration.

    Parameters
    ----------
    sequences : sequence of arrays (n_i, d)
    k : int
        At most the number of frames.
    n_init : int
    random_state : int or numpy Generator

    Examples
    --------
    >>> from fpgwot.keysteps import cluster
    >>> sorted(cluster([[[0.0], [0.2]], [[4.0], [4.2]]], 2, random_state=0).ravel().round(6).tolist())
    [0.1, 4.1]
    """
    X = np.concatenate(_sequences(sequences))
    if not 1 <= k <= len(X) or n_init < 1:
        raise ValueError(f"k must be from 1 to the number of frames, {len(X)}, and n_init 1 or more; got {k!r}, {n_init!r}")
    rng = np.random.default_rng(random_state)
    best, lowest = X[:k], np.inf
    for _ in range(n_init):
        centres = X[[int(rng.integers(len(X)))]]
        nearest = _squared_distances(X, centres)[:, 0]
        while len(centres) < k:
            # all frames at a centre already: any frame will do
            chance = nearest / nearest.sum() if nearest.sum() > 0 else None
            new = X[[int(rng.choice(len(X), p=chance))]]
            centres, nearest = np.concatenate((centres, new)), np.minimum(nearest, _squared_distances(X, new)[:, 0])
        labels = np.full(len(X), -1)
        for _ in range(ITERATIONS):
            D = _squared_distances(X, centres)
            before, labels = labels, D.argmin(1)
            if (before == labels).all():
                break
            count = np.bincount(labels, minlength=k)
            sums = np.zeros_like(centres)
            np.add.at(sums, labels, X)
            centres = np.where(count[:, None] > 0, sums / np.maximum(count, 1)[:, None], centres)
        cost = float(_squared_distances(X, centres).min(1).sum())
        if cost < lowest:
            best, lowest = centres, cost
    return best


def potts_cut(cost: Any, weight: float) -> np.ndarray:
    r"""Labels of least energy along a chain, exactly.

    .. math:: \min_l\ \sum_t cost_{t, l_t} + weight \sum_t [l_t \ne l_{t+1}]

    Dynamic programming (Viterbi), O(n k): a chain needs no graph cut. `alpha_expansion_cut`, which the papers use on the same
    energy, finds this minimum often, not always.

    Parameters
    ----------
    cost : array (n, k)
        Unary cost of each label at each frame.
    weight : float
        Price of a change of label, 0 or more, in the units of cost.

    Returns
    -------
    int array (n,)
        Of several minima, one with few changes.

    Examples
    --------
    >>> from fpgwot.keysteps import potts_cut
    >>> potts_cut([[0, 2], [2, 1], [0, 2], [3, 0]], weight=1.5)
    array([0, 0, 0, 1])
    """
    D = _potts_terms(cost, weight)
    n, k = D.shape
    own, came = np.arange(k), np.zeros((n, k), int)
    V = D[0].copy()
    for t in range(1, n):
        cheapest = int(V.argmin())
        change = V[cheapest] + weight
        came[t] = np.where(change < V, cheapest, own)
        V = np.minimum(V, change) + D[t]
    labels = np.empty(n, int)
    labels[-1] = V.argmin()
    for t in range(n - 1, 0, -1):
        labels[t - 1] = came[t, labels[t]]
    return labels


def alpha_expansion_cut(cost: Any, weight: float) -> np.ndarray:
    r"""The same energy as `potts_cut`, lowered by graph cuts: the decoder of published procedure learning, for comparison.

    .. math:: E(l) = \sum_t cost_{t, l_t} + weight \sum_t [l_t \ne l_{t+1}]

    From the cheapest label of each frame on, one label after the other is offered to all frames at once, and the frames that take
    it are a minimal cut; until no label lowers E. With the minimum l* that `potts_cut` finds, the result is between E(l*) and
    E(l*) + weight times the changes of l*. Use `potts_cut` unless numbers of the papers are to be repeated: it is exact and needs
    no library.

    Needs PyMaxflow (``pip install fpgwot[graphcut]``), whose licence is the GPL.

    Parameters
    ----------
    cost : array (n, k)
        Unary cost of each label at each frame.
    weight : float
        Price of a change of label, 0 or more, in the units of cost.

    Returns
    -------
    int array (n,)
    """
    D = _potts_terms(cost, weight)
    try:
        from maxflow import fastmin
    except ImportError as missing:
        raise ImportError(
            "alpha-expansion needs PyMaxflow: pip install fpgwot[graphcut]; potts_cut minimises the same energy without it"
        ) from missing
    D = D - D.min(1, keepdims=True)  # a constant per frame changes no labelling, and capacities are small and positive
    prices = weight * (1.0 - np.eye(D.shape[1]))
    return np.asarray(fastmin.aexpansion_grid(D, prices, labels=D.argmin(1)), dtype=int)


def decode_transport(cost: Any, *, alpha: float = 0.3, reg: float = 0.07, radius: float = 0.06, tau: float = 0.1) -> np.ndarray:
    r"""Cluster of each frame from an optimal transport of frames to clusters (ASOT's decoder, `presets.asot`).

    .. math:: \min_{T1=1/n}\ (1-\alpha) \langle D, T \rangle + \tfrac{\alpha}{2} \langle C_x T C_y, T \rangle
              + reg\, KL(T \| 1) + \tau\, KL(T'1 \| 1/k)

    D is the cost divided by its mean, C_x links neighbours in time, C_y different clusters: neighbours want the same cluster.

    Parameters
    ----------
    cost : array (n, k)
    alpha, reg : float
    radius : float
        Reach of C_x as a share of the recording; at least one frame.
    tau : float
        Price of clusters of unequal size.

    Returns
    -------
    int array (n,)

    Examples
    --------
    >>> from fpgwot.keysteps import decode_transport
    >>> decode_transport([[0, 2], [0, 2], [2, 0], [2, 0]])
    array([0, 0, 1, 1])
    """
    from .api import solve
    from .presets import asot
    from .temporal import band_structure, different_structure

    D = np.asarray(cost, dtype=float)
    if D.ndim != 2 or 0 in D.shape or not np.isfinite(D).all():
        raise ValueError(f"cost must be a finite array (frames, clusters), got shape {D.shape}")
    n, k = D.shape
    if n == 1 or k == 1:
        return D.argmin(1)
    mean = np.abs(D).mean()
    band = band_structure(n, min(1.0, max(radius, 1 / n)))
    band = band * n / max(1.0, band.sum(1).mean())  # a frame's neighbours weigh n in all, whatever the radius
    options = asot(alpha, reg, lambda_columns=tau)
    result = solve(D / (mean if mean > 0 else 1.0), band, different_structure(k), tol=1e-4, on_fail="ignore", **options)
    return np.asarray(result.plan).argmax(1)


def unmatched_share(plans: Plans, weights: Sequence[Any]) -> list[np.ndarray]:
    """Share of each frame's weight that stays unmatched, mean over the recording's partners. About five of them are enough.

    Parameters
    ----------
    plans : dict (i, j) -> array (n_i, n_j)
        Partial plans between recordings.
    weights : sequence
        Weights of each recording's frames, or its number of frames (uniform weights of sum 1).

    Returns
    -------
    list of arrays (n_i,)
        In [0, 1]; NaN for recordings without any plan.

    Examples
    --------
    >>> from fpgwot.keysteps import unmatched_share
    >>> unmatched_share({(0, 1): [[0.5, 0.0], [0.0, 0.25]]}, [2, 2])
    [array([0. , 0.5]), array([0. , 0.5])]
    """
    w = [np.full(x, 1 / x) if np.ndim(x) == 0 else np.asarray(x, dtype=float) for x in weights]
    total, count = [np.zeros(len(x)) for x in w], np.zeros(len(w), int)
    for (i, j), T in checked_plans(plans, [len(x) for x in w]):
        for r, matched in ((i, T.sum(1)), (j, T.sum(0))):
            total[r] += 1 - np.minimum(matched / np.where(w[r] > 0, w[r], 1.0), 1.0)
            count[r] += 1
    return [t / c if c else np.full(len(t), np.nan) for t, c in zip(total, count, strict=True)]


# ------------------------------------------------------------------------------------------------------------------- inside


def _sequences(sequences: Sequence[Any]) -> list[np.ndarray]:
    X = [np.asarray(x, dtype=float) for x in sequences]
    if not X:
        raise ValueError("sequences is empty: pass one array (frames, features) a recording")
    for x in X:
        if x.ndim != 2 or 0 in x.shape or x.shape[1] != X[0].shape[1] or not np.isfinite(x).all():
            raise ValueError(f"each recording must be a finite array (frames, features), the same features in all; got {x.shape}")
    return X


def _potts_terms(cost: Any, weight: float) -> np.ndarray:
    """The unary costs, both terms checked."""
    D = np.asarray(cost, dtype=float)
    if D.ndim != 2 or 0 in D.shape or not np.isfinite(D).all():
        raise ValueError(f"cost must be a finite array (frames, labels), got shape {D.shape}")
    if not 0 <= weight < np.inf:
        raise ValueError(f"weight must be 0 or more and finite, got {weight!r}")
    return D


def _kept(X: list[np.ndarray], unmatched: Sequence[Any], drop: float) -> list[np.ndarray]:
    scores = [np.asarray(u, dtype=float) for u in unmatched]
    if [u.shape for u in scores] != [(len(x),) for x in X] or any(np.isnan(u).any() for u in scores):
        raise ValueError("unmatched must hold one number for each frame of each recording, none of them NaN")
    everything = np.concatenate(scores)
    order = np.argsort(-everything, kind="stable")
    keep = np.ones(len(everything), bool)
    keep[order[: int(drop * len(everything))]] = False
    return np.split(keep, np.cumsum([len(u) for u in scores])[:-1])


def _squared_distances(X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    return np.maximum((X**2).sum(1)[:, None] + (Y**2).sum(1)[None] - 2 * X @ Y.T, 0)
