"""How good a matching is, where the truth is known; how good key-steps are is in `keystep_metrics`. Imports NumPy only."""

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
    T, A, weights = _checked(T, correspondence, p, q)
    mass = float(T.sum())
    sides = [_one_side(S, B, w) for S, B, w in ((T, A, weights[0]), (T.T, A.T, weights[1]))]
    precision, recall = (float(np.mean(x)) for x in zip(*sides, strict=True))
    total = precision + recall
    return MatchingScores(precision, recall, 2 * precision * recall / total if total != 0 else 0.0, mass)


@dataclass(frozen=True, eq=False)
class MassCurve:
    """Scores of several plans of the same pair, in order of mass; each attribute is an array with one entry a plan."""

    mass: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


def mass_curve(plans: Any, correspondence: Any, p: Any = None, q: Any = None) -> MassCurve:
    """Precision and recall against the transported mass: the curve on which partial plans of different mass can be compared.

    Parameters
    ----------
    plans : sequence of arrays (n, m)
        Plans of one pair at several masses: solved at each, or thinned by `keep_cheapest`.
    correspondence, p, q
        As in `matching_scores`, which scores each plan.

    Returns
    -------
    MassCurve

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.metrics import keep_cheapest, mass_curve
    >>> T, M = np.eye(2) / 2, np.array([[1.0, 9.0], [9.0, 2.0]])
    >>> mass_curve([T, keep_cheapest(T, M, 0.5)], ([1, 2], [1, 3]))
    MassCurve(mass=array([0.5, 1. ]), precision=array([1. , 0.5]), recall=array([1., 1.]), f1=array([1.        , 0.66666667]))
    """
    scores = sorted((matching_scores(T, correspondence, p, q) for T in plans), key=lambda s: s.mass)
    if not scores:
        raise ValueError("plans is empty: pass one plan at least")
    return MassCurve(*(np.array([getattr(s, name) for s in scores]) for name in ("mass", "precision", "recall", "f1")))


def keep_cheapest(T: Any, M: Any, m: float) -> np.ndarray:
    r"""The entries of a plan in order of their cost, up to mass m; the last one in part.

    The control of every claim about partial transport: it solves nothing, it thins a plan that transports everything.

    Parameters
    ----------
    T : array (n, m)
        Plan, entries 0 or more.
    M : array (n, m)
        Cost by which entries are ranked; of equal costs the first counts.
    m : float
        Mass to keep; all of it where the plan has less.

    Examples
    --------
    >>> from fpgwot.metrics import keep_cheapest
    >>> keep_cheapest([[0.25, 0.25], [0.25, 0.25]], [[1, 4], [3, 2]], 0.6)
    array([[0.25, 0.  ],
           [0.1 , 0.25]])
    """
    T, M = np.asarray(T, dtype=float), np.asarray(M, dtype=float)
    if T.shape != M.shape:
        raise ValueError(f"plan and cost must have one shape, got {T.shape} and {M.shape}")
    if not m >= 0 or not np.isfinite(T).all() or (T < 0).any():
        raise ValueError("the mass and the entries of the plan must be 0 or more, and finite")
    order = np.argsort(M, axis=None, kind="stable")
    entries = T.ravel()[order]
    before = np.cumsum(entries) - entries
    kept = np.zeros(T.size)
    kept[order] = np.clip(m - before, 0, entries)
    return kept.reshape(T.shape)


def auc(score: Any, positive: Any) -> float:
    """Area under the ROC curve: the chance that a positive scores higher than a negative, ties counted half.

    NaN where there are no positives or no negatives.

    Examples
    --------
    >>> from fpgwot.metrics import auc
    >>> auc([0.1, 0.4, 0.4, 0.8], [False, False, True, True])
    0.875
    """
    x, yes = np.asarray(score, dtype=float), np.asarray(positive)
    if x.ndim != 1 or x.shape != yes.shape or yes.dtype != bool or np.isnan(x).any():
        raise ValueError(f"auc takes a vector of scores and a boolean vector of its length, got {x.shape} and {yes.shape}")
    low, high = np.sort(x[~yes]), x[yes]
    if not len(low) or not len(high):
        return float("nan")
    below, up_to = np.searchsorted(low, high, "left"), np.searchsorted(low, high, "right")
    return float((below + up_to).mean() / 2 / len(low))


@dataclass(frozen=True)
class NoPartner:
    """AUC of "this point has no partner in the other sequence", both sides pooled.

    Attributes
    ----------
    unmatched : ranked by the share of its weight that the plan leaves unmatched
    cost : ranked by the mean cost of its pairs under the plan (points without any mass rank highest)
    """

    unmatched: float
    cost: float


