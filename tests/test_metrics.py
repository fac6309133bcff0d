"""Scores of plans on cases done by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fpgwot.metrics import (
    NoPartner,
    agreement,
    auc,
    keep_cheapest,
    kendall_tau,
    mass_curve,
    matching_scores,
    neighbour_agreement,
    no_partner_auc,
)

HALF = np.eye(2) / 2
TRUE = np.eye(2, dtype=bool)


def values(*args, **kwargs):
    s = matching_scores(*args, **kwargs)
    return s.precision, s.recall, s.f1


def test_perfect_wrong_and_uniform():
    assert values(HALF, TRUE) == (1, 1, 1)
    assert values(HALF[::-1], TRUE) == (0, 0, 0)
    assert values(np.full((2, 2), 0.25), TRUE) == (0.5, 0.5, 0.5)
    assert values(np.zeros((2, 2)), TRUE) == (0, 0, 0)


def test_partial_plan_trades_recall():
    score = matching_scores(np.diag([0.5, 0.0]), TRUE)
    assert (score.precision, score.recall, score.mass) == (1, 0.5, 0.5)
    assert score.f1 == pytest.approx(2 / 3)


def test_points_without_partner_count_against_precision_only():
    A = np.diag([True, False])
    assert values(HALF, A) == (0.5, 1, pytest.approx(2 / 3))
    assert values(np.diag([0.5, 0.0]), A) == (1, 1, 1)


def test_both_sides_are_averaged():
    # one row of weight 1 against four columns of 1/4, of which one is its partner
    assert values(np.full((1, 4), 0.25), np.array([[True, False, False, False]])) == (
        0.25,
        (0.25 + 1) / 2,
        pytest.approx(2 * 0.25 * 0.625 / 0.875),
    )


def test_one_to_many():
    A = np.array([[True, True, False, False], [False, False, True, True]])
    T = np.array([[0.25, 0.25, 0, 0], [0, 0, 0.25, 0.25]])
    assert values(T, A) == (1, 1, 1)
    assert values(np.array([[0.5, 0, 0, 0], [0, 0, 0.25, 0.25]]) * [0.5, 1, 1, 1], A) == (1, 0.75, pytest.approx(6 / 7))


def test_mass_of_a_point_is_capped_at_its_weight():
    # semi-relaxed: both rows on column 0. Rows: P = R = 1/2. Column 0 holds 1, capped to 1/2: P = 1/2, R = 1/4 / 1
    T = np.array([[0.5, 0], [0.5, 0]])
    assert values(T, TRUE) == (0.5, (0.5 + 0.25) / 2, pytest.approx(2 * 0.5 * 0.375 / 0.875))


def test_weights():
    p = np.array([0.9, 0.1])
    T = np.diag([0.9, 0.0])
    assert values(T, TRUE, p, p) == (1, pytest.approx(0.9), pytest.approx(1.8 / 1.9))
    assert values(10 * T, TRUE, 10 * p, 10 * p) == values(T, TRUE, p, p)


def test_labels_and_background():
    np.testing.assert_array_equal(agreement([0, 1], [0, 1]), [[False, False], [False, True]])
    np.testing.assert_array_equal(agreement([0, 1], [0, 1], background=None), TRUE)
    np.testing.assert_array_equal(agreement([-1, 1], [-1, 1], background=-1), [[False, False], [False, True]])
    assert values(HALF, ([0, 1], [0, 1])) == (0.5, 1, pytest.approx(2 / 3))


def test_no_partner_at_all():
    score = matching_scores(HALF, np.zeros((2, 2), dtype=bool))
    assert score.precision == 0
    assert np.isnan(score.recall)
    assert np.isnan(score.f1)


def test_refusals():
    for args, text in [
        ((1.06 * HALF, TRUE), "carries mass 1.06"),
        ((-HALF, TRUE), "negative"),
        ((HALF * np.nan, TRUE), "NaN"),
        ((HALF[None], TRUE), "matrix"),
        ((HALF, TRUE[:1]), "boolean"),
        ((HALF, np.eye(2)), "boolean"),
        ((HALF, ([1, 2], [1, 2, 3])), "shape"),
        ((HALF, TRUE, [1.0]), "2 weights"),
        ((HALF, TRUE, None, [-1.0, 2.0]), "2 weights"),
    ]:
        with pytest.raises(ValueError, match=text):
            matching_scores(*args)
    matching_scores(1.04 * HALF, TRUE)


# ------------------------------------------------------------------------------------ curves, background, order, neighbours


def test_curve_is_in_order_of_mass():
    M = np.array([[1.0, 9.0], [9.0, 2.0]])
    curve = mass_curve([HALF, keep_cheapest(HALF, M, 0.25), keep_cheapest(HALF, M, 0.5)], np.diag([True, False]))
    np.testing.assert_allclose(curve.mass, [0.25, 0.5, 1])
    np.testing.assert_allclose(curve.precision, [1, 1, 0.5])
    np.testing.assert_allclose(curve.recall, [0.5, 1, 1])
    with pytest.raises(ValueError, match="empty"):
        mass_curve([], TRUE)


def test_keep_cheapest():
    rng = np.random.default_rng(0)
    T, M = rng.random((7, 5)), rng.random((7, 5))
    kept = keep_cheapest(T, M, 6.0)
    assert kept.sum() == pytest.approx(6.0)
    assert (kept <= T).all()
    part = (kept > 0) & (kept < T)
    assert part.sum() <= 1  # at most one entry is cut
    assert M[kept > 0].max() <= M[kept == 0].min()
    np.testing.assert_array_equal(keep_cheapest(T, M, 1e9), T)
    assert keep_cheapest(T, M, 0).sum() == 0
    for args, text in [((T, M[:3], 1.0), "one shape"), ((T, M, -1.0), "0 or more"), ((-T, M, 1.0), "0 or more")]:
        with pytest.raises(ValueError, match=text):
            keep_cheapest(*args)


def test_auc():
    assert auc([3, 2, 1], [True, False, False]) == 1
    assert auc([1, 1, 1, 1], [True, False, True, False]) == 0.5
    assert auc([np.inf, 0.0], [False, True]) == 0
    assert np.isnan(auc([1, 2], [True, True]))
    rng = np.random.default_rng(1)
    x, yes = rng.integers(0, 5, 60).astype(float), rng.random(60) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in x[yes] for b in x[~yes]]
    assert auc(x, yes) == pytest.approx(np.mean(pairs))
    with pytest.raises(ValueError, match="boolean"):
        auc([1, 2], [1, 0])


def test_points_without_partner():
    # row 1 and column 1 are background; the partial plan leaves them out, the balanced one pays for them
    M = np.array([[0.1, 1.0], [1.0, 0.9]])
    labels = ([1, 0], [1, 0])
    assert no_partner_auc(np.diag([0.5, 0.0]), M, labels) == NoPartner(1.0, 1.0)
    balanced = no_partner_auc(HALF, M, labels)
    assert (balanced.unmatched, balanced.cost) == (0.5, 1.0)
    assert np.isnan(no_partner_auc(HALF, M, ([1, 2], [1, 2])).cost)
    # points without weight are no points
    p = np.array([0.5, 0.5, 0.0])
    padded = no_partner_auc(np.diag([0.5, 0.0, 0.0]), np.pad(M, (0, 1)), ([1, 0, 0], [1, 0, 0]), p, p)
    assert padded == NoPartner(1.0, 1.0)
    with pytest.raises(ValueError, match="M must be"):
        no_partner_auc(HALF, M[:1], labels)
    with pytest.raises(ValueError, match="carries mass"):
        no_partner_auc(2 * HALF, M, labels)


def test_kendall_tau_against_all_pairs():
    rng = np.random.default_rng(2)
    T = rng.random((5, 4)) ** 3
    same = opposite = 0.0
    for (i, j), a in np.ndenumerate(T):
        for (k, l), b in np.ndenumerate(T):
            same, opposite = same + a * b * ((k - i) * (l - j) > 0), opposite + a * b * ((k - i) * (l - j) < 0)
    assert kendall_tau(T) == pytest.approx((same - opposite) / (same + opposite))
    assert kendall_tau(9 * T) == pytest.approx(kendall_tau(T))
    assert kendall_tau(np.eye(3)[[1, 0, 2]]) == pytest.approx(1 / 3)
    assert kendall_tau(np.full((3, 3), 1.0)) == pytest.approx(0)
    assert np.isnan(kendall_tau(np.ones((1, 4))))
    assert np.isnan(kendall_tau(np.zeros((2, 2))))
    with pytest.raises(ValueError, match="0 or more"):
        kendall_tau(-np.eye(2))


def test_neighbour_agreement():
    M = np.array([[0.1, 0.9, 0.5], [0.9, 0.8, 0.1], [0.0, 1.0, 1.0]])
    assert neighbour_agreement(M, [1, 1, 0], [1, 1, 0]) == 0.5
    assert neighbour_agreement(M, [1, 1, 0], [1, 1, 0], background=None) == pytest.approx(1 / 3)
    assert np.isnan(neighbour_agreement(M, [0, 0, 0], [1, 1, 1]))
    with pytest.raises(ValueError, match="one cost"):
        neighbour_agreement(M, [1, 1], [1, 1, 0])
