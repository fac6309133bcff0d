"""Temporal arrays against the formulas, entry by entry, with frames counted from 1."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fpgwot import temporal


def density(z, kind, b):
    return math.exp(-z / b) / (2 * b) if kind == "laplace" else math.exp(-z * z / (2 * b * b)) / (b * math.sqrt(2 * math.pi))


def by_hand(D, phi, kind, b, lambda1, sink=None):
    """Prior and reward of formulation 4.1, one entry at a time; sink: the virtual distance, frames then start at i = 2."""
    n, m = D.shape
    N, M = (n, m) if sink is None else (n + 1, m + 1)
    s, h = math.sqrt(1 / N**2 + 1 / M**2), 2 * (sink or 0) / (N + M)
    Q, S = np.empty((N, M)), np.empty((N, M))
    for i in range(1, N + 1):
        row = i - 1 if sink is None else i - 2  # of D; the sink itself has none
        nearest = 1 if row < 0 else 1 + min(range(m), key=lambda col: D[row, col])
        for j in range(1, M + 1):
            d, o = abs(i / N - j / M), abs(j / M - nearest / M)
            Q[i - 1, j - 1] = phi * density(d / s, kind, b) + (1 - phi) * density(o / s, kind, b)
            S[i - 1, j - 1] = lambda1 * (phi / (d * d + 1) + (1 - phi) / (o * o + 1))
            if sink is not None and (i == 1) != (j == 1):
                Q[i - 1, j - 1] = density(1.5 * h / s, kind, b)
                S[i - 1, j - 1] = lambda1 / ((1.5 * h) ** 2 + 1)
    return Q, S


@pytest.mark.parametrize(("n", "m"), [(4, 4), (5, 7), (1, 3)])
def test_diagonal_cost(n, m):
    expected = [[abs(i / n - j / m) for j in range(1, m + 1)] for i in range(1, n + 1)]
    np.testing.assert_allclose(temporal.diagonal_cost(n, m), expected, atol=1e-16)
    np.testing.assert_allclose(temporal.diagonal_cost(n, m, power=2), np.square(expected), atol=1e-16)
    assert temporal.diagonal_cost(n, m)[-1, -1] == 0


@pytest.mark.parametrize(("prior", "kind"), [(temporal.laplace_prior, "laplace"), (temporal.gaussian_prior, "gaussian")])
def test_priors(prior, kind):
    n, m, b = 5, 7, 1.7
    s = math.sqrt(1 / n**2 + 1 / m**2)
    expected = [[density(abs(i / n - j / m) / s, kind, b) for j in range(1, m + 1)] for i in range(1, n + 1)]
    np.testing.assert_allclose(prior(n, m, b), expected, rtol=1e-14)
    np.testing.assert_allclose(prior(n, m, b, normalize=True), np.array(expected) / np.sum(expected), rtol=1e-14)


@pytest.mark.parametrize("sink", [None, 5.0])
@pytest.mark.parametrize("kind", temporal.KINDS)
def test_mixture_and_reward(rng, kind, sink):
    D = rng.random((6, 9))
    Q, S = by_hand(D, 0.3, kind, 2.0, 15.0, sink)
    np.testing.assert_allclose(temporal.mixture_prior(D, 0.3, kind, 2.0, sink), Q, rtol=1e-13)
    np.testing.assert_allclose(temporal.idm_reward(D, 0.3, 15.0, sink), S, rtol=1e-13)


def test_optimality_offset_is_zero_at_the_nearest_column(rng):
    D = rng.random((6, 9))
    o = temporal.optimality_offset(D)
    np.testing.assert_array_equal(o.argmin(1), D.argmin(1))
    assert (o.min(1) == 0).all()
    assert not np.allclose(o.T, temporal.optimality_offset(D.T))  # one-sided


def test_published_sink_shifts_the_optimality_offset_by_one_column(rng):
    D = rng.random((6, 9))
    o = temporal.optimality_offset(D, sink=True)
    assert o.shape == (7, 10)
    np.testing.assert_array_equal(o[1:].argmin(1), D.argmin(1))  # the nearest frame itself is column argmin + 1
    assert o[0].argmin() == 0


def test_laplace_prior_is_a_linear_temporal_cost(rng):
    n, m, reg, b = 5, 7, 0.1, 2.0
    T = rng.random((n, m))
    T /= T.sum()
    s = math.sqrt(1 / n**2 + 1 / m**2)
    kl = reg * np.sum(T * np.log(T / temporal.laplace_prior(n, m, b)))
    linear = reg * np.sum(T * np.log(T)) + reg / (b * s) * np.sum(T * temporal.diagonal_cost(n, m))
    assert kl - linear == pytest.approx(reg * math.log(2 * b), abs=1e-14)


def test_structures():
    lag = np.abs(np.subtract.outer(np.arange(10), np.arange(10)))
    near = (lag >= 1) & (lag <= 2)
    np.testing.assert_array_equal(temporal.band_structure(10, 0.25), near / 0.25)
    np.testing.assert_array_equal(temporal.far_structure(10, 0.25), 1.0 - near)
    np.testing.assert_array_equal(temporal.different_structure(3), 1 - np.eye(3))
    np.testing.assert_allclose(temporal.laplace_structure(10, 0.2), np.exp(-lag / 2))
    assert (temporal.band_structure(100, 0.29) > 0).sum(1).max() == 2 * 29  # 100 * 0.29 is a little below 29 in floating point


@pytest.mark.parametrize("structure", [temporal.band_structure, temporal.far_structure])
def test_a_band_of_width_zero_is_refused(structure):
    with pytest.raises(ValueError, match=r"width 0.*radius >= 0.0312.*50 frames"):
        structure(32, 0.02)
    structure(50, 0.02)


def test_refusals():
    D = np.ones((2, 3))
    for call, text in [
        (lambda: temporal.diagonal_cost(0, 3), "1 or more"),
        (lambda: temporal.diagonal_cost(2, 3, power=0), "power"),
        (lambda: temporal.laplace_prior(2, 3, b=0), "scale"),
        (lambda: temporal.mixture_prior(D, 1.5), "phi"),
        (lambda: temporal.mixture_prior(D, 0.5, kind="cauchy"), "cauchy"),
        (lambda: temporal.mixture_prior(D, 0.5, virtual_distance=0), "virtual_distance"),
        (lambda: temporal.idm_reward(np.ones(3), 0.5, 1.0), "matrix"),
        (lambda: temporal.optimality_offset([[np.nan, 1.0]]), "NaN"),
        (lambda: temporal.band_structure(10, 0), "radius"),
        (lambda: temporal.laplace_structure(10, 0), "scale"),
    ]:
        with pytest.raises(ValueError, match=text):
            call()


def test_segment_structure():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((12, 3))
    C = temporal.segment_structure(X, 0.2, 2.0)
    D = np.linalg.norm(X[:, None] - X, axis=2)
    lag = abs(np.subtract.outer(np.arange(12), np.arange(12)))
    np.testing.assert_allclose(C, np.exp(-lag / 2.4) * np.exp(-2 * (D / D.mean()) ** 2), atol=1e-12)
    np.testing.assert_array_equal(C, C.T)
    assert np.linalg.eigvalsh(C).min() > -1e-12
    np.testing.assert_allclose(temporal.segment_structure(1e6 + 50 * X, 0.2, 2.0), C, atol=1e-6)  # scale and place do not count
    np.testing.assert_allclose(temporal.segment_structure(X, 0.2, 0.0), temporal.laplace_structure(12, 0.2))
    np.testing.assert_allclose(temporal.segment_structure(np.ones((4, 2)), 0.2), temporal.laplace_structure(4, 0.2))
    assert temporal.segment_structure(X[:1]).tolist() == [[1.0]]
    for bad in ((X[0],), (X * np.nan,), (X, 0.0), (X, 0.1, -1.0)):
        with pytest.raises(ValueError, match="must be"):
            temporal.segment_structure(*bad)
