"""loss="kl": every kind of marginals against the definition with four indices, finite differences and POT."""

from __future__ import annotations

from itertools import combinations, permutations, product

import numpy as np
import ot
import pytest

from fpgwot import audit, solve, solve_batch


def problem(seed: int, n: int, k: int, symmetric: bool = True):
    rng = np.random.default_rng(seed)
    C1, C2 = rng.random((n, n)) + 0.1, rng.random((k, k)) + 0.1
    if symmetric:
        C1, C2 = (C1 + C1.T) / 2, (C2 + C2.T) / 2
    return rng.random((n, k)), C1, C2


def energy(C1, C2, T) -> float:
    a, b = C1[:, None, :, None], C2[None, :, None, :]
    return float(np.einsum("ijkl,ij,kl->", a * np.log(a / b) - a + b, T, T))


CASES = [{"reg": 0.05}, {"reg": 0.05, "m": 0.6}, {"reg": 0.05, "tau": (0.4, 0.7)}, {"reg": 0.05, "tau": (np.inf, 0.0)}, {}]
RELAXED = [{"m": 0.6}, {"tau": (np.inf, 0.0)}, {"tau": (0.0, np.inf)}, {"tv": 0.1}]  # exact


@pytest.mark.parametrize("kwargs", CASES + RELAXED)
@pytest.mark.parametrize("symmetric", [True, False])
def test_value_is_the_definition(kwargs, symmetric, backend):
    M, C1, C2 = problem(1, 5, 7, symmetric)
    res = solve(M, C1, C2, alpha=0.7, loss="kl", backend=backend, **kwargs)
    assert res.converged
    np.testing.assert_allclose(res.value_quad, 0.7 * energy(C1, C2, res.plan), rtol=1e-9)
    np.testing.assert_allclose(res.value_linear, 0.3 * np.sum(M * res.plan), rtol=1e-9)
    report = audit(res.plan, M, C1, C2, alpha=0.7, loss="kl", **kwargs)
    np.testing.assert_allclose(report.value, res.value, rtol=1e-9)
    assert report.stationarity < 1e-5


@pytest.mark.parametrize("kwargs", [{"reg": 0.05}, {"reg": 0.05, "m": 0.6}, {}, *RELAXED])
@pytest.mark.parametrize("symmetric", [True, False])
def test_gradient_is_the_finite_difference(kwargs, symmetric):
    M, C1, C2 = problem(2, 4, 5, symmetric)
    res = solve(M, C1, C2, alpha=0.7, loss="kl", **kwargs)

    # the parts of the entropy KL(T || 1/20) and of the price tv that are linear in T
    per_mass = -kwargs.get("reg", 0.0) * np.log(1 / 20) - 2 * kwargs.get("tv", 0.0)

    def smooth(T):
        return 0.3 * np.sum(M * T) + 0.7 * energy(C1, C2, T) + per_mass * T.sum()

    rng = np.random.default_rng(0)
    D = rng.normal(size=M.shape) * 1e-6
    slope = (smooth(res.plan + D) - smooth(res.plan - D)) / 2
    np.testing.assert_allclose(slope, np.sum(res.gradient * D), rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
@pytest.mark.parametrize("symmetric", [True, False])
def test_exact_is_not_above_pot(alpha, symmetric):
    M, C1, C2 = problem(3, 20, 24, symmetric)
    res = solve(M, C1, C2, alpha=alpha, loss="kl")
    assert res.converged
    value = ot.gromov.fused_gromov_wasserstein2(M, C1, C2, alpha=alpha, loss_fun="kl_loss")
    np.testing.assert_allclose(audit(res.plan, M, C1, C2, alpha=alpha, loss="kl").value, res.value, rtol=1e-10)
    assert res.value <= value * (1 + 1e-3)  # two stationary points of a problem that is not convex
    assert audit(res.plan, M, C1, C2, alpha=alpha, loss="kl").stationarity < 1e-8
    f, g, h = res.potentials
    assert (res.gradient - f[:, None] - g[None] - h).min() > -1e-9


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("n", "k", "pairs"), [(3, 3, 2), (4, 5, 3), (5, 5, 2), (5, 4, 4)])
def test_partial_exact_is_not_above_any_partial_matching(n, k, pairs, symmetric):
    """Brute force: with weights 1/max(n, k) and m = pairs/max(n, k) the vertices are the partial matchings."""
    M, C1, C2 = problem(10 + n + pairs, n, k, symmetric)
    size = max(n, k)
    p, q = np.full(n, 1 / size), np.full(k, 1 / size)
    best, found = np.inf, np.inf
    for rows in combinations(range(n), pairs):
        for cols in permutations(range(k), pairs):
            T = np.zeros((n, k))
            T[rows, cols] = 1 / size
            value = 0.4 * np.sum(M * T) + 0.6 * energy(C1, C2, T)
            res = solve(M, C1, C2, p, q, alpha=0.6, loss="kl", m=pairs / size, init=T)
            assert res.value <= value + 1e-12
            best, found = min(best, value), min(found, res.value)
            if value == best or res.value == found:
                assert res.converged
                np.testing.assert_allclose(res.value, 0.4 * np.sum(M * res.plan) + 0.6 * energy(C1, C2, res.plan), rtol=1e-11)
                assert (res.plan.sum(1) <= p + 1e-12).all()
                assert (res.plan.sum(0) <= q + 1e-12).all()
                assert res.plan.sum() == pytest.approx(pairs / size, abs=1e-12)
    assert found <= best + 1e-12
    several = solve(M, C1, C2, p, q, alpha=0.6, loss="kl", m=pairs / size, n_init=10, random_state=0).value
    assert several >= found - 1e-9  # no plan is below all that every vertex leads to


