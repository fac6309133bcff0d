"""Costs between unrelated recordings, and the price that they set."""

from __future__ import annotations

import numpy as np
import pytest

from fpgwot import presets, solve, temporal
from fpgwot.datasets import STATISTICS, make_procedures
from fpgwot.nulls import null_price, unrelated_costs


def distances(X, Y):
    return np.linalg.norm(X[:, None] - Y, axis=2)


def test_unrelated_costs_by_hand():
    """Means of rows and columns stay, and what is left has the spectrum of a rotation between the two halves of S."""
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((12, 3)), rng.standard_normal((9, 3))
    M = -X @ Y.T  # signed, so that nothing is cut off at 0; rank 3
    N = unrelated_costs(M, 200, random_state=1)
    assert N.shape == (200, 12, 9)
    np.testing.assert_allclose(N.mean(1), np.tile(M.mean(0), (200, 1)), atol=1e-12)
    np.testing.assert_allclose(N.mean(2), np.tile(M.mean(1), (200, 1)), atol=1e-12)
    inner = M - M.mean(0) - M.mean(1, keepdims=True) + M.mean()
    s = np.linalg.svd(inner, compute_uv=False)[:3]
    rest = N - N.mean(1, keepdims=True) - N.mean(2, keepdims=True) + N.mean((1, 2), keepdims=True)
    assert np.linalg.svd(rest[0], compute_uv=False)[3:] == pytest.approx(0, abs=1e-12)
    # det(S^1/2 Q S^1/2) = +-det S; and of a uniform Q the squares of the entries have mean 1/3
    products = np.prod(np.linalg.svd(rest, compute_uv=False)[:, :3], axis=1)
    np.testing.assert_allclose(products, np.prod(s), rtol=1e-8)
    assert np.mean((rest**2).sum((1, 2))) == pytest.approx(s.sum() ** 2 / 3, rel=0.1)
    assert np.abs(rest.mean(0)).max() < 0.2 * np.abs(inner).max()


def test_nulls_of_distances_are_distances_without_partners():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 6))
    for power, M in ((2, distances(X, X)), (1, distances(X, X) ** 2)):
        N = unrelated_costs(M, 8, random_state=0)
        np.testing.assert_array_equal(N, unrelated_costs(M, 8, power=power, random_state=0))  # the shorter spectrum
        assert (N >= 0).all()
        np.testing.assert_allclose(N.mean((1, 2)), M.mean())
        assert np.mean(N.argmin(2) == np.arange(40)) < 0.2  # every frame was its own partner
    np.testing.assert_array_equal(unrelated_costs(np.full((3, 4), 2.0), 2), np.full((2, 3, 4), 2.0))  # nothing to rotate
    np.testing.assert_array_equal(unrelated_costs(np.zeros((3, 1)), 1), np.zeros((1, 3, 1)))


@pytest.mark.parametrize("reg", [0.0, 0.02])
def test_price_of_a_mass_gives_that_mass(reg):
    """The multiplier of m, passed as sink, is where the mass comes out again (linear, so there is one solution)."""
    M = np.random.default_rng(3).random((30, 25))
    fixed = solve(M, m=0.35, reg=reg)
    priced = solve(M, sink=float(fixed.potentials[2]), reg=reg)
    assert priced.mass == pytest.approx(0.35, abs=1e-6 if reg else 1 / 25 + 1e-9)  # without entropy: up to the tied pair


def test_null_price_is_the_mean_price_of_its_nulls():
    M = distances(*np.random.default_rng(1).standard_normal((2, 20, 4)))
    C = temporal.laplace_structure(20, 0.1)
    options = {"alpha": 0.2, "reg": 0.02, "normalize": "mean"}
    expected = [solve(N, C, C, m=0.3, **options).potentials[2] for N in unrelated_costs(M, 3, random_state=5)]
    found = null_price(M, C, C, share=0.3, n_null=3, random_state=5, **options)
    assert isinstance(found, float)
    assert found == pytest.approx(np.mean(expected), rel=1e-3)


def test_null_price_of_a_batch_and_of_other_totals():
    rng = np.random.default_rng(2)
    M = np.stack([distances(*rng.standard_normal((2, 15, 4))) for _ in range(3)])
    C = np.stack([temporal.laplace_structure(15, s) for s in (0.1, 0.2, 0.3)])
    p = np.full((3, 15), 1 / 15) * [[1.0], [2.0], [5.0]]
    reference = np.ones((15, 15)) / 225
    same = {"alpha": 0.2, "reg": 0.05, "reference": reference}
    got = null_price(M, C, C[0], p, None, random_state=0, **same)
    assert got.shape == (3,)
    alone = [null_price(M[b], C[b], C[0], p[b], None, random_state=0, **same) for b in range(3)]
    np.testing.assert_allclose(got, alone, rtol=2e-3)
    drawn = [null_price(M[0], C[0], C[0], **same, random_state=np.random.default_rng(4)) for _ in range(2)]
    assert drawn[0] == drawn[1]


def web(seed, other=None):
    """Costs and true mass of a pair that does the same task, or of two recordings of different tasks."""
    first = make_procedures(2, length=80, random_state=seed, **STATISTICS["web"])
    if other is None:
        return distances(*first.sequences), first.true_mass(0, 1)
    second = make_procedures(2, length=80, random_state=other, **STATISTICS["web"])
    return distances(first.sequences[0], second.sequences[0]), 0.0


def matched(M, **options):
    C1, C2 = (temporal.laplace_structure(k, 0.05) for k in M.shape)
    common = presets.r_fpgw(0.5, alpha=0.1, reg=0.005, rho=0.0, shape=M.shape)
    common.pop("m")
    if not options:
        options = {"sink": null_price(M, C1, C2, **common, random_state=0)}
    return solve(M, C1, C2, tol=1e-4, on_fail="ignore", **common, **options).mass


def test_recordings_without_relation_match_about_the_share():
    """The nulls are made from M alone; here they meet pairs that really have nothing in common."""
    masses = [matched(web(s, 700 + s)[0]) for s in range(400, 408)]
    assert 0.15 < np.mean(masses) < 0.3
    X = make_procedures(2, length=80, random_state=1, **STATISTICS["web"]).sequences[0]
    assert matched(distances(X, X + 0.01)) > 0.9


def test_mass_is_closer_to_the_truth_than_the_knee():
    errors = []
    for seed in range(2000, 2006):
        M, true = web(seed)
        errors.append([abs(matched(M) - true), abs(matched(M, m="auto") - true)])
    null, knee = np.mean(errors, axis=0)
    assert null < 0.7 * knee


def test_refusals():
    M = np.ones((3, 4))
    for bad in ({"n_null": 0}, {"power": 3}):
        with pytest.raises(ValueError, match="n_null must be"):
            unrelated_costs(M, **bad)
    with pytest.raises(ValueError, match="power=1"):
        unrelated_costs(-M, power=2)
    for wrong in (M[0], M * np.nan, np.zeros((0, 3))):
        with pytest.raises(ValueError, match="must be a"):
            unrelated_costs(wrong)
    with pytest.raises(ValueError, match="must be an array"):
        null_price(M[0])
    with pytest.raises(NotImplementedError, match="divide M"):
        null_price(M, normalize="max")
    for share in (0.0, 1.0, np.nan):
        with pytest.raises(ValueError, match="share"):
            null_price(M, share=share)
