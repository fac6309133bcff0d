"""How good key-steps and their order are, where the truth is known: a score that cannot be won blindly, and EgoProceL's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

PROTOCOLS = ("joint", "egoprocel")


@dataclass(frozen=True)
class KeyStepScores:
    """Scores of predicted key-steps.

    Attributes
    ----------
    precision, recall, iou : means over key-steps (see `keystep_scores`)
    f1 : harmonic mean of the mean precision and the mean recall
    matching : predicted label of each true step that has one (joint protocol; empty otherwise)
    """

    precision: float
    recall: float
    f1: float
    iou: float
    matching: dict[int, int] = field(default_factory=dict)


def keystep_scores(
    predicted: Sequence[Any],
    true: Sequence[Any],
    *,
    protocol: str = "joint",
    n_clusters: int | None = None,
    background: int = 0,
) -> KeyStepScores:
    r"""Precision, recall, F1 and IoU of key-steps over the recordings of one task.

    Predicted labels are matched to true steps one to one, by the assignment of most common frames (Hungarian). For a matched
    pair, precision = common / predicted, recall = common / true, IoU = common / (predicted + true - common) frames.

    Parameters
    ----------
    predicted, true : sequences of label vectors, one a recording
        Integers. A predicted label -1 stands for frames that were dropped: it is never matched.
    protocol : "joint" or "egoprocel"
        "joint", the score to report: **one** matching for all recordings together, so a key-step must be the same cluster
        everywhere; the background is no step; means over **all** true steps, unmatched ones count 0.

        "egoprocel", the published protocol with its quirks: one matching **per recording**; the background is a class like any
        other; means over matched pairs only, then over recordings. It can be won without looking: where background is more
        than half, one cluster for everything scores an F1 near .8 with n_clusters=None, and uniform chunks do as well as
        trained models where the order is fixed.
    n_clusters : int, optional
        egoprocel only: the nominal K. The sums are divided by min(K, classes of the recording). None: by the number of matched
        pairs, so that clusters which came out empty cost nothing (as published).
    background : int
        True label of the background.

    Returns
    -------
    KeyStepScores

    Raises
    ------
    ValueError
        Label vectors of unequal lengths, no true step at all, an unknown protocol, n_clusters with "joint".

    References
    ----------
    Bansal et al. (2022), EgoProceL, arXiv 2207.10883.

    Examples
    --------
    >>> from fpgwot.keystep_metrics import keystep_scores
    >>> true = [[1, 1, 2, 2], [2, 2, 1, 1]]
    >>> chunks = [[0, 0, 1, 1], [0, 0, 1, 1]]
    >>> keystep_scores(chunks, true).f1, keystep_scores(chunks, true, protocol="egoprocel").f1
    (0.5, 1.0)
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; choose one of {PROTOCOLS}")
    P, Y = _labels("predicted", predicted), _labels("true", true)
    if [len(x) for x in P] != [len(y) for y in Y]:
        raise ValueError("predicted and true must have the same recordings with the same numbers of frames")
    if protocol == "joint":
        if n_clusters is not None:
            raise ValueError("n_clusters belongs to protocol='egoprocel'; the joint score divides by the number of true steps")
        return _joint(np.concatenate(P), np.concatenate(Y), background)
    if n_clusters is not None and n_clusters < 1:
        raise ValueError(f"n_clusters must be 1 or more, got {n_clusters!r}")
    rows = []
    for x, y in zip(P, Y, strict=True):
        scores, _, _, classes = _matched(x, y, np.unique(y))
        rows.append(scores.sum(1) / (max(scores.shape[1], 1) if n_clusters is None else min(n_clusters, len(classes))))
    precision, recall, iou = np.mean(rows, axis=0)
    return KeyStepScores(float(precision), float(recall), _harmonic(precision, recall), float(iou))


