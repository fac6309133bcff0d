"""Presets against POT, against direct scaling of published kernels, and against their objectives."""

from __future__ import annotations

import inspect

import numpy as np
import ot
import pytest
from test_temporal import by_hand

from fpgwot import presets, solve, temporal

OPTIONS = set(inspect.signature(solve).parameters)


def option(*names):
    """Skip where `solve` does not have an argument yet."""
    return pytest.mark.skipif(not OPTIONS.issuperset(names), reason=f"solve has no {names} yet")


def has_product_loss() -> bool:
    try:
        solve(np.ones((2, 2)), np.eye(2), np.eye(2), loss="product", reg=1.0, on_fail="ignore")
    except NotImplementedError:
        return False
    return True


product_loss = pytest.mark.skipif(not has_product_loss(), reason="solve has no product loss yet")


def scaling(K, p, q, tol=1e-15):
    """Sinkhorn by hand in double precision, run to convergence."""
    u = np.ones(len(p))
    for _ in range(100_000):
        v = q / (K.T @ u)
        new = p / (K @ v)
        done = np.max(np.abs(new / u - 1)) < tol
        u = new
        if done:
            break
    v = q / (K.T @ u)
    return u[:, None] * K * v


def energy(T, C1, C2, loss="square"):
    mu, nu = T.sum(1), T.sum(0)
    cross = np.sum((C1 @ T @ C2.T) * T)
    return cross if loss == "product" else mu @ (C1**2) @ mu + nu @ (C2**2) @ nu - 2 * cross


def test_every_preset_names_arguments_of_solve():
    M = np.random.default_rng(0).random((4, 5))
    made = [
        presets.kot(), presets.gw(), presets.fgw(), presets.fpgw(0.5), presets.unbalanced(1.0, 0.1), presets.semi_relaxed(),
        presets.asot(), presets.rgwot(), presets.r_fpgw(m=0.5), presets.r_fpgw(tau=0.1), presets.opw(M), presets.vava(M),
        presets.opel(M),
    ]  # fmt: skip
    for keywords in made:
        assert set(keywords) <= OPTIONS


def test_kot_is_sinkhorn(sequences):
    z = sequences(30)
    ours = solve(z["M"], **presets.kot(0.05), tol=1e-11)
    theirs = ot.sinkhorn(z["p"], z["q"], z["M"], 0.05, method="sinkhorn_log", stopThr=1e-13, numItermax=100_000)
    np.testing.assert_allclose(ours.plan, theirs, atol=1e-10)
    exact = solve(z["M"], **presets.kot(0.0))
    assert exact.value == pytest.approx(ot.emd2(z["p"], z["q"], z["M"]), rel=1e-9)


def test_structures_that_are_passed_do_not_matter_to_kot(sequences):
    z = sequences(20)
    with_them = solve(z["M"], z["C1"], z["C2"], **presets.kot(0.1))
    np.testing.assert_allclose(with_them.plan, solve(z["M"], **presets.kot(0.1)).plan, atol=1e-12)


@pytest.mark.parametrize("step", [0, 400])
@pytest.mark.parametrize("name", ["vava", "opel"])
def test_vava_and_opel_scale_the_published_kernel(rng, name, step):
    n, m = 12, 15
    X, Y = rng.standard_normal((n, 8)), rng.standard_normal((m, 8))
    D = ((X[:, None] - Y[None]) ** 2).sum(2)
    kind, power = ("gaussian", np.sqrt(step + 1)) if name == "vava" else ("laplace", np.sqrt(100 * step + 1))
    phi = min(max(0.999 ** int(power), 0.001), 0.999)
    Q, S = by_hand(D, phi, kind, 2.0, n + m, sink=5.0)
    lambda2 = 0.1 * n * m / 4
    augmented = np.full((n + 1, m + 1), 0.5)
    augmented[1:, 1:] = D
    expected = scaling(Q * np.exp((S - augmented) / lambda2), np.full(n + 1, 1 / (n + 1)), np.full(m + 1, 1 / (m + 1)))
    result = solve(**getattr(presets, name)(D, step=step), tol=1e-11)
    assert result.converged
    np.testing.assert_allclose(result.plan, expected, rtol=1e-8, atol=1e-15)
    assert result.plan[0].sum() == pytest.approx(1 / (n + 1))  # the sink takes one frame, no more