def no_partner_auc(T: Any, M: Any, correspondence: Any, p: Any = None, q: Any = None) -> NoPartner:
    r"""How well a plan tells the points without a partner, by two scores of a point.

    .. math:: u_i = 1 - \frac{1}{p_i} \sum_j T_{ij},\qquad c_i = \frac{\sum_j M_{ij} T_{ij}}{\sum_j T_{ij}}

    The second works for balanced plans too, and often better: a partial plan is not needed to find background.

    Parameters
    ----------
    T, M : arrays (n, m)
        Plan and cost.
    correspondence, p, q
        As in `matching_scores`. A point has a partner where its row (column) of the correspondence has a pair.

    Returns
    -------
    NoPartner
        NaN where all points have a partner, or none has.

    Examples
    --------
    >>> from fpgwot.metrics import no_partner_auc
    >>> no_partner_auc([[0.5, 0.0], [0.0, 0.1]], [[0.1, 1.0], [1.0, 0.9]], ([1, 2], [1, 0]))
    NoPartner(unmatched=1.0, cost=1.0)
    """
    T, A, weights = _checked(T, correspondence, p, q)
    M = np.asarray(M, dtype=float)
    if M.shape != T.shape or not np.isfinite(M).all():
        raise ValueError(f"M must be a finite cost of the plan's shape {T.shape}, got shape {M.shape}")
    unmatched, cost, alone = [], [], []
    for S, C, B, w in ((T, M, A, weights[0]), (T.T, M.T, A.T, weights[1])):
        mass, used = S.sum(1), w > 0
        unmatched.append(1 - mass[used] / w[used])
        paid = (S * C).sum(1)[used] / np.where(mass > 0, mass, 1)[used]
        cost.append(np.where(mass[used] > 0, paid, np.inf))
        alone.append(B[used].sum(1) == 0)
    truth = np.concatenate(alone)
    return NoPartner(auc(np.concatenate(unmatched), truth), auc(np.concatenate(cost), truth))


def kendall_tau(T: Any) -> float:
    r"""Kendall's tau of a plan: does matched mass keep the order of time?

    .. math:: \tau = \frac{\sum_{i,k,j,l} T_{ij} T_{kl}\, \mathrm{sign}((k-i)(l-j))}
                         {\sum_{i \ne k,\, j \ne l} T_{ij} T_{kl}}

    1: later rows go to later columns throughout; -1: reversed; around 0: no order. Pairs of mass in one row or one column are
    ties and left out (Goodman and Kruskal's form). The plan's own uncertainty counts: a blurred diagonal has a lower tau.

    Returns
    -------
    float
        NaN where all pairs are ties. O(n m).

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.metrics import kendall_tau
    >>> kendall_tau(np.eye(4)), kendall_tau(np.eye(4)[::-1])
    (1.0, -1.0)
    """
    T = np.asarray(T, dtype=float)
    if T.ndim != 2 or not np.isfinite(T).all() or (T < 0).any():
        raise ValueError(f"the plan must be a finite matrix with entries 0 or more, got shape {T.shape}")
    total = T.sum()
    if not total > 0:
        return float("nan")
    T = T / total
    rest = T.sum(0) - np.cumsum(T, 0)  # mass in later rows, by column
    before = np.cumsum(rest, 1) - rest
    after = rest.sum(1, keepdims=True) - before - rest
    same, opposite = float((T * after).sum()), float((T * before).sum())
    untied = 1 - (T.sum(1) ** 2).sum() - (T.sum(0) ** 2).sum() + (T**2).sum()
    return (same - opposite) / (same + opposite) if untied > 1e-12 else float("nan")


def neighbour_agreement(M: Any, labels_x: Any, labels_y: Any, background: int | None = 0) -> float:
    """Share of the labelled rows whose nearest column has the same label: quality of an embedding, without any plan.

    Rows of the background are left out; NaN where no row is labelled.

    Examples
    --------
    >>> from fpgwot.metrics import neighbour_agreement
    >>> neighbour_agreement([[0.1, 0.9], [0.2, 0.8]], [1, 2], [1, 2])
    0.5
    """
    M, a, b = np.asarray(M, dtype=float), np.asarray(labels_x), np.asarray(labels_y)
    if M.ndim != 2 or M.shape != (a.size, b.size) or not M.size or np.isnan(M).any():
        raise ValueError(f"M must hold one cost for each pair of labels ({a.size}, {b.size}), got shape {M.shape}")
    right = np.equal(a, b[M.argmin(1)])
    if background is not None:
        right = right[np.not_equal(a, background)]
    return float(right.mean()) if len(right) else float("nan")


def _checked(T: Any, correspondence: Any, p: Any, q: Any) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Plan, boolean correspondence and weights; plans with more mass than the weights hold are refused."""
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
    return T, A, weights


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