@pytest.mark.parametrize("symmetric", [True, False])
def test_semirelaxed_exact_is_not_above_any_map(symmetric):
    """Brute force: the vertices are the maps from rows to columns."""
    M, C1, C2 = problem(20, 5, 3, symmetric)
    best = np.inf
    for image in product(range(3), repeat=5):
        T = np.zeros((5, 3))
        T[range(5), image] = 1 / 5
        best = min(best, 0.4 * np.sum(M * T) + 0.6 * energy(C1, C2, T))
    res = solve(M, C1, C2, alpha=0.6, loss="kl", tau=(np.inf, 0), n_init=40, random_state=0)
    assert res.value <= best + 1e-12
    np.testing.assert_allclose(res.plan.sum(1), 1 / 5, atol=1e-12)


def test_partial_exact_far_from_a_vertex_and_isometry(backend):
    """Weights of no pattern, where steps are not whole; a start at the solution; structures whose best plan is worth 0."""
    rng = np.random.default_rng(30)
    M, C1, C2 = problem(30, 14, 17, symmetric=False)
    p, q = rng.random(14), rng.random(17)
    p, q = p / p.sum(), 1.4 * q / q.sum()
    res = solve(M, C1, C2, p, q, alpha=0.9, loss="kl", m=0.7, backend=backend)
    assert res.converged
    assert len(res.history) > 4
    assert np.all(np.diff(res.history[:, 0]) <= 1e-14)
    assert res.history[-1, 0] == pytest.approx(res.value, rel=1e-9)
    again = solve(M, C1, C2, p, q, alpha=0.9, loss="kl", m=0.7, backend=backend, init=res.plan)
    np.testing.assert_allclose(again.value, res.value, rtol=1e-12)
    assert again.n_iter == 1
    assert audit(res.plan, M, C1, C2, p, q, alpha=0.9, loss="kl", m=0.7).stationarity < 1e-8
    same = solve(None, C1, C1, loss="kl", m=0.5, init=np.eye(14) / 28, backend=backend)
    assert same.converged
    assert abs(same.value) < 1e-15


def test_partial_exact_is_not_above_pot():
    for seed in range(4):
        M, C1, C2 = problem(seed, 20, 25)
        values = [
            0.5 * np.sum(M * T) + 0.5 * energy(C1, C2, T)
            for T in (
                solve(M, C1, C2, alpha=0.5, loss="kl", m=0.6).plan,
                ot.gromov.partial_fused_gromov_wasserstein(M, C1, C2, m=0.6, loss_fun="kl_loss"),
            )
        ]
        assert values[0] <= values[1] * (1 + 1e-9)


def test_entropic_agrees_with_pot():
    M, C1, C2 = problem(4, 12, 15)
    res = solve(M, C1, C2, alpha=0.5, loss="kl", reg=0.05)
    T = ot.gromov.entropic_fused_gromov_wasserstein(M, C1, C2, alpha=0.5, loss_fun="kl_loss", epsilon=0.05)
    np.testing.assert_allclose(res.plan, T, atol=1e-8)


def test_zero_entries_float32_normalize_and_starts():
    _, C1, C2 = problem(5, 9, 8)
    C1, C2 = C1 - np.diag(np.diag(C1)), C2 - np.diag(np.diag(C2))
    wide = solve(None, C1, C2, loss="kl", reg=2.0)
    low = solve(None, C1.astype(np.float32), C2.astype(np.float32), loss="kl", reg=2.0)
    assert low.plan.dtype == np.float32
    np.testing.assert_allclose(low.plan, wide.plan, atol=1e-5)
    one = solve(None, C1, C2, loss="kl", reg_rel=0.05, normalize="mean", n_init=4)
    assert one.converged
    assert one.value == pytest.approx(one.starts.min(), rel=1e-9)
    _, C1, C2 = problem(6, 9, 8)
    big = solve(None, 7 * C1, 7 * C2, loss="kl", reg_rel=0.05, normalize="max")
    same = solve(None, C1, C2, loss="kl", reg_rel=0.05, normalize="max")
    np.testing.assert_allclose(big.plan, same.plan, atol=1e-6)  # the loss is homogeneous of degree one


@pytest.mark.parametrize("reg", [0.0, 0.05])
def test_batches_of_unequal_sizes_and_zero_weights(reg):
    problems = [dict(zip(("M", "C1", "C2"), problem(s, 4 + s, 6), strict=True)) for s in range(3)]
    together = solve_batch(problems, loss="kl", reg=reg, alpha=0.5)
    for one, x in zip(together, problems, strict=True):
        alone = solve(**x, loss="kl", reg=reg, alpha=0.5)
        np.testing.assert_allclose(one.plan, alone.plan, atol=1e-7)
        np.testing.assert_allclose(one.value, alone.value, rtol=1e-8)
    M, C1, C2 = problem(7, 6, 6)
    p = np.array([0, 0.3, 0.3, 0, 0.4, 0])
    keep = p > 0
    res = solve(M, C1, C2, p, loss="kl", reg=reg)
    part = solve(M[keep], C1[np.ix_(keep, keep)], C2, p[keep], loss="kl", reg=reg)
    np.testing.assert_allclose(res.plan[keep], part.plan, atol=1e-8)
    np.testing.assert_allclose(res.value, part.value, rtol=1e-9)
