"""Soft marginals without entropy: against the conditions of optimality, a generic solver, POT, and limits that are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import oracle
import ot
import pytest
from scipy.optimize import minimize

from fpgwot import LaplaceKernel, PowerDistance, solve
from fpgwot._solvers import proximal

SOFT = {"kl": (0.3, 0.3), "two prices": (0.05, 2.0), "rows hard": (np.inf, 0.4), "columns hard": (0.4, np.inf)}
SOFT |= {"rows free": (0.0, 0.2), "columns free": (0.2, 0.0)}


def task(kind: str, part: str, **more):
    """A problem with totals that only soft marginals allow, but on hard sides."""
    base = oracle.problem("kl", part, **more)
    return replace(base, reg=0.0, tau=SOFT[kind])


def reduced_costs(t: oracle.Task, T: np.ndarray, G: np.ndarray) -> np.ndarray:
    """Derivative of F along each entry, less the multiplier of a hard side; G is the gradient of the terms without prices."""
    R = G.copy()
    for axis, (tau, w) in enumerate(zip(t.tau, (t.p, t.q), strict=True)):
        if 0 < tau < np.inf:
            R = R + np.expand_dims(tau * np.log(T.sum(1 - axis) / w), 1 - axis)
    for axis, tau in enumerate(t.tau):
        if tau == np.inf:
            R = R - R.min(1 - axis, keepdims=True)
    return R


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("part", ["linear", "gw", "fgw"])
@pytest.mark.parametrize("kind", SOFT)
def test_no_entry_can_fall_and_those_that_carry_mass_are_level(kind, part, symmetric):
    t = task(kind, part, symmetric=symmetric)
    res = solve(**t.arguments, tol=1e-10)
    assert res.converged
    assert res.method == "proximal"
    G = oracle.gradient(t, res.plan)  # differences of the definition
    R, scale = reduced_costs(t, res.plan, G), np.abs(G).max()
    assert R.min() > -1e-5 * scale  # the root of the gap: that is of second order in the plan
    assert np.sum(R * res.plan) < 1e-8 * scale * res.mass
    np.testing.assert_allclose(res.value, oracle.objective(t, res.plan), rtol=1e-10)
    for tau, s, w in zip(t.tau, (res.plan.sum(1), res.plan.sum(0)), (t.p, t.q), strict=True):
        if tau == np.inf:
            np.testing.assert_allclose(s, w, rtol=1e-12)
    f, g, _ = res.potentials
    assert (f[:, None] + g <= res.gradient + 1e-9 * scale).all()
    np.testing.assert_allclose(res.gradient, G, atol=1e-9 * scale)


def test_a_generic_solver_finds_no_lower_value():
    t = task("kl", "linear")
    n, k = t.M.shape

    def F(x):
        T = x.reshape(n, k)
        G = t.M + t.tau[0] * np.log(T.sum(1) / t.p)[:, None] + t.tau[1] * np.log(T.sum(0) / t.q)
        return oracle.objective(t, T), G.ravel()

    found = minimize(
        F, np.outer(t.p, t.q).ravel(), jac=True, method="L-BFGS-B", bounds=[(1e-12, None)] * (n * k), options={"ftol": 1e-15}
    )
    res = solve(**t.arguments)
    assert res.value <= found.fun + 1e-12
    np.testing.assert_allclose(res.value, found.fun, rtol=1e-6)


def test_equals_pots_multiplicative_steps_where_those_converge():
    rng = np.random.default_rng(0)
    M, p, q = rng.random((30, 25)), rng.dirichlet(np.full(30, 5.0)), rng.dirichlet(np.full(25, 5.0))
    res = solve(M, p=p, q=q, tau=0.1)
    T = ot.unbalanced.mm_unbalanced(p, q, M, 0.1, numItermax=20_000, stopThr=1e-14)
    theirs = np.sum(M * T) + 0.1 * (oracle.kl(T.sum(1), p) + oracle.kl(T.sum(0), q))
    np.testing.assert_allclose(res.value, theirs, rtol=1e-7)
    assert np.count_nonzero(res.plan) < 60  # a vertex of its own marginals has at most n + k - 1


def test_a_high_price_is_a_hard_marginal_and_a_small_entropy_none(sequences):
    x = sequences(24)
    M, C1, C2 = x["M"], x["C1"], x["C2"]
    hard, soft = solve(M), solve(M, tau=1e4)
    np.testing.assert_allclose(soft.value_linear, hard.value, rtol=1e-3)
    exact = solve(M, C1, C2, alpha=0.3, tau=0.2)
    entropic = solve(M, C1, C2, alpha=0.3, tau=0.2, reg=1e-4, init=exact.plan)
    assert exact.value <= entropic.value - entropic.value_reg + 1e-7
    np.testing.assert_allclose(exact.value, entropic.value - entropic.value_reg, rtol=1e-2)


def test_one_point_each_has_a_closed_form():
    res = solve(np.array([[0.3]]), p=[2.0], q=[0.5], tau=(0.4, 0.1), tol=1e-12)
    # 0.3 + 0.4 log(T/2) + 0.1 log(T/0.5) = 0
    # the gap is of second order in the plan
    np.testing.assert_allclose(res.plan[0, 0], np.exp((0.4 * np.log(2.0) + 0.1 * np.log(0.5) - 0.3) / 0.5), rtol=1e-6)


def test_every_other_option_goes_with_it(sequences):
    x = sequences(24)
    M, C1, C2 = x["M"], x["C1"], x["C2"]
    rng = np.random.default_rng(0)
    mask = rng.random(M.shape) > 0.3
    p = np.where(np.arange(24) % 5 == 0, 0.0, rng.random(24))
    for options in (
        {"mask": mask},
        {"p": p},
        {"loss": "product"},
        {"loss": "kl"},
        {"smoothness": 0.1},
        {"n_init": 3, "random_state": 0},
        {"init": np.eye(24)},
        {"normalize": "mean"},
        {"backend": "numpy"},
    ):
        res = solve(M, C1, C2, alpha=0.3, tau=(0.2, 0.4), **options)
        assert res.converged, options
        parts = res.value_linear + res.value_quad + res.value_reg + res.value_marginal
        np.testing.assert_allclose(res.value, parts, rtol=1e-12)
        assert (res.plan >= 0).all()
        if "mask" in options:
            assert not res.plan[~mask].any()
        if "p" in options:
            assert not res.plan[p == 0].any()


def test_operators_batches_and_single_precision(sequences):
    x = sequences(24)
    M = x["M"]
    C1, C2 = PowerDistance(24, scale=1 / 24), LaplaceKernel(24, 5.0)
    one = solve(M, C1, C2, alpha=0.3, tau=0.2)
    dense = solve(M, C1.to_dense()[0], C2.to_dense()[0], alpha=0.3, tau=0.2)
    np.testing.assert_allclose(one.value, dense.value, rtol=1e-7)
    low = solve(M.astype(np.float32), C1, C2, alpha=0.3, tau=0.2)
    assert low.converged
    assert low.plan.dtype == np.float32
    np.testing.assert_allclose(low.value, one.value, rtol=1e-4)
    batch = solve(np.stack([M, M.T]), alpha=0.0, tau=0.2)
    for b, cost in enumerate((M, M.T)):
        np.testing.assert_allclose(batch[b].value, solve(cost, tau=0.2).value, rtol=1e-7)


def test_the_objective_falls_and_a_limit_is_a_limit(sequences):
    x = sequences(24)
    res = solve(x["M"], x["C1"], x["C2"], alpha=0.3, tau=0.2, tol=1e-9)
    F = res.history[:, 0]
    assert (np.diff(F) <= 1e-9 * abs(F[-1])).all()
    cut = solve(x["M"], x["C1"], x["C2"], alpha=0.3, tau=0.2, max_iter=2, on_fail="ignore")
    assert not cut.converged
    assert cut.n_iter == 2
    seen = []
    solve(x["M"], tau=0.2, callback=lambda now: seen.append(now.residual) or len(seen) == 3, on_fail="ignore")
    assert len(seen) == 3


def test_the_method_says_what_it_is_for():
    M = np.ones((3, 3))
    with pytest.raises(ValueError, match="reg=0"):
        solve(M, tau=0.1, reg=0.1, method="proximal")
    with pytest.raises(ValueError, match="needs hard or free marginals"):
        solve(M, tau=0.1, method="conditional_gradient")
    with pytest.raises(ValueError, match="needs a finite positive tau"):
        solve(M, method="proximal")


def test_a_cost_that_pays_for_endless_mass_is_named():
    res = solve(np.full((5, 4), -100.0), tau=(0.5, 0.1), on_fail="ignore")
    assert res.status.name == "UNBOUNDED"
    assert not res.converged


def test_duals_that_are_not_optimal_leave_a_gap(monkeypatch):
    """The certificate is not blind: half of the steps left out, it says so."""
    rng = np.random.default_rng(1)
    M = rng.random((20, 20))
    monkeypatch.setattr(proximal, "SHRINK", 1.0)
    res = solve(M, tau=0.1, max_iter=2, on_fail="ignore")
    assert res.residuals.stationarity > 1e-2
