"""Order of the key-steps of a task: by their mean time, or by the votes of frames that other recordings confirm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Plans = Mapping[tuple[int, int], Any]


def step_times(labels: Sequence[Any], k: int, mass: Sequence[Any] | None = None) -> np.ndarray:
    """Mean normalised time of each of k clusters over all recordings (frame t of n is at (t + 1/2)/n); NaN for empty ones.

    Parameters
    ----------
    labels : sequence of int arrays (n_i,)
        -1: dropped.
    k : int
    mass : sequence of arrays (n_i,), optional
        What each frame counts, for example `confirmed_mass`; by default 1/n_i.

    Examples
    --------
    >>> from fpgwot.step_order import step_times
    >>> step_times([[0, 0, 1, 1], [1, 0]], 2)
    array([0.5, 0.5])
    """
    moment, total = np.zeros(k), np.zeros(k)
    for x, w in zip(_checked_labels(labels, k), _masses(labels, mass), strict=True):
        t, used = (np.arange(len(x)) + 0.5) / len(x), x >= 0
        moment += np.bincount(x[used], (w * t)[used], k)
        total += np.bincount(x[used], w[used], k)
    return np.where(total > 0, moment / np.where(total > 0, total, 1), np.nan)


def confirmed_mass(labels: Sequence[Any], plans: Plans) -> list[np.ndarray]:
    """Mass of each frame that the pairwise plans send to frames of the same cluster, mean over the recording's partners.

    Frames that no other recording confirms (background, mistakes) count nothing: with `step_times` or `precedence` this gives
    the order of the key-steps that the plans agree on.

    Examples
    --------
    >>> from fpgwot.step_order import confirmed_mass
    >>> confirmed_mass([[0, 1], [0, 0]], {(0, 1): [[0.25, 0.0], [0.0, 0.5]]})
    [array([0.25, 0.  ]), array([0.25, 0.  ])]
    """
    x = [np.asarray(y) for y in labels]
    total, count = [np.zeros(len(y)) for y in x], np.zeros(len(x), int)
    for (i, j), T in checked_plans(plans, [len(y) for y in x]):
        agreed = T * ((x[i][:, None] == x[j][None]) & (x[i] >= 0)[:, None])
        for r, mass in ((i, agreed.sum(1)), (j, agreed.sum(0))):
            total[r] += mass
            count[r] += 1
    return [t / max(c, 1) for t, c in zip(total, count, strict=True)]


def precedence(labels: Sequence[Any], k: int, mass: Sequence[Any] | None = None) -> np.ndarray:
    r"""Votes for "cluster a comes before cluster b", an array (k, k).

    .. math:: W_{ab} = \sum_{recordings} \frac{\sum_{s<t} w_s [l_s = a]\, w_t [l_t = b]}
                                              {\sum_s w_s [l_s = a]\ \sum_t w_t [l_t = b]}

    over the recordings that have both, so each recording has one vote a pair, split where the steps interleave.

    Parameters
    ----------
    labels, k, mass
        As in `step_times`.

    Examples
    --------
    >>> from fpgwot.step_order import precedence
    >>> precedence([[0, 1, 1], [1, 0, 1]], 2)
    array([[0. , 1.5],
           [0.5, 0. ]])
    """
    W = np.zeros((k, k))
    for x, w in zip(_checked_labels(labels, k), _masses(labels, mass), strict=True):
        hot = (x[:, None] == np.arange(k)) * w[:, None]
        later = hot.sum(0) - np.cumsum(hot, 0)
        total = hot.sum(0)
        both = total[:, None] * total[None]
        W += np.where(both > 0, hot.T @ later / np.where(both > 0, both, 1), 0)
    np.fill_diagonal(W, 0)
    return W


def rank(votes: Any) -> list[int]:
    """Clusters from first to last by the share of votes each wins against the others (Borda); those without votes are left out.

    Examples
    --------
    >>> from fpgwot.step_order import rank
    >>> rank([[0.0, 2.0, 2.0], [1.0, 0.0, 3.0], [0.0, 0.0, 0.0]])
    [0, 1, 2]
    """
    W = np.asarray(votes, dtype=float)
    if W.ndim != 2 or W.shape[0] != W.shape[1] or not np.isfinite(W).all() or (W < 0).any():
        raise ValueError(f"votes must be a square array with entries 0 or more, got shape {W.shape}")
    cast = W + W.T
    won = np.where(cast > 0, W / np.where(cast > 0, cast, 1), 0.5)
    np.fill_diagonal(won, 0.5)
    return by_value(np.where((cast > 0).any(1), -won.sum(1), np.nan))


def by_value(value: np.ndarray) -> list[int]:
    """Indices from the smallest to the largest value, NaN left out."""
    return [int(a) for a in np.argsort(value, kind="stable") if np.isfinite(value[a])]


def checked_plans(plans: Plans, lengths: list[int]) -> list[tuple[tuple[int, int], np.ndarray]]:
    """Plans between recordings of these lengths as arrays."""
    out = []
    for (i, j), plan in plans.items():
        T = np.asarray(plan, dtype=float)
        if not (0 <= i < len(lengths) and 0 <= j < len(lengths)) or T.shape != (lengths[i], lengths[j]):
            raise ValueError(f"plan ({i}, {j}) has shape {T.shape}, which does not fit the recordings' lengths {lengths}")
        if not np.isfinite(T).all() or (T < 0).any():
            raise ValueError(f"plan ({i}, {j}) has negative, NaN or infinite entries")
        out.append(((i, j), T))
    return out


def _checked_labels(labels: Sequence[Any], k: int) -> list[np.ndarray]:
    out = [np.asarray(x) for x in labels]
    for x in out:
        if x.ndim != 1 or x.dtype.kind not in "iu" or (x < -1).any() or (x >= k).any():
            raise ValueError(f"labels must be vectors of integers from -1 (dropped) to {k - 1}")
    return out


def _masses(labels: Sequence[Any], mass: Sequence[Any] | None) -> list[np.ndarray]:
    if mass is None:
        return [np.full(len(x), 1 / max(len(x), 1)) for x in labels]
    out = [np.asarray(w, dtype=float) for w in mass]
    if [w.shape for w in out] != [(len(x),) for x in labels] or any(not np.isfinite(w).all() or (w < 0).any() for w in out):
        raise ValueError("mass must hold one number, 0 or more, for each frame of each recording")
    return out
