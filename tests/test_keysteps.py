"""Key-steps and their scores, on cases done by hand and against exhaustive search."""

from __future__ import annotations

import sys
from itertools import pairwise, product

import numpy as np
import pytest

from fpgwot.keystep_metrics import KeyStepScores, keystep_scores, order_accuracy, uniform_chunks
from fpgwot.keysteps import (
    alpha_expansion_cut,
    cluster,
    cluster_count,
    decode_transport,
    find_keysteps,
    potts_cut,
    unmatched_share,
)
from fpgwot.step_order import confirmed_mass, precedence, rank, step_times


def task(seed: int = 0, noise: float = 0.3) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Three recordings of three steps, in another order each, steps 4 apart."""
    rng = np.random.default_rng(seed)
    true = [
        np.repeat(order, lengths) for order, lengths in (([1, 2, 3], [6, 9, 5]), ([2, 1, 3], [4, 8, 8]), ([1, 2, 3], [9, 5, 6]))
    ]
    centres = 4 * np.eye(4)[:, :3]
    return [centres[y - 1] + noise * rng.standard_normal((len(y), 3)) for y in true], true


# ------------------------------------------------------------------------------------------------------------------- labels


def energy(D: np.ndarray, labels: tuple[int, ...], weight: float) -> float:
    return float(sum(D[t, k] for t, k in enumerate(labels)) + weight * sum(a != b for a, b in pairwise(labels)))


@pytest.mark.parametrize("weight", [0.0, 0.2, 1.0, 50.0])
@pytest.mark.parametrize(("n", "k"), [(1, 3), (6, 1), (6, 3), (5, 4)])
def test_cut_is_the_minimum_of_all_labellings(n, k, weight):
    for seed in range(5):
        D = np.random.default_rng(seed).standard_normal((n, k))
        best = min(energy(D, labels, weight) for labels in product(range(k), repeat=n))
        assert energy(D, tuple(potts_cut(D, weight)), weight) == pytest.approx(best, abs=1e-12)


def test_cut_without_and_with_all_the_weight():
    D = np.random.default_rng(0).random((20, 4))
    np.testing.assert_array_equal(potts_cut(D, 0.0), D.argmin(1))
    np.testing.assert_array_equal(potts_cut(D, 1e6), np.full(20, D.sum(0).argmin()))
    np.testing.assert_array_equal(potts_cut(np.zeros((4, 3)), 0.5), np.zeros(4))
    for args in ((D[0], 1.0), (D, -1.0), (D, np.nan), (D * np.nan, 1.0)):
        with pytest.raises(ValueError, match="must be"):
            potts_cut(*args)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0, 3.0])
def test_alpha_expansion_lies_between_the_minimum_and_its_bound(weight):
    """Boykov, Veksler and Zabih (2001): at most the minimum with its boundary terms counted twice."""
    pytest.importorskip("maxflow")
    for seed in range(30):
        rng = np.random.default_rng(seed)
        D = rng.standard_normal(rng.integers(1, (40, 9)))
        best = potts_cut(D, weight)
        lowest, found = (energy(D, tuple(labels), weight) for labels in (best, alpha_expansion_cut(D, weight)))
        assert lowest - 1e-9 <= found <= lowest + weight * np.count_nonzero(np.diff(best)) + 1e-9


def test_alpha_expansion_of_clear_steps_is_the_cut():
    pytest.importorskip("maxflow")
    steps = np.repeat([2, 0, 1, 3, 0], 6)
    D = 1.0 - np.eye(4)[steps] + 0.2 * np.random.default_rng(0).random((30, 4))
    np.testing.assert_array_equal(alpha_expansion_cut(D, 0.5), steps)
    np.testing.assert_array_equal(potts_cut(D, 0.5), steps)
    np.testing.assert_array_equal(alpha_expansion_cut(D, 0.0), D.argmin(1))
    np.testing.assert_array_equal(alpha_expansion_cut(D[:, :1], 1.0), np.zeros(30))
    X = [np.eye(4)[steps], np.eye(4)[steps[::-1]]]
    cut, expanded = (find_keysteps(X, 4, decoder=d, random_state=0).labels for d in ("cut", "alpha_expansion"))
    np.testing.assert_array_equal(cut, expanded)
    with pytest.raises(ValueError, match="must be"):
        alpha_expansion_cut(D, -1.0)


def test_alpha_expansion_without_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "maxflow", None)
    with pytest.raises(ImportError, match=r"fpgwot\[graphcut\]; potts_cut"):
        alpha_expansion_cut(np.zeros((3, 2)), 1.0)


def test_transport_decoder_mends_a_lonely_frame():
    D = np.array([[0.0, 1.0]] * 8 + [[1.0, 0.0]] * 8)
    D[3] = [0.6, 0.4]
    assert D.argmin(1)[3] == 1
    np.testing.assert_array_equal(decode_transport(D), [0] * 8 + [1] * 8)
    assert decode_transport(D[:1]).tolist() == [0]
    assert decode_transport(D[:, :1]).tolist() == [0] * 16
    # from two frames on it is a solve, without a band wider than the recording
    assert len(decode_transport(np.eye(2))) == 2
    with pytest.raises(ValueError, match="finite"):
        decode_transport(D[0])


def test_cluster():
    X, true = task()
    centres = cluster(X, 3, random_state=0)
    means = np.array([np.concatenate(X)[np.concatenate(true) == k].mean(0) for k in (1, 2, 3)])
    match = np.linalg.norm(centres[:, None] - means, axis=2)
    np.testing.assert_allclose(match.min(0), 0, atol=1e-9)
    np.testing.assert_array_equal(cluster(X, 3, random_state=0), centres)
    assert cluster([np.ones((5, 2))], 3, random_state=0).shape == (3, 2)  # ties: fewer points than clusters
    np.testing.assert_allclose(np.sort(cluster([[[1.0], [2.0]]], 2).ravel()), [1, 2])
    for bad in (0, 61):
        with pytest.raises(ValueError, match="k must be"):
            cluster(X, bad)
    with pytest.raises(ValueError, match="same features"):
        cluster([X[0], X[1][:, :2]], 2)


@pytest.mark.parametrize("decoder", ["nearest", "cut", "transport"])
def test_key_steps_are_the_same_in_all_recordings(decoder):
    X, true = task()
    found = find_keysteps(X, 3, decoder=decoder, random_state=0)
    score = keystep_scores(found.labels, true)
    assert (score.precision, score.recall, score.f1, score.iou) == (1, 1, 1, 1)
    assert [found.order[i] for i in range(3)] == [score.matching[k] for k in (1, 2, 3)]
    assert order_accuracy(found.order, true, score.matching) == pytest.approx(8 / 9)  # the second recording starts with 2


def test_frames_without_a_partner_are_dropped_first():
    X, true = task()
    rng = np.random.default_rng(5)
    X = [np.concatenate((x, 30 * rng.standard_normal((4, 3)))) for x in X]  # background of its own in each
    true = [np.append(y, [0] * 4) for y in true]
    score = [np.where(y == 0, 0.9, 0.2) for y in true]
    found = find_keysteps(X, 3, unmatched=score, drop=0.167, random_state=0)
    assert all((x[y == 0] == -1).all() and (x[y > 0] >= 0).all() for x, y in zip(found.labels, true, strict=True))
    assert keystep_scores(found.labels, true).f1 == 1
    assert keystep_scores(find_keysteps(X, 3, random_state=0).labels, true).f1 < 1
    for options in (
        {"drop": 0.5},
        {"unmatched": score},
        {"unmatched": score[:2], "drop": 0.5},
        {"drop": 1.0, "unmatched": score},
    ):
        with pytest.raises(ValueError, match="unmatched"):
            find_keysteps(X, 3, **options)
    with pytest.raises(ValueError, match="decoder"):
        find_keysteps(X, 3, decoder="graph")


def test_whole_recording_may_be_dropped():
    X, _ = task()
    score = [np.full(len(x), float(r == 2)) for r, x in enumerate(X)]
    found = find_keysteps(X, 3, unmatched=score, drop=1 / 3, random_state=0)
    assert (found.labels[2] == -1).all()
    assert (found.labels[0] >= 0).all()


def test_rule_for_k():
    assert (cluster_count(7, background=False), cluster_count(7, background=True)) == (7, 14)
    with pytest.raises(ValueError, match="steps"):
        cluster_count(0, background=True)


# ------------------------------------------------------------------------------------------------------------ plans and order


def test_unmatched_share():
    # one partner each for recordings 0 and 2, two for 1; recording 3 has none; extra mass of a frame counts as matched
    plans = {(0, 1): np.diag([0.5, 0.25]), (1, 2): np.array([[0.0, 0.0], [0.6, 0.0]])}
    share = unmatched_share(plans, [2, 2, 2, 1])
    np.testing.assert_allclose(share[0], [0, 0.5])
    np.testing.assert_allclose(share[1], [(0 + 1) / 2, (0.5 + 0) / 2])
    np.testing.assert_allclose(share[2], [0, 1])
    assert np.isnan(share[3]).all()
    np.testing.assert_allclose(unmatched_share({(0, 1): [[0.3], [0.0]]}, [[0.6, 0.0], [1.0]])[0], [0.5, 1])
    with pytest.raises(ValueError, match="does not fit"):
        unmatched_share({(0, 1): np.eye(3)}, [3, 2])
    with pytest.raises(ValueError, match="negative"):
        unmatched_share({(0, 1): -np.eye(2)}, [2, 2])


def test_order_by_time():
    labels = [np.array([2, 2, 0, -1]), np.array([2, 0])]
    times = step_times(labels, 3)
    np.testing.assert_allclose(times[[0, 2]], [(0.625 / 4 + 0.75 / 2) / 0.75, (0.5 / 4 + 0.25 / 2) / 1.0])
    assert np.isnan(times[1])
    weights = [np.array([0, 1, 1, 1.0]), np.array([1.0, 0])]
    np.testing.assert_allclose(step_times(labels, 3, weights)[2], (0.375 + 0.25) / 2)
    for bad in ([np.array([3])], [np.array([0.5])], [np.array([-2])]):
        with pytest.raises(ValueError, match="labels"):
            step_times(bad, 3)
    with pytest.raises(ValueError, match="mass"):
        step_times(labels, 3, weights[:1])


def test_order_from_plans_ignores_what_no_other_recording_confirms():
    # cluster 0 is step A, 1 is step B; recording 1 has spurious frames of cluster 1 at its start
    labels = [np.array([0, 0, 1, 1]), np.array([1, 1, 1, 1, 0, 1])]
    T = np.zeros((4, 6))
    T[0, 4], T[1, 4], T[2, 5], T[3, 5] = 0.1, 0.1, 0.1, 0.1
    mass = confirmed_mass(labels, {(0, 1): T})
    np.testing.assert_allclose(mass[1], [0, 0, 0, 0, 0.2, 0.2])
    np.testing.assert_allclose(mass[0], 0.1)
    np.testing.assert_allclose(precedence(labels[1:], 2), [[0, 0.2], [0.8, 0]])
    assert rank(precedence(labels[1:], 2)) == [1, 0]
    np.testing.assert_allclose(precedence(labels[1:], 2, mass[1:]), [[0, 1], [0, 0]])
    assert rank(precedence(labels, 2, mass)) == [0, 1]


def test_confirmed_mass_means_over_partners_and_skips_dropped_frames():
    labels = [np.array([0, -1]), np.array([0, -1]), np.array([1, 1])]
    plans = {(0, 1): np.diag([0.5, 0.5]), (0, 2): np.diag([0.5, 0.5])}
    mass = confirmed_mass(labels, plans)
    np.testing.assert_allclose(mass[0], [0.25, 0])
    np.testing.assert_allclose(mass[1], [0.5, 0])
    np.testing.assert_allclose(mass[2], 0)


def test_rank():
    W = np.array([[0, 3, 2.0], [1, 0, 3], [2, 1, 0]])
    assert rank(W) == [0, 1, 2]
    assert rank(W.T) == [2, 1, 0]
    assert rank(np.zeros((3, 3))) == []
    with pytest.raises(ValueError, match="votes"):
        rank(-W)


# -------------------------------------------------------------------------------------------------------------------- scores


def test_joint_scores_by_hand():
    # step 1: 3 of 4 frames are cluster 5, which has 4 frames; step 2 has no frame in a cluster of its own
    true = [np.array([1, 1, 1, 1, 2, 0])]
    found = [np.array([5, 5, 5, 6, 5, 6])]
    s = keystep_scores(found, true)
    # the assignment takes the most common frames: 1-5 (3) and 2-6 (0)
    assert (s.precision, s.recall, s.iou) == (pytest.approx(3 / 4 / 2), pytest.approx(3 / 4 / 2), pytest.approx(3 / 5 / 2))
    assert s.f1 == pytest.approx(3 / 8)
    assert s.matching == {1: 5}


def test_joint_needs_the_same_cluster_everywhere():
    true = [np.array([1, 1, 2, 2]), np.array([2, 2, 1, 1])]
    chunks = uniform_chunks([4, 4], 2)
    assert keystep_scores(chunks, true).f1 == 0.5
    per_recording = keystep_scores(chunks, true, protocol="egoprocel")
    assert (per_recording.f1, per_recording.iou, per_recording.matching) == (1, 1, {})


def test_quirks_of_egoprocel():
    # one cluster for everything, two thirds background: it is matched to the background and scores well
    true, one = [np.array([0] * 8 + [1, 2, 3, 0])], [np.zeros(12, int)]
    s = keystep_scores(one, true, protocol="egoprocel")
    assert (s.precision, s.recall) == (0.75, 1)
    nominal = keystep_scores(one, true, protocol="egoprocel", n_clusters=7)
    assert (nominal.precision, nominal.recall) == (0.75 / 4, 0.25)
    assert keystep_scores(one, true, protocol="egoprocel", n_clusters=2).recall == 0.5
    joint = keystep_scores(one, true)
    assert joint.recall == pytest.approx(1 / 3)  # one step is swallowed whole
    assert joint.precision == pytest.approx(1 / 12 / 3)


def test_dropped_frames_are_never_matched():
    s = keystep_scores([np.array([-1, -1, 0, 0])], [np.array([1, 1, 2, 2])])
    assert (s.precision, s.recall, s.matching) == (0.5, 0.5, {2: 0})
    nothing = keystep_scores([np.full(2, -1)], [np.array([1, 2])])
    assert nothing == KeyStepScores(0, 0, 0, 0)
    assert keystep_scores([np.full(2, -1)], [np.array([1, 2])], protocol="egoprocel").f1 == 0


def test_scores_do_not_depend_on_names():
    rng = np.random.default_rng(3)
    true, found = [rng.integers(0, 4, 30) for _ in range(3)], [rng.integers(0, 5, 30) for _ in range(3)]
    for protocol in ("joint", "egoprocel"):
        a = keystep_scores(found, true, protocol=protocol)
        b = keystep_scores([(x * 7 + 3) for x in found], true, protocol=protocol)
        assert (a.precision, a.recall, a.iou) == pytest.approx((b.precision, b.recall, b.iou))


def test_order_accuracy():
    true = [np.array([1, 1, 2, 3, 0]), np.array([3, 0, 1])]
    matching = {1: 10, 2: 20, 3: 30}
    assert order_accuracy([10, 20, 30], true, matching) == 3 / 4
    assert order_accuracy([30, 20, 10], true, matching) == 1 / 4
    assert order_accuracy([10, 20], true, {1: 10, 2: 20}) == 1 / 4  # pairs with step 3 are wrong
    assert np.isnan(order_accuracy([10], [np.array([1, 0])], matching))
    with pytest.raises(ValueError, match="once"):
        order_accuracy([1, 1], true, matching)


def test_uniform_chunks():
    a, b = uniform_chunks([6, 3], 3)
    assert a.tolist() == [0, 0, 1, 1, 2, 2]
    assert b.tolist() == [0, 1, 2]
    assert uniform_chunks([2], 5)[0].tolist() == [0, 2]
    with pytest.raises(ValueError, match="1 or more"):
        uniform_chunks([2], 0)


def test_refusals_of_scores():
    y = [np.array([1, 2])]
    for args, options, text in [
        ((y, y), {"protocol": "framewise"}, "protocol"),
        ((y, y), {"n_clusters": 7}, "n_clusters"),
        ((y, y), {"protocol": "egoprocel", "n_clusters": 0}, "n_clusters"),
        ((y, [np.array([1])]), {}, "same recordings"),
        (([], []), {}, "empty"),
        (([np.array([0.5, 1])], y), {}, "integers"),
        ((y, [np.zeros(2, int)]), {}, "no frame"),
    ]:
        with pytest.raises(ValueError, match=text):
            keystep_scores(*args, **options)
