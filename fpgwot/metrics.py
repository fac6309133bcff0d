"""How good a matching is, where the truth is known. Imports NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

MASS_SLACK = 0.05  # a plan that carries more than this above the smaller total is refused: its scores would be inflated


@dataclass(frozen=True)
class MatchingScores:
    """Scores of a plan.

    Attributes
    ----------
    precision : share of the matched mass that lies on correct pairs
    recall : share of the mass of the points that have a partner which went to a correct partner
    f1 : harmonic mean of the two
    mass : sum of the plan as it came in
    """

    precision: float
    recall: float
    f1: float
    mass: float


def agreement(labels_x: Any, labels_y: Any, background: int | None = 0) -> np.ndarray:
    """Pairs with equal labels, as a boolean array (n, m); the label `background` agrees with nothing (None: no such label).

    Examples
    --------
    >>> from fpgwot.metrics import agreement
    >>> agreement([0, 1, 2], [1, 0])
    array([[False, False],
           [ True, False],
           [False, False]])
    """
    a, b = np.asarray(labels_x), np.asarray(labels_y)
    if a.ndim != 1 or b.ndim != 1:
        raise ValueError(f"labels must be vectors, got shapes {a.shape} and {b.shape}")
    same = a[:, None] == b[None, :]
    return same if background is None else same & (a != background)[:, None]


def matching_scores(T: Any, correspondence: Any, p: Any = None, q: Any = None) -> MatchingScores:
    r"""Precision, recall and F1 of a plan against known correct pairs, one-to-many pairs included.

    .. math:: P = \frac{\sum_{ij} A_{ij} T_{ij}}{\sum_{ij} T_{ij}},\qquad
              R = \frac{\sum_{ij} A_{ij} T_{ij}}{\sum_{i: A_i \ne 0} p_i},\qquad F_1 = 2PR/(P+R)

    P and R are computed once from the rows and once from the columns, and averaged. On each side a point whose plan row exceeds
    its weight is scaled down to the weight first, so that no point counts more than once; plans that respect the marginals
    are not touched.

    Parameters
    ----------
    T : array (n, m)
        Plan, entries 0 or more, mass at most 1.05 min(sum p, sum q).
    correspondence : boolean array (n, m), or a tuple of label vectors (n,) and (m,)
        Correct pairs A. From labels: equal labels, where label 0 is background and agrees with nothing (see `agreement`).
    p, q : arrays (n,) and (m,), optional
        Weights of the points; uniform with sum 1 by default.

    Returns
    -------
    MatchingScores
        All zero for a plan without mass. Recall and F1 are NaN where no point has a partner.

    Raises
    ------
    ValueError
        Shapes that do not fit, negative or non-finite plans, and plans with more mass than the weights hold: unbalanced
        solutions can exceed them, and would score well by mass alone.

    Examples
    --------
    >>> from fpgwot.metrics import matching_scores
    >>> matching_scores([[0.5, 0.0], [0.0, 0.25]], ([1, 2], [1, 3]))
    MatchingScores(precision=0.666..., recall=1.0, f1=0.8, mass=0.75)
    """
    T = np.asarray(T, dtype=float)
    if T.ndim != 2:
        raise ValueError(f"the plan must be a matrix (n, m), got shape {T.shape}; score the problems of a batch one by one")
    if not np.isfinite(T).all() or (T < 0).any():
        raise ValueError("the plan has negative, NaN or infinite entries")
    A = agreement(*correspondence) if isinstance(correspondence, tuple) and len(correspondence) == 2 else correspondence
    A = np.asarray(A)
    if A.shape != T.shape or A.dtype != bool:
        raise ValueError(
            f"correspondence must be a boolean array of the plan's shape {T.shape} (or a tuple of two label vectors), "
            f"got {A.dtype} of shape {A.shape}"
        )
    weights = _weights("p", p, T.shape[0]), _weights("q", q, T.shape[1])
    mass, room = float(T.sum()), float(min(w.sum() for w in weights))
    if mass > room * (1 + MASS_SLACK):
        raise ValueError(f"the plan carries mass {mass:.4g}, but the weights hold {room:.4g}: its scores would mean nothing")
    sides = [_one_side(S, B, w) for S, B, w in ((T, A, weights[0]), (T.T, A.T, weights[1]))]
    precision, recall = (float(np.mean(x)) for x in zip(*sides, strict=True))
    total = precision + recall
    return MatchingScores(precision, recall, 2 * precision * recall / total if total != 0 else 0.0, mass)


def _one_side(T: np.ndarray, A: np.ndarray, w: np.ndarray) -> tuple[float, float]:
    rows = T.sum(1)
    W = T * np.where(rows > w, w / np.where(rows > 0, rows, 1.0), 1.0)[:, None]
    good, matched, wanted = float(W[A].sum()), float(W.sum()), float(w[A.any(1)].sum())
    return good / matched if matched > 0 else 0.0, good / wanted if wanted > 0 else float("nan")


def _weights(name: str, w: Any, n: int) -> np.ndarray:
    if w is None:
        return np.full(n, 1.0 / n)
    w = np.asarray(w, dtype=float)
    if w.shape != (n,) or not np.isfinite(w).all() or (w < 0).any():
        raise ValueError(f"{name} must be {n} weights, 0 or more; got shape {w.shape}")
    return w
