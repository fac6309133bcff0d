"""Matching scores on cases done by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fpgwot.metrics import agreement, matching_scores

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