def order_accuracy(order: Sequence[int], true: Sequence[Any], matching: dict[int, int], background: int = 0) -> float:
    """Share of the pairs of true steps, over all recordings, that a predicted order of key-steps puts the right way round.

    Parameters
    ----------
    order : sequence of int
        Predicted labels from first to last.
    true : sequence of label vectors
        True step of each frame of each recording. The true order of two steps of a recording is that of their mean times.
    matching : dict
        Predicted label of each true step, as in `KeyStepScores.matching`. Pairs with a step that has none count as wrong.
    background : int

    Returns
    -------
    float
        1: right throughout; .5 is what a random order reaches with all steps matched (2 x - 1 is Kendall's tau). NaN where no
        recording has two steps. Where recordings differ in their order no single order reaches 1.

    Examples
    --------
    >>> from fpgwot.keystep_metrics import order_accuracy
    >>> order_accuracy([7, 3, 5], [[1, 1, 2, 3]], {1: 3, 2: 7, 3: 5})
    0.6666666666666666
    """
    if len(set(order)) != len(order):
        raise ValueError(f"order must name each predicted label once, got {list(order)}")
    place = {int(k): i for i, k in enumerate(order)}
    right = total = 0
    for y in _labels("true", true):
        t = np.arange(len(y))
        steps = sorted((float(t[y == k].mean()), int(k)) for k in np.unique(y) if k != background)
        for a in range(len(steps)):
            for b in range(a + 1, len(steps)):
                first, second = (place.get(matching.get(k, -1)) for k in (steps[a][1], steps[b][1]))
                total += 1
                right += first is not None and second is not None and first < second
    return right / total if total else float("nan")


def uniform_chunks(lengths: Sequence[int], k: int) -> list[np.ndarray]:
    """Control without features: every recording is cut into k chunks of equal length, numbered in time.

    Examples
    --------
    >>> from fpgwot.keystep_metrics import uniform_chunks
    >>> uniform_chunks([5], 2)
    [array([0, 0, 0, 1, 1])]
    """
    if k < 1 or any(n < 1 for n in lengths):
        raise ValueError(f"k and all lengths must be 1 or more, got {k} and {list(lengths)}")
    return [np.arange(n) * k // n for n in lengths]


def _joint(x: np.ndarray, y: np.ndarray, background: int) -> KeyStepScores:
    steps = np.unique(y[y != background])
    if not len(steps):
        raise ValueError("no frame has a true step: there is nothing to score")
    scores, a, b, _ = _matched(x, y, steps)
    precision, recall, iou = scores.sum(1) / len(steps)
    matching = {int(step): int(label) for step, label, common in zip(a, b, scores[2], strict=True) if common > 0}
    return KeyStepScores(float(precision), float(recall), _harmonic(precision, recall), float(iou), matching)


def _matched(x: np.ndarray, y: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall, IoU (3, pairs) of the matched pairs, their classes, their labels; and all classes."""
    from scipy.optimize import linear_sum_assignment

    found = np.unique(x[x >= 0])
    is_label, is_class = x[None] == found[:, None], y[None] == classes[:, None]
    common = is_class.astype(float) @ is_label.T.astype(float)
    i, j = linear_sum_assignment(common, maximize=True)
    both, n_class, n_label = common[i, j], is_class.sum(1)[i], is_label.sum(1)[j]
    scores = np.stack((both / n_label, both / n_class, both / (n_label + n_class - both)))
    return scores, classes[i], found[j], classes


def _harmonic(a: float, b: float) -> float:
    return float(2 * a * b / (a + b)) if a + b > 0 else 0.0


def _labels(name: str, labels: Sequence[Any]) -> list[np.ndarray]:
    out = [np.asarray(x) for x in labels]
    if not out:
        raise ValueError(f"{name} is empty: pass a sequence of label vectors, one a recording")
    for x in out:
        if x.ndim != 1 or not len(x) or x.dtype.kind not in "iu":
            raise ValueError(f"{name} must hold one vector of integers a recording, got {x.dtype} of shape {x.shape}")
    return out
