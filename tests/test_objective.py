"""Terms beyond the energy and the entropy: price of unmatched mass, product loss, smoothness, and the mass chosen by itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fpgwot import audit, presets, solve, temporal
from fpgwot._backends import numba_cpu, numpy_ref
from fpgwot._solvers import control, entropic, mass_path
from fpgwot.datasets import STATISTICS, make_procedures
from fpgwot.result import two_levels

TERMS = {
    "tv": {"tv": 0.3, "reg": 0.02},
    "tv, exact": {"tv": 0.3},
    "smoothness": {"smoothness": 0.4, "reg": 0.02, "m": 0.7},
    "product": {"loss": "product", "reg": 0.02, "m": 0.8},
    "product, kl": {"loss": "product", "reg": 0.05, "tau": 0.1},
    "product, smoothness, tv": {"loss": "product", "smoothness": 0.3, "tv": 0.2, "reg": 0.02},
}


@pytest.fixture
def pair(sequences):
    """24 against 20 frames."""
    x = sequences(24)
    return x["M"][:, :20].copy(), x["C1"], x["C2"][:20, :20].copy()


def _value(T, M, C1, C2, alpha, loss="square", smoothness=0.0, tv=None):
    """(1-alpha)<M,T> + alpha E + gamma Omega + TV price by index sums, uniform weights of total one."""
    L = (C1[:, :, None, None] - C2[None, None]) ** 2 if loss == "square" else C1[:, :, None, None] * C2[None, None]
    value = (1 - alpha) * np.sum(M * T) + alpha * np.einsum("ikjl,ij,kl->", L, T, T)
    value += smoothness / 2 * (np.sum(np.diff(T, axis=0) ** 2) + np.sum(np.diff(T, axis=1) ** 2))
    return value + (tv * (2 - 2 * T.sum()) if tv is not None else 0.0)


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("name", TERMS)
def test_value_and_gradient_are_those_of_the_definition(pair, backend, name):
    M, C1, C2 = pair
    options = TERMS[name]
    parts = {k: v for k, v in options.items() if k in ("loss", "smoothness", "tv")}
    r = solve(M, C1, C2, alpha=0.4, backend=backend, **options)
    assert r.converged
    n, k = M.shape
    T = r.plan
    tau = options.get("tau", 0.0)
    kl = sum(tau * np.sum(x * np.log(x * len(x)) - x + 1 / len(x)) for x in (T.sum(1), T.sum(0))) if tau else 0.0
    assert r.value - r.value_reg == pytest.approx(_value(T, M, C1, C2, 0.4, **parts) + kl, abs=1e-11)
    # G is the derivative of everything but log T and the KL price, the constant of the reference p q' included
    rng, step = np.random.default_rng(1), 1e-5
    D = rng.standard_normal(T.shape)
    up, down = (_value(T + h * D, M, C1, C2, 0.4, **parts) for h in (step, -step))
    reference = options.get("reg", 0.0) * np.log(n * k)
    assert np.sum((r.gradient - reference) * D) == pytest.approx((up - down) / (2 * step), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("lam", [0.15, 0.3, 0.45])
def test_tv_and_sink_are_pots_lagrangian(pair, lam):
    ot = pytest.importorskip("ot")
    M, n, k = pair[0], *pair[0].shape
    theirs = ot.partial.partial_wasserstein_lagrange(np.full(n, 1 / n), np.full(k, 1 / k), M, reg_m=2 * lam)
    for option in ({"tv": lam}, {"sink": 2 * lam}):
        r = solve(M, **option)
        assert r.converged
        assert r.value == pytest.approx(np.sum(M * theirs) + lam * (2 - 2 * theirs.sum()), abs=1e-12)
        assert r.mass == pytest.approx(theirs.sum(), abs=1e-9)
        assert r.plan[2 * lam < M].sum() == 0  # the threshold reads as the sink's cost


def test_a_high_price_matches_all_and_a_negative_one_nothing(pair):
    M, C1, C2 = pair
    assert solve(M, C1, C2, tv=100.0).mass == pytest.approx(1.0)
    assert solve(M + 1, tv=0.0).mass == 0
    assert solve(M, C1, C2, tv=100.0, reg=0.01).mass == pytest.approx(1.0, abs=1e-6)


def test_one_way_to_relax_at_a_time(pair):
    M = pair[0]
    for options in ({"m": 0.5, "tv": 0.1}, {"tau": 0.5, "sink": 0.1, "reg": 0.1}):
        with pytest.raises(ValueError, match="pass one of them"):
            solve(M, **options)
    with pytest.raises(ValueError, match="two units"):
        solve(M, tv=0.1, sink=0.2)


@pytest.mark.parametrize("option", [{"smoothness": 0.3}, {"loss": "product"}, {"loss": "product", "smoothness": 0.3}])
def test_exact_solver_and_a_small_entropy_agree(pair, option):
    """From the same plan: the exact value is not above what the entropic solver finds, and it is certified."""
    M, C1, C2 = pair
    soft = solve(M, C1, C2, m=0.8, reg=0.002, on_fail="ignore", **option)
    hard = solve(M, C1, C2, m=0.8, init=soft.plan, **option)
    assert hard.converged and hard.value <= soft.value_linear + soft.value_quad + 1e-9
    assert hard.value == pytest.approx(soft.value_linear + soft.value_quad, abs=0.05)


def test_smoothness_lowers_the_roughness(pair):
    M, C1, C2 = pair
    rough = [np.sum(np.diff(solve(M, C1, C2, reg=0.02, smoothness=g).plan, axis=0) ** 2) for g in (0.0, 0.5, 3.0)]
    assert rough[0] > rough[1] > rough[2]


def test_roughness_primitive():
    rng = np.random.default_rng(0)
    T, size = rng.random((3, 7, 9)), np.array([[7, 9], [5, 4], [1, 6]])
    on, weight = np.array([True, True, False]), np.array([0.5, 2.0, 1.0])
    grads = [np.zeros_like(T), np.zeros_like(T)]
    out = [be.roughness(T, G, weight, size, on) for be, G in zip((numpy_ref, numba_cpu), grads, strict=True)]
    np.testing.assert_allclose(grads[0], grads[1], atol=1e-14)
    np.testing.assert_allclose(out[0], out[1], atol=1e-12)
    step = [np.diff(np.eye(k), axis=0) for k in (5, 4)]
    expected = step[0].T @ step[0] @ T[1, :5, :4] + T[1, :5, :4] @ step[1].T @ step[1]
    np.testing.assert_allclose(grads[0][1, :5, :4], 2 * expected, atol=1e-14)
    assert not grads[0][2].any()


# ---------------------------------------------------------------------------------------------------------------- auto mass


@pytest.mark.parametrize("reg", [0.0, 0.02])
def test_auto_mass_finds_the_background(sequences, reg):
    """A quarter of the frames is background and independent in the two sequences."""
    x = sequences(80)
    r = solve(x["M"], x["C1"], x["C2"], alpha=0.3, reg=reg, m="auto")
    path = r.mass_path
    assert r.converged
    assert r.mass == pytest.approx(path.mass, rel=1e-6)
    assert 0.5 <= r.mass <= 0.85
    assert path.band[0] <= path.mass <= path.band[1]
    assert path.text
    # the price is the slope of the objective
    slope = np.diff(path.values) / np.diff(path.masses)
    middle = (path.prices[1:] + path.prices[:-1]) / 2
    assert np.max(np.abs(slope - middle)[1:-1]) < 0.15 * np.ptp(path.prices)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_gradient_is_affine_in_the_plan(pair, dtype, rng, monkeypatch):
    """What each step of the mass path starts from, with every term that has a constant part."""
    M, C1, C2 = pair
    caught = []
    solver = entropic.solve
    monkeypatch.setattr(entropic, "solve", lambda problem, *a, **k: caught.append(problem) or solver(problem, *a, **k))
    allowed = np.abs(np.subtract.outer(np.arange(24), np.arange(20))) < 15
    reference = rng.random(M.shape) + 0.1
    arrays = [x.astype(dtype) for x in (M, C1, C2)]
    solve(*arrays, alpha=0.4, reg=0.1, m=0.6, smoothness=0.2, reference=reference, mask=allowed)
    problem, at = caught[0], [0.3, 0.9]
    s, on, grads = problem.allocate(), np.ones(1, bool), []
    T = np.where(allowed, rng.random(M.shape), 0.0)[None]
    T /= T.sum()
    for plan in (np.asarray(mass * T, dtype) for mass in at):
        mu, nu, G, work = plan.sum(2, dtype=float), plan.sum(1, dtype=float), np.empty_like(plan), np.empty_like(plan)
        problem.gradient(plan, mu, nu, mu, nu, G, work, plan, work, s, on, on)
        grads.append(G)
    ratio = at[1] / at[0]
    expected = ratio * grads[0] + (1 - ratio) * problem.constant_gradient(plan, s, on)
    np.testing.assert_allclose(grads[1][:, allowed], expected[:, allowed], rtol=1e-12 if dtype == np.float64 else 1e-5)


def test_auto_mass_costs_one_gradient_for_each_mass(sequences):
    x = sequences(60)
    cold = solve(x["M"], x["C1"], x["C2"], alpha=0.3, reg=0.02, m=0.7)
    path = solve(x["M"], x["C1"], x["C2"], alpha=0.3, reg=0.02, m="auto").mass_path
    assert path.n_gradients <= 19 + cold.n_gradients
    assert path.n_passes <= 6 * cold.n_passes


def test_auto_mass_recovers_from_a_lost_first_solve(sequences, monkeypatch):
    """On wild problems the largest mass may end without a plan."""
    x = sequences(30)
    arguments = {"M": x["M"], "C1": x["C1"], "C2": x["C2"], "alpha": 0.3, "reg": 0.02, "m": "auto"}
    good = solve(**arguments).mass_path
    solver = entropic.solve

    def lost(problem, *args, **options):
        out = solver(problem, *args, **options)
        if options["max_iter"] != 100:  # not the path's
            return out
        f, g, h = out.potentials
        return replace(out, plan=out.plan * 1e-280, gradient=out.gradient, potentials=(f, g - 600 * 0.02, h))

    monkeypatch.setattr(entropic, "solve", lost)
    path = solve(**arguments, on_fail="ignore").mass_path
    np.testing.assert_allclose(path.values[:10], good.values[:10], rtol=0.02)
    np.testing.assert_allclose(path.prices[:10], good.prices[:10], atol=0.05 * np.ptp(good.prices))


def test_choose_says_when_the_criteria_disagree():
    grid = np.arange(1, 21) / 20
    two_levels = np.where(grid <= 0.6, 0.1, 0.9)
    split, knee = mass_path.choose(grid, np.cumsum(two_levels) / 20, two_levels)
    assert split == pytest.approx(0.6)
    assert knee == pytest.approx(0.6)
    late = np.where(grid <= 0.9, 0.1 + grid * 0.2, 3.0)
    split, _ = mass_path.choose(grid, np.cumsum(late) / 20, late)
    assert split == pytest.approx(0.9)


def _unclear(seed):
    data = make_procedures(2, length=60, random_state=seed, **STATISTICS["web"])
    X, Y = data.sequences
    M = np.linalg.norm(X[:, None] - Y, axis=2)
    structures = [temporal.laplace_structure(k, 0.05) for k in M.shape]
    options = presets.r_fpgw(0.5, alpha=0.1, reg=0.005, rho=0.3, shape=M.shape)
    return (M, *structures), {k: v for k, v in options.items() if k != "m"}


def test_auto_mass_path_has_the_values_of_solves_from_scratch():
    """Just below the largest mass as well, where the path leaves the problem whose sides are used up."""
    arrays, options = _unclear(3000)
    path = solve(*arrays, m="auto", on_fail="ignore", **options).mass_path
    for k in (5, 12, 17, 18, 19):
        cold = solve(*arrays, m=float(path.masses[k]), on_fail="ignore", **options)
        assert path.values[k] == pytest.approx(cold.value, rel=0.03), k
    assert path.prices[-1] < 2 * path.prices[-3]


def test_auto_mass_warns_where_the_price_does_not_jump(sequences):
    arrays, options = _unclear(3001)
    with pytest.warns(UserWarning, match="not to be trusted"):
        r = solve(*arrays, m="auto", **options)
    assert not r.mass_path.is_clear
    assert r.mass == pytest.approx(r.mass_path.knee, rel=1e-6)
    x = sequences(80)
    clear = solve(x["M"], x["C1"], x["C2"], alpha=0.3, reg=0.02, m="auto").mass_path
    assert clear.is_clear
    assert clear.mass == clear.split


def test_two_levels_of_an_even_rise_and_of_a_jump():
    below, contrast = two_levels(np.linspace(0, 1, 2000))
    assert below == pytest.approx(1000, abs=1)
    assert contrast == pytest.approx(0.75, abs=1e-3)
    assert two_levels(np.array([1.0, 1, 1, 5, 5])) == (3, 1.0)
    assert two_levels(np.ones(20))[1] == 0.0


def test_audit_agrees_on_every_term(pair):
    M, C1, C2 = pair
    for name, options in TERMS.items():
        r = solve(M, C1, C2, alpha=0.4, **options)
        a = audit(r.plan, M, C1, C2, alpha=0.4, **options)
        assert a.value == pytest.approx(r.value, abs=1e-11), name
        assert a.stationarity < 1e-5, name


# ------------------------------------------------------------------------------------------------------------------ descent


@pytest.mark.parametrize("tau", [0.02, 0.1])
@pytest.mark.parametrize("kind", ["kernel", "indefinite"])
def test_objective_falls_where_plain_steps_would_raise_it(kind, tau):
    """KL marginals, large alpha, small tau: a plain linearised step raises F here (the energy bends up along it)."""
    for seed in range(3):
        rng, n, k = np.random.default_rng(seed), 20, 25
        C = []
        for size in (n, k):
            if kind == "kernel":
                C.append(3 * np.exp(-np.abs(np.subtract.outer(np.arange(size), np.arange(size))) / 3))
            else:
                A = rng.standard_normal((size, size))
                C.append(A + A.T)
        r = solve(rng.random((n, k)), *C, alpha=0.7, reg=0.1, tau=tau, on_fail="ignore")
        rises = np.diff(r.history[:, 0])
        assert rises.max(initial=0.0) < 1e-6, (seed, rises.max())


@pytest.mark.parametrize("seed", [12, 48, 57, 60])
def test_long_steps_along_flat_directions(seed, monkeypatch):
    """Indefinite structures whose plain steps converge slowly: long steps need a quarter fewer gradients to the same plan."""
    rng = np.random.default_rng(seed)
    M = rng.random((16, 16))
    C1, C2 = ((A + A.T) / 4 for A in rng.standard_normal((2, 16, 16)))
    options = {"alpha": 0.5, "reg": 0.02, "tau": 0.1, "tol": 1e-8, "max_iter": 400}
    numba = solve(M, C1, C2, **options)
    monkeypatch.setattr(control, "_rules", {})
    monkeypatch.setattr(control, "STEADY_STEPS", np.inf)
    plain = solve(M, C1, C2, **options, backend="numpy")
    assert numba.n_gradients <= 0.8 * plain.n_gradients
    np.testing.assert_allclose(numba.plan, plain.plan, atol=1e-8)
    assert np.diff(numba.history[:, 0]).max() < 1e-14


def test_a_long_step_away_from_a_saddle(monkeypatch):
    """Time against warped time from the product plan: a saddle by symmetry, which plain steps leave by the same factor each."""
    t = np.linspace(0, 1, 64)
    C1, C2 = (np.abs(x[:, None] - x[None]) for x in (t, t**1.5))
    options = {"reg": 0.05, "tol": 1e-8, "backend": "numpy"}  # the same rounding up to the long step
    found = solve(None, C1, C2, **options)
    monkeypatch.setattr(control, "_rules", {})
    monkeypatch.setattr(control, "STEADY_STEPS", np.inf)
    plain = solve(None, C1, C2, **options)
    assert found.value == pytest.approx(plain.value, rel=1e-8)
    assert found.n_gradients < plain.n_gradients or plain.value > 0.1  # .07, or the saddle's .11 where rounding is symmetric too


def test_solve_batch_takes_the_options_of_solve():
    import inspect

    from fpgwot import solve_batch

    one, many = (inspect.signature(f).parameters for f in (solve, solve_batch))
    per_problem = {"M", "C1", "C2", "p", "q", "mask", "reference"}
    shared = {k: v.default for k, v in one.items() if k not in per_problem}
    assert shared == {k: v.default for k, v in many.items() if k != "problems"}


def test_history_and_starts_with_forbidden_pairs(pair):
    """The product plan costs 1e30 on forbidden pairs; nothing of that may stay in what is reported."""
    M, C1, C2 = pair
    mask = np.abs(np.subtract.outer(np.arange(24) / 24, np.arange(20) / 20)) < 0.4
    r = solve(M, C1, C2, m=0.7, reg=0.05, mask=mask)
    assert r.converged
    assert r.history[-1, 0] == pytest.approx(r.value, abs=1e-6)
    many = solve(None, C1, C2, m=0.7, reg=0.05, mask=mask, init=r.plan, n_init=4)
    assert many.starts.shape == (4,)
    assert many.value == many.starts.min()
    with pytest.raises(ValueError, match="allow more pairs"):
        solve(M, C1, C2, m="auto", reg=0.05, mask=mask & (np.arange(24) > 3)[:, None])


def test_smoothness_in_a_mixed_batch_is_refused(pair):
    M, C1, C2 = pair
    with pytest.raises(ValueError, match="split the batch"):
        solve(np.stack([M, M]), C1, C2, alpha=np.array([0.0, 0.5]), reg=0.05, smoothness=0.1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_unbounded_mass_is_said_and_stays_finite(dtype):
    """Costs far below -tau: the optimal mass of a KL problem is about exp(-cost/tau)."""
    M = -np.random.default_rng(0).random((6, 7)) - 1
    r = solve((1e5 * M).astype(dtype), tau=50.0, reg=100.0, on_fail="ignore")
    assert not r.converged
    assert "raise tau" in r.status.text
    assert np.isfinite(r.plan).all()
    assert np.isfinite(r.value)
