"""init="annealed": feasible and certified for every kind of problem, reproducible, and worth its time."""

from __future__ import annotations

import numpy as np
import pytest

from fpgwot import PowerDistance, audit, solve, solve_batch
from fpgwot._solvers import starts
from fpgwot._validate import make_problem


def problem(seed: int = 0, n: int = 14, k: int = 17):
    rng = np.random.default_rng(seed)
    C1, C2 = rng.random((n, n)), rng.random((k, k))
    return rng.random((n, k)), C1 + C1.T, C2 + C2.T


CASES = {
    "balanced": {},
    "partial": {"m": 0.6},
    "priced": {"tv": 0.2},
    "free side": {"tau": (np.inf, 0)},
    "product loss": {"loss": "product", "m": 0.7},
    "kl loss": {"loss": "kl", "m": 0.7},
    "smooth": {"smoothness": 0.1, "m": 0.7},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("fused", [True, False])
def test_certified_for_every_kind_of_problem(case, fused, backend):
    M, C1, C2 = problem(1)
    data = {"M": M if fused else None, "C1": C1, "C2": C2, "alpha": 0.6 if fused else 1.0, **CASES[case]}
    res = solve(**data, init="annealed", n_init=3, random_state=0, backend=backend)
    assert res.converged
    report = audit(res.plan, **data)
    assert report.value == pytest.approx(res.value, rel=1e-9, abs=1e-14)
    assert report.stationarity < 1e-7
    assert report.marginal_violation < 1e-9
    assert res.value == pytest.approx(res.starts.min(), rel=1e-12)
    assert solve(**data, init="annealed", backend=backend).value == pytest.approx(res.starts[0], rel=1e-9)


def test_zero_weights_masks_operators_linear_float32_and_batches():
    M, C1, C2 = problem(2, 9, 9)
    p = np.array([0, 0.2, 0.2, 0.1, 0, 0.1, 0.2, 0.1, 0.1])
    keep = p > 0
    whole = solve(M, C1, C2, p, init="annealed")
    part = solve(M[keep], C1[np.ix_(keep, keep)], C2, p[keep], init="annealed")
    np.testing.assert_allclose(whole.value, part.value, rtol=1e-12)
    assert not whole.plan[~keep].any()
    mask = np.random.default_rng(0).random((9, 9)) < 0.6
    masked = solve(M, C1, C2, m=0.5, mask=mask, init="annealed", n_init=2, random_state=0)
    assert masked.converged
    assert not masked.plan[~mask].any()
    assert solve(M, PowerDistance(9), PowerDistance(9), init="annealed").converged
    assert solve(M, m=0.5, init="annealed").value == pytest.approx(solve(M, m=0.5).value, rel=1e-12)
    assert solve(None, np.ones((9, 9)), np.ones((9, 9)), init="annealed").value == pytest.approx(0, abs=1e-14)  # no spread
    low = solve(*(x.astype(np.float32) for x in (M, C1, C2)), init="annealed")
    assert low.plan.dtype == np.float32
    assert low.converged
    problems = [dict(zip(("M", "C1", "C2"), problem(s, 5 + s, 7), strict=True)) for s in range(3)]
    for one, x in zip(solve_batch(problems, init="annealed"), problems, strict=True):
        assert one.value == pytest.approx(solve(**x, init="annealed").value, rel=1e-9)


def test_starts_are_reproducible_and_differ():
    M, C1, C2 = problem(3, 30, 30)
    one, two = (solve(M, C1, C2, alpha=0.9, init="annealed", n_init=6, random_state=4) for _ in range(2))
    np.testing.assert_array_equal(one.starts, two.starts)
    np.testing.assert_array_equal(one.plan, two.plan)
    assert len(set(one.starts.round(12))) > 2
    other = solve(M, C1, C2, alpha=0.9, init="annealed", n_init=6, random_state=5)
    assert other.starts[0] == one.starts[0]
    assert (other.starts[1:] != one.starts[1:]).any()


def test_with_entropy_it_is_the_product_start():
    M, C1, C2 = problem(4)
    a, b = (solve(M, C1, C2, reg=0.05, init=name, n_init=3, random_state=0) for name in ("annealed", "product"))
    np.testing.assert_array_equal(a.plan, b.plan)
    np.testing.assert_array_equal(a.starts, b.starts)


@pytest.mark.parametrize("loss", ["square", "product", "kl"])
def test_cost_range_is_that_of_the_gradient_at_the_product_plan(loss):
    from fpgwot._backends import numpy_ref

    M, C1, C2 = problem(5, 6, 7)
    keys = ("m", "tau", "reference", "normalize", "mask", "reg_rel")
    prep = make_problem(numpy_ref, M, C1, C2, None, None, alpha=0.4, loss=loss, reg=0.0, **dict.fromkeys(keys))
    a, b = C1[:, None, :, None], C2[None, :, None, :]
    cost = {"square": (a - b) ** 2, "product": a * b + 0 * b, "kl": a * np.log(a / b) - a + b}[loss]
    T = np.full((6, 7), 1 / 42)
    G = 0.6 * M + 0.4 * 2 * np.einsum("ijkl,kl->ij", cost, T)
    assert starts.cost_range(prep.problem)[0] == pytest.approx(G.max() - G.min(), rel=1e-9)


def test_lower_values_than_from_the_product_plan():
    """Noisy copies of random graphs, reordered: from the product plan one in three ends in a bad minimum, annealed none."""
    plain, annealed, planted = [], [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        A, flip = (np.triu(rng.random((60, 60)) < share, 1) for share in (10 / 60, 0.2 / 60))
        A, order = A | A.T, rng.permutation(60)
        B = (A ^ (flip | flip.T))[np.ix_(order, order)]
        M = np.abs(np.subtract.outer(A.sum(1), B.sum(1))) / 60
        data = {"M": M, "C1": A.astype(float), "C2": B.astype(float), "m": 0.9, "alpha": 0.9}
        plain.append(solve(**data).value)
        annealed.append(solve(**data, init="annealed").value)
        planted.append(solve(**data, init=np.eye(60)[order].T / 60).value)
    assert np.sum(np.array(plain) > 2 * np.array(planted)) >= 2
    assert (np.array(annealed) <= 1.1 * np.array(planted) + 1e-12).all()


@pytest.mark.parametrize("options", [{}, {"m": 0.6}, {"tau": 0.3}, {"m": 0.6, "reference": 1.0}], ids=str)
def test_unannealed_is_the_product_plan_as_a_plan_that_is_given(options):
    rng = np.random.default_rng(0)
    M, C1, C2, p = (
        rng.random((30, 24)),
        *(np.abs(np.subtract.outer(x, x)) for x in (rng.random(30), rng.random(24))),
        rng.dirichlet(np.ones(30)),
    )
    run = {"M": M, "C1": C1, "C2": C2, "p": p, "reg": 5e-3, "backend": "numba", "on_fail": "ignore", **options}
    given, named, annealed = (solve(**run, init=x) for x in (p[:, None] * np.full(24, 1 / 24), "unannealed", None))
    np.testing.assert_allclose(named.history[0], given.history[0], rtol=1e-9)  # later steps depend on the last digit
    assert abs(annealed.history[0, 1] - given.history[0, 1]) > 0.1 * given.history[0, 1]
    np.testing.assert_allclose(named.plan, given.plan, atol=1e-6)
    many = solve(**run, init="unannealed", n_init=3, random_state=0)
    assert many.starts[:2] == pytest.approx([named.value, annealed.value], rel=1e-6)