def test_opw_scales_its_kernel(rng):
    n, m = 9, 11
    D = rng.random((n, m))
    Q, S = by_hand(D, 1.0, "gaussian", 1.0, 50.0)
    expected = scaling(Q * np.exp((S - D) / 0.5), np.full(n, 1 / n), np.full(m, 1 / m))
    np.testing.assert_allclose(solve(**presets.opw(D, lambda2=0.5), tol=1e-11).plan, expected, rtol=1e-7, atol=1e-15)


def test_gw_and_fgw_against_pot(sequences):
    z = sequences(16)
    C2 = z["C2"] ** 0.5
    one = solve(None, z["C1"], C2, **presets.gw())
    assert one.value <= ot.gromov_wasserstein2(z["C1"], C2, z["p"], z["q"]) + 1e-9
    two = solve(z["M"], z["C1"], C2, **presets.fgw(0.3))
    assert two.value == pytest.approx(
        ot.fused_gromov_wasserstein2(z["M"], z["C1"], C2, z["p"], z["q"], alpha=0.3), rel=2e-2
    )  # two local solvers
    assert two.value == pytest.approx(0.7 * np.sum(z["M"] * two.plan) + 0.3 * energy(two.plan, z["C1"], C2), rel=1e-9)


def test_partial_and_relaxed_sets(sequences):
    z = sequences(20)
    args = (z["M"], z["C1"], z["C2"])
    part = solve(*args, **presets.fpgw(0.6, alpha=0.3, reg=0.02))
    assert part.mass == pytest.approx(0.6)
    assert (part.plan.sum(1) <= z["p"] + 1e-6).all()
    semi = solve(*args, **presets.semi_relaxed(0.3, reg=0.02))
    np.testing.assert_allclose(semi.plan.sum(1), z["p"], atol=1e-8)
    assert np.abs(semi.plan.sum(0) - z["q"]).max() > 1e-4
    free = solve(*args, **presets.unbalanced(0.2, 0.05, alpha=0.3))
    assert free.converged
    assert free.mass < 1


def test_rho_of_r_fpgw_is_a_temporal_cost(sequences):
    z = sequences(18)
    args, rho = (z["C1"], z["C2"]), 0.4
    d = temporal.diagonal_cost(18, 18)
    by_prior = solve(z["M"], *args, **presets.r_fpgw(m=0.6, rho=rho, shape=(18, 18), normalize=None), tol=1e-9)
    by_cost = solve(z["M"] + rho / 0.7 * d, *args, **presets.r_fpgw(m=0.6, normalize=None), tol=1e-9)
    np.testing.assert_allclose(by_prior.plan, by_cost.plan, atol=1e-7)


def test_r_fpgw_with_a_prior_and_with_prices(sequences):
    z = sequences(18)
    Q = temporal.laplace_prior(18, 18, b=2.0, normalize=True)
    relaxed = solve(z["M"], z["C1"], z["C2"], **presets.r_fpgw(tau=0.1, prior=Q, reg=0.05))
    assert relaxed.converged
    assert 0 < relaxed.mass < 1


def test_r_fpgw_refuses_contradictions():
    for keywords, text in [
        ({}, "one way"),
        ({"m": 0.5, "tau": 0.1}, "one way"),
        ({"m": 0.5, "rho": 0.1}, "shape"),
        ({"m": 0.5, "rho": -1}, "0 or more"),
        ({"m": 0.5, "rho": 0.1, "shape": (2, 2), "prior": np.ones((2, 2))}, "two ways"),
    ]:
        with pytest.raises(ValueError, match=text):
            presets.r_fpgw(**keywords)
    with pytest.raises(ValueError, match="alpha"):
        presets.asot(alpha=1.5)


