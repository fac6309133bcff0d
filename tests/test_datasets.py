"""The simulator realises the statistics that are asked for, and its truth is what it says."""

from __future__ import annotations

import numpy as np
import pytest

from fpgwot.datasets import STATISTICS, Procedures, make_procedures
from fpgwot.metrics import matching_scores


def of_labels(*labels, n_steps=3):
    labels = [np.array(x) for x in labels]
    return Procedures([np.zeros((len(x), 2)) for x in labels], labels, n_steps)


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_are_hit(name):
    asked = STATISTICS[name]
    data = make_procedures(800, length=300, dim=1, random_state=7, **asked)
    real = data.statistics()
    keep = 1 - asked["drop"]
    assert real["background"] == pytest.approx(asked["background"], abs=0.025)
    assert real["background_sd"] == pytest.approx(asked["background_sd"], abs=0.02)
    assert real["repeat"] == pytest.approx(asked["repeat"], abs=0.05)
    assert real["jaccard"] == pytest.approx(keep / (2 - keep), abs=0.02)
    assert real["order_agreement"] == pytest.approx(asked["order_agreement"], abs=0.015)
    assert real["duration_sd"] == pytest.approx(asked["duration_sd"], abs=0.04)
    assert real["steps"] == pytest.approx(8 * keep + asked["repeat"], abs=0.15)


@pytest.mark.parametrize("agreement", [0.61, 0.75, 1.0])
def test_order_agreement(agreement):
    data = make_procedures(400, 6, order_agreement=agreement, drop=0, repeat=0, dim=1, length=50, random_state=1)
    assert data.statistics()["order_agreement"] == pytest.approx(agreement, abs=0.02)


def test_statistics_of_labels_by_hand():
    data = of_labels([1, 1, 0, 2, 1], [2, 1, 3])
    real = data.statistics()
    assert real["background"] == pytest.approx(0.1)
    assert real["repeat"] == 0.5
    assert real["jaccard"] == pytest.approx(2 / 3)
    assert real["order_agreement"] == 0
    assert real["steps"] == 3


def test_same_seed_same_data():
    a, b = (make_procedures(3, length=(40, 60), random_state=5) for _ in range(2))
    for x, y in zip(a.sequences + a.labels, b.sequences + b.labels, strict=True):
        np.testing.assert_array_equal(x, y)
    assert all(40 <= len(x) <= 60 for x in a.labels)
    assert a.sequences[0].shape[1] == 24
    assert np.isfinite(np.concatenate(a.sequences)).all()


def test_no_background_no_change():
    data = make_procedures(2, 5, background=0, drop=0, repeat=0, order_agreement=1, duration_sd=0, length=50, random_state=0)
    for labels in data.labels:
        np.testing.assert_array_equal(labels, np.repeat([1, 2, 3, 4, 5], 10))
    assert data.true_mass(0, 1) == pytest.approx(1)
    np.testing.assert_array_equal(data.correspondence(0, 1, tolerance=0), np.eye(50, dtype=bool))


def test_correspondence_by_hand():
    data = of_labels([1, 1, 0, 2], [1, 1, 1, 1, 2])
    expected = np.zeros((4, 5), dtype=bool)
    expected[0, :2] = expected[1, 2:4] = expected[3, 4] = True
    np.testing.assert_array_equal(data.correspondence(0, 1, tolerance=0), expected)
    expected[0, 2] = expected[1, 1] = True  # gap 0 is below any tolerance above 0
    np.testing.assert_array_equal(data.correspondence(0, 1, tolerance=0.1), expected)
    expected[:2, :4] = True
    np.testing.assert_array_equal(data.correspondence(0, 1, tolerance=1), expected)
    assert data.partner_share(0, 1) == (0.75, 1.0)
    assert data.true_mass(0, 1) == pytest.approx(min(2 / 4, 4 / 5) + min(1 / 4, 1 / 5))


def test_occurrences_are_kept_apart():
    data = of_labels([1, 2, 1], [1, 0, 0])
    match = data.correspondence(0, 1, tolerance=1)
    assert match[0, 0]
    assert not match[2].any()  # the second time that step 1 is done has no partner
    assert data.true_mass(0, 1) == pytest.approx(1 / 3)


def test_correspondence_is_symmetric_and_leaves_no_partner_out():
    data = make_procedures(4, random_state=3)
    for i in range(4):
        np.testing.assert_array_equal(data.correspondence(i, i) & np.eye(100, dtype=bool), np.diag(data.labels[i] > 0))
        for j in range(i):
            match = data.correspondence(i, j)
            np.testing.assert_array_equal(match.T, data.correspondence(j, i))
            wide = data.correspondence(i, j, tolerance=1)
            np.testing.assert_array_equal(match.any(1), wide.any(1))
            assert (data.labels[i][match.any(1)] > 0).all()
            assert 0 <= data.true_mass(i, j) <= min(data.partner_share(i, j)) + 1e-12


def test_true_mass_can_be_carried():
    """Each occurrence's overlap, scaled to the smaller share, is a feasible plan on correct pairs, and none carries more."""
    from scipy.optimize import linprog

    data = make_procedures(2, 5, length=30, random_state=2)
    A = data.correspondence(0, 1, tolerance=0)
    i, j = np.nonzero(A)
    limits = np.zeros((60, len(i)))
    limits[i, np.arange(len(i))] = limits[30 + j, np.arange(len(i))] = 1
    best = linprog(-np.ones(len(i)), A_ub=limits, b_ub=np.full(60, 1 / 30))
    assert data.true_mass(0, 1) == pytest.approx(-best.fun)
    T = np.zeros(A.shape)
    T[i, j] = best.x
    assert matching_scores(T, A).precision == pytest.approx(1)


def test_every_step_keeps_a_frame():
    data = make_procedures(50, 8, background=0.9, background_sd=0, length=12, drop=0, random_state=0)
    for labels in data.labels:
        assert set(labels) >= set(range(1, 9))


def test_refusals():
    for keywords, text in [
        ({"n_sequences": 0}, "n_sequences"),
        ({"background": 1.0}, "background"),
        ({"background": 0.1, "background_sd": 0.4}, "background_sd"),
        ({"repeat": 1.2}, "repeat"),
        ({"drop": 1.0}, "drop"),
        ({"order_agreement": 0.5}, "order_agreement"),
        ({"noise": -1.0}, "noise"),
        ({"length": 8}, "length"),
        ({"length": (50, 40)}, "length"),
    ]:
        with pytest.raises(ValueError, match=text):
            make_procedures(**keywords)
    with pytest.raises(ValueError, match="tolerance"):
        make_procedures(random_state=0).correspondence(0, 1, tolerance=-1)