def test_asot_conversion_states_the_problem_that_its_iteration_solves(rng):
    """c times our objective is theirs, for any plan."""
    a, eps, price = 0.3, 0.07, 0.05
    T, C = rng.random((6, 4)), rng.random((6, 4))
    T /= T.sum()
    C1, C2 = temporal.band_structure(6, 0.2), temporal.different_structure(4)
    nu, q = T.sum(0), np.full(4, 0.25)
    theirs = (1 - a) * np.sum(C * T) + a / 2 * np.sum((C1 @ T @ C2) * T)
    theirs += eps * np.sum(T * np.log(T) - T + 1) + price * np.sum(nu * np.log(nu / q))
    k = presets.asot(a, eps, lambda_columns=price)
    assert k["tau"][0] == np.inf
    ours = (1 - k["alpha"]) * np.sum(C * T) + k["alpha"] * energy(T, C1, C2, k["loss"])
    ours += k["reg"] * np.sum(T * np.log(T / k["reference"]) - T + k["reference"]) + k["tau"][1] * np.sum(nu * np.log(nu / q))
    assert (1 - a / 2) * ours == pytest.approx(theirs, rel=1e-13)


@product_loss
def test_asot_solves_its_fixed_point(rng):
    """At the solution, T is the semi-relaxed scaling of the kernel of its own gradient, in ASOT's own terms."""
    a, eps, price, n, k = 0.3, 0.07, 0.05, 40, 5
    C = rng.random((n, k))
    C1, C2 = temporal.band_structure(n, 0.04 * 40 / n), temporal.different_structure(k)
    result = solve(C, C1, C2, **presets.asot(a, eps, lambda_columns=price), tol=1e-9)
    T, p, q = result.plan, np.full(n, 1 / n), np.full(k, 1 / k)
    np.testing.assert_allclose(T.sum(1), p, atol=1e-8)
    G = (1 - a) * C + a * (C1 @ T @ C2) + price * np.log(T.sum(0) / q)
    K = np.exp(-G / eps)
    np.testing.assert_allclose(K * (p / K.sum(1))[:, None], T, atol=1e-6)


@product_loss
def test_rgwot_runs_balanced(sequences):
    z = sequences(60)
    result = solve(z["M"], temporal.band_structure(60, 0.05), temporal.far_structure(60, 0.05), **presets.rgwot())
    np.testing.assert_allclose(result.plan.sum(0), z["q"], atol=1e-6)


@option("tv")
def test_tv_price_decides_what_is_matched(sequences):
    z = sequences(20)
    linear = solve(z["M"], **presets.fpgw_tv(0.3, alpha=0.0))
    assert linear.plan[z["M"] > 0.6 + 1e-9].sum() == pytest.approx(0, abs=1e-9)
    dear = solve(z["M"], z["C1"], z["C2"], **presets.fpgw_tv(10.0, alpha=0.3))
    assert dear.mass == pytest.approx(1, abs=1e-6)


@option("smoothness")
def test_smoothness_is_handed_on(sequences):
    z = sequences(20)
    smooth = solve(z["M"], z["C1"], z["C2"], **presets.r_fpgw(m=0.7, smoothness=0.5))
    plain = solve(z["M"], z["C1"], z["C2"], **presets.r_fpgw(m=0.7))
    rough = [np.sum(np.diff(r.plan, axis=0) ** 2) + np.sum(np.diff(r.plan, axis=1) ** 2) for r in (smooth, plain)]
    assert rough[0] < rough[1]


@option("tv", "sink")
def test_tv_price_is_half_the_sink_threshold(sequences):
    z = sequences(20)
    args = (z["M"], z["C1"], z["C2"])
    by_price = solve(*args, **presets.fpgw_tv(0.2, alpha=0.3, reg=0.05))
    by_sink = solve(*args, alpha=0.3, reg=0.05, sink=0.4)
    np.testing.assert_allclose(by_price.plan, by_sink.plan, atol=1e-9)
    assert 0 < by_price.mass < 1
