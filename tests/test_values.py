"""Values and plans of `solve` against the independent references of `oracle.py`, and against POT where POT is right."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import oracle
import pytest
from oracle import KINDS, Task

from fpgwot import solve, solve_batch

PARTS = [("linear", True), ("gw", True), ("gw", False), ("fgw", True), ("fgw", False)]
HARD = [kind for kind, (_, _, _, tau) in KINDS.items() if all(x in (0.0, np.inf) for x in tau)]


@cache
def reference(kind, part, symmetric):
    """The slow solver's plan of an entropic problem, once for both backends."""
    t = oracle.problem(kind, part, symmetric)
    return t, oracle.slow_entropic(t)


def check_terms(t: Task, res):
    """Every number of a result is that of its plan, by the definitions."""
    T, expected = res.plan, oracle.terms(t, res.plan)
    scale = max(abs(x) for x in expected.values())
    found = {"linear": res.value_linear, "quad": res.value_quad, "reg": res.value_reg, "marginal": res.value_marginal}
    for name, value in expected.items():
        assert abs(found[name] - value) <= 1e-10 * scale, name
    assert abs(res.value - sum(expected.values())) <= 1e-10 * scale
    assert res.mass == pytest.approx(T.sum(), rel=1e-14)
    np.testing.assert_allclose(res.marginal_a, T.sum(1), rtol=1e-13)
    np.testing.assert_allclose(res.marginal_b, T.sum(0), rtol=1e-13)


# ------------------------------------------------------------------------------------------------------- against the oracle


@pytest.mark.parametrize(("part", "symmetric"), PARTS)
@pytest.mark.parametrize("kind", KINDS)
def test_entropic_equals_the_slow_solver(kind, part, symmetric, backend):
    t, T = reference(kind, part, symmetric)
    res = solve(**t.arguments, backend=backend, tol=1e-9)
    best = oracle.objective(t, T)
    assert (res.converged, res.backend) == (True, backend)
    assert res.value <= best + 1e-9 * abs(best)
    # these landscapes have one optimum (every start of the slow solver finds it), so the plans agree too
    assert np.abs(res.plan - T).sum() <= 1e-7 * T.sum()
    assert oracle.stationarity(t, res.plan) <= 1e-8
    assert oracle.violation(t, res.plan) <= 1e-7
    check_terms(t, res)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "full_rows"])  # the slow solver is too slow there
def test_small_entropy_is_stationary_and_not_worse(kind):
    """With reg far below the costs there are many stationary points; the slow solver's bounds ours, started there or not."""
    t = oracle.problem(kind, "fgw", symmetric=False, reg=0.015, seed=3)
    T = oracle.slow_entropic(t, tol=1e-5, max_iter=200)
    res, kept = solve(**t.arguments), solve(**t.arguments, init=T)
    best = oracle.objective(t, T)
    for found, slack in ((res, 1e-2), (kept, 1e-6)):  # free: another basin may win by a little; started there: no climb
        assert found.converged
        assert found.value <= best + slack * abs(best)
        assert oracle.stationarity(t, found.plan) <= 1e-6
        check_terms(t, found)


@pytest.mark.parametrize(("part", "symmetric"), PARTS)
@pytest.mark.parametrize("kind", HARD)
def test_exact_is_stationary_by_a_linear_program(kind, part, symmetric, backend):
    t = oracle.problem(kind, part, symmetric, reg=0.0, seed=1)
    res = solve(**t.arguments, backend=backend)
    assert (res.converged, res.method) == (True, "conditional_gradient")
    assert oracle.violation(t, res.plan) <= 1e-9
    assert oracle.gap(t, res.plan) <= 1e-8 * max(abs(res.value), 1e-3)
    if part == "linear":
        assert res.value == pytest.approx(oracle.linear_program(t.M, t), rel=1e-9)
    check_terms(t, res)


def test_energy_of_the_oracle_is_the_definition(rng):
    C1, C2, T = rng.normal(size=(3, 3)), rng.normal(size=(4, 4)), rng.random((3, 4))
    assert oracle.energy(C1, C2, T) == pytest.approx(oracle.energy_loops(C1, C2, T), rel=1e-13)
    t = Task(np.ones(3), np.ones(4), rng.normal(size=(3, 4)), C1, C2, alpha=0.3)
    np.testing.assert_allclose(oracle.linearised(t, T), oracle.gradient(t, T), rtol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_brute_force_over_permutations(seed):
    """Between Euclidean distances the energy is concave over the marginals: the best permutation is the optimum."""
    x, y = np.random.default_rng(seed).normal(size=(2, 5, 2))
    C1, C2 = (np.linalg.norm(z[:, None] - z[None], axis=2) for z in (x, y))
    t = Task(np.full(5, 0.2), np.full(5, 0.2), None, C1, C2, alpha=1.0)
    best, plan = oracle.best_permutation(t)
    assert solve(None, C1, C2, init=plan).value == pytest.approx(best, rel=1e-9)
    assert solve(None, C1, C2, n_init=80, random_state=0).value == pytest.approx(best, rel=1e-9)


# --------------------------------------------------------------------------------------------------- gradient and potentials


@pytest.mark.parametrize(("part", "symmetric"), PARTS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_is_the_derivative(kind, part, symmetric, backend):
    """Linear and quadratic part by finite differences; the entropy adds -reg log Q, as the formula of the potentials needs."""
    t = oracle.problem(kind, part, symmetric)
    res = solve(**t.arguments, backend=backend, tol=1e-6)
    np.testing.assert_allclose(res.gradient + t.reg * np.log(t.Q), oracle.gradient(t, res.plan), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_potentials_make_the_plan(kind, backend):
    t = oracle.problem(kind, "fgw", symmetric=False)
    res = solve(**t.arguments, backend=backend, tol=1e-9)
    f, g, h = res.potentials
    T = np.exp((f[:, None] + g[None] + h - res.gradient) / t.reg)
    np.testing.assert_allclose(T, res.plan, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_potentials_are_the_prices_of_the_marginals(kind, backend):
    """Capped: f <= 0, and 0 where the point has room. KL: f = -tau log(T1/p). Free: 0."""
    t = oracle.problem(kind, "linear")
    res = solve(**t.arguments, backend=backend, tol=1e-10)
    for x, mass, w, tau in zip(res.potentials, (res.marginal_a, res.marginal_b), (t.p, t.q), t.tau, strict=False):
        if t.m is not None and t.m < w.sum() * (1 - 1e-9):
            assert x.max() <= 0
            assert np.abs(x * (w - mass)).max() <= 1e-9
            assert (x < 0).any() or (mass < w).all()
        elif 0 < tau < np.inf:
            np.testing.assert_allclose(x, -tau * np.log(mass / w), atol=1e-7)
        elif tau == 0:
            assert np.abs(x).max() <= 1e-12


@pytest.mark.parametrize("kind", [k for k in HARD if k != "full_rows"])
def test_exact_duals_prove_the_plan(kind, backend):
    t = oracle.problem(kind, "linear", reg=0.0)
    res = solve(**t.arguments, backend=backend)
    f, g, h = res.potentials
    reduced = t.M - f[:, None] - g[None] - h
    assert reduced.min() >= -1e-9
    assert np.abs(reduced * res.plan).sum() <= 1e-9
    dual = t.p @ f + t.q @ g + (h * t.m if t.m is not None else h)
    assert dual == pytest.approx(res.value, rel=1e-9)
    if t.m is not None:
        assert max(f.max(), g.max()) <= 0


# ------------------------------------------------------------------------------------------------------------- against POT


def test_linear_equals_pot(rng, backend):
    import ot

    n, k = 9, 7
    M, p, q = rng.random((n, k)), rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(k))
    args = {"backend": backend, "tol": 1e-11}
    sinkhorn = ot.sinkhorn(p, q, M, 0.05, method="sinkhorn_log", stopThr=1e-12, numItermax=50_000)
    np.testing.assert_allclose(solve(M, p=p, q=q, reg=0.05, **args).plan, sinkhorn, atol=1e-9)
    assert solve(M, p=p, q=q, backend=backend).value == pytest.approx(ot.emd2(p, q, M), rel=1e-9)
    partial = ot.partial.partial_wasserstein(p, q, M, m=0.55)
    assert solve(M, p=p, q=q, m=0.55, backend=backend).value == pytest.approx(np.sum(partial * M), rel=1e-9)
    # POT's entropy is reg KL(T || p q') with reg_type="kl", as ours
    a, b = 1.4 * p, 0.8 * q
    unbalanced = ot.unbalanced.sinkhorn_unbalanced(a, b, M, 0.05, (0.5, 0.8), reg_type="kl", stopThr=1e-14, numItermax=50_000)
    np.testing.assert_allclose(solve(M, p=a, q=b, tau=(0.5, 0.8), reg=0.05, **args).plan, unbalanced, atol=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # POT says that "entropy" means a reference of ones: that is what we want
        constant = ot.unbalanced.sinkhorn_unbalanced(a, b, M, 0.05, 0.5, reg_type="entropy", stopThr=1e-14, numItermax=50_000)
    np.testing.assert_allclose(solve(M, p=a, q=b, tau=0.5, reg=0.05, reference=1.0, **args).plan, constant, atol=1e-9)


@pytest.mark.parametrize("m", [None, 0.75])
@pytest.mark.parametrize("n", [12, 20])
def test_fused_is_not_worse_than_pot(sequences, n, m, backend):
    """One-sided: both are local methods, ours must not be above. POT's own value is not used, only its plan."""
    from ot import gromov

    data = sequences(n, seed=n)
    t = Task(**{k: data[k] for k in ("p", "q", "M", "C1", "C2")}, alpha=0.3, m=m)
    args = (t.M, t.C1, t.C2, t.p, t.q)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if m is None:
            T = gromov.fused_gromov_wasserstein(*args, alpha=t.alpha, tol_rel=1e-12, tol_abs=1e-12)
        else:
            T = gromov.partial_fused_gromov_wasserstein(*args, m=m, alpha=t.alpha)
        e = Task(t.p, t.q, t.M, t.C1, t.C2, t.alpha, reg=0.02)
        entropic = gromov.entropic_fused_gromov_wasserstein(*args, epsilon=e.reg, alpha=t.alpha, max_iter=200, tol=1e-12)
    assert oracle.violation(t, T) <= 1e-6  # else there is nothing to compare with
    assert solve(**t.arguments, n_init=4, backend=backend).value <= oracle.objective(t, T) + 1e-9
    if m is None and oracle.violation(e, entropic) <= 1e-6:
        assert solve(**e.arguments, backend=backend).value <= oracle.objective(e, entropic) + 1e-6


# ------------------------------------------------------------------------------------------------------- weights of any kind


@pytest.mark.parametrize("kind", ["balanced", "partial", "kl", "hard_and_kl", "semi_relaxed"])
@pytest.mark.parametrize("s", [1e-6, 0.37, 1e5])
def test_totals_scale_the_plan(kind, s, backend):
    """sF(T) = F(sT) where weights, mass and reference are multiplied by s and the structures divided by sqrt(s)."""
    t = oracle.problem(kind, "fgw", symmetric=False)
    one = solve(**t.arguments, backend=backend, tol=1e-9)
    m = None if t.m is None else s * t.m
    scaled = Task(s * t.p, s * t.q, t.M, t.C1 / s**0.5, t.C2 / s**0.5, t.alpha, t.reg, m, t.tau, s * t.Q)
    res = solve(**scaled.arguments, backend=backend, tol=1e-9)
    assert res.converged
    assert res.value == pytest.approx(s * one.value, rel=1e-8)
    np.testing.assert_allclose(res.plan, s * one.plan, rtol=1e-5, atol=1e-8 * s)


@pytest.mark.parametrize("reg", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["balanced", "partial_totals", "semi_relaxed"])
def test_points_without_weight_change_nothing(kind, reg, backend):
    """They may stand anywhere, and hold any cost; here one first, one inside, one last."""
    t = oracle.problem(kind, "fgw", symmetric=False, reg=reg)
    small = solve(**t.arguments, backend=backend)
    rng, n, k = np.random.default_rng(1), len(t.p), len(t.q)
    rows, cols = np.array([1, 2, 4, 5, 6, 7]), np.array([1, 2, 3, 5, 6])
    M, C1, C2 = 5 * rng.normal(size=(n + 3, k + 3)), 5 * rng.normal(size=(n + 3, n + 3)), 5 * rng.normal(size=(k + 3, k + 3))
    p, q = np.zeros(n + 3), np.zeros(k + 3)
    M[np.ix_(rows, cols)], C1[np.ix_(rows, rows)], C2[np.ix_(cols, cols)] = t.M, t.C1, t.C2
    p[rows], q[cols] = t.p, t.q
    res = solve(**(t.arguments | {"M": M, "C1": C1, "C2": C2, "p": p, "q": q}), backend=backend)
    np.testing.assert_allclose(res.plan[np.ix_(rows, cols)], small.plan, atol=1e-12)
    assert res.value == pytest.approx(small.value, rel=1e-12)
    assert res.plan.sum() == pytest.approx(small.mass, rel=1e-12)  # nothing outside
    f, g, _ = res.potentials
    assert np.isneginf(np.delete(f, rows)).all()
    assert np.isneginf(np.delete(g, cols)).all()


@pytest.mark.parametrize("reg", [0.0, 0.1])
@pytest.mark.parametrize("off", [-1e-13, 0.0, 1e-13, 1e-10])
def test_mass_of_a_whole_side(off, reg, backend):
    """m = sum p up to rounding: T1 = p, T'1 <= q; and m = everything is balanced transport."""
    t = oracle.problem("full_rows", "fgw", reg=reg, seed=2)
    m = t.p.sum() * (1 + off)
    res = solve(**(t.arguments | {"m": m}), backend=backend)
    np.testing.assert_allclose(res.marginal_a, t.p, rtol=3e-7)
    assert (res.marginal_b <= t.q * (1 + 3e-7)).all()
    if reg:
        T = oracle.slow_entropic(t)
        assert res.value == pytest.approx(oracle.objective(t, T), rel=1e-6)
    b = oracle.problem("balanced", "fgw", reg=reg, seed=2)
    full, balanced = (solve(**(b.arguments | {"m": x}), backend=backend) for x in (1 + off, None))
    np.testing.assert_allclose(full.plan, balanced.plan, atol=1e-9)


def test_default_weights_are_uniform(rng):
    M = rng.random((4, 3))
    np.testing.assert_array_equal(solve(M, reg=0.1).plan, solve(M, p=np.full(4, 1 / 4), q=np.full(3, 1 / 3), reg=0.1).plan)


# --------------------------------------------------------------------------------------------------------- reference and mask


@pytest.mark.parametrize("part", ["linear", "fgw"])
@pytest.mark.parametrize("kind", ["balanced", "partial_totals", "kl_totals", "semi_relaxed"])
@pytest.mark.parametrize("what", ["plan", "zeros", "number", "mask"])
def test_reference_and_mask(what, kind, part, backend):
    t = oracle.problem(kind, part)
    rng, shape = np.random.default_rng(5), (len(t.p), len(t.q))
    allowed = rng.random(shape) < 0.7
    allowed[np.arange(6), [0, 1, 2, 3, 4, 0]] = allowed[0] = True
    Q = {"plan": rng.random(shape) + 0.1, "zeros": np.where(allowed, 0.3, 0.0), "number": np.full(shape, 0.2), "mask": None}[what]
    forbidden = np.ones(shape, bool) if what in ("plan", "number") else allowed
    t = Task(t.p, t.q, t.M, t.C1, t.C2, t.alpha, t.reg, t.m, t.tau, Q, allowed if what == "mask" else None)
    T = oracle.slow_entropic(t)
    arguments = t.arguments | ({"reference": 0.2} if what == "number" else {})
    res = solve(**arguments, backend=backend, tol=1e-9)
    assert res.converged
    assert (res.plan[~forbidden] == 0).all()
    assert np.abs(res.plan - T).sum() <= 1e-6 * T.sum()
    assert res.value == pytest.approx(oracle.objective(t, T), rel=1e-8)


@pytest.mark.parametrize("kind", ["balanced", "partial", "semi_relaxed"])
def test_exact_with_a_mask(kind, backend):
    t = oracle.problem(kind, "linear", reg=0.0)
    allowed = np.random.default_rng(5).random((6, 5)) < 0.7
    allowed[0] = allowed[:, 0] = True
    t = Task(t.p, t.q, t.M, m=t.m, tau=t.tau, mask=allowed)
    try:
        best = oracle.linear_program(t.M, t)
    except ValueError:
        with pytest.raises(ValueError, match="infeasible"):
            solve(**t.arguments, backend=backend)
        return
    res = solve(**t.arguments, backend=backend)
    assert (res.plan[~allowed] == 0).all()
    assert res.value == pytest.approx(best, rel=1e-9)


# ----------------------------------------------------------------------------------------------------- options and batches


def test_normalize_is_a_rescaling_of_the_costs(backend):
    t = oracle.problem("partial", "fgw", symmetric=False)
    a, b = t.p / t.p.sum(), t.q / t.q.sum()
    spread = max(t.C1.max() - t.C2.min(), t.C2.max() - t.C1.min())
    scales = {"mean": (a @ t.M @ b, oracle.energy(t.C1, t.C2, np.outer(a, b)) ** 0.5), "max": (t.M.max(), spread)}
    for how, (linear, root) in scales.items():
        u = Task(t.p, t.q, t.M / linear, t.C1 / root, t.C2 / root, t.alpha, t.reg, t.m)
        one, two = solve(**t.arguments, normalize=how, backend=backend), solve(**u.arguments, backend=backend)
        np.testing.assert_allclose(one.plan, two.plan, atol=1e-9)
        assert one.value == pytest.approx(two.value, rel=1e-9)


def test_reg_rel_is_a_share_of_the_range(backend):
    t = oracle.problem("partial", "fgw", symmetric=False)
    structures = max(t.C1.max() - t.C2.min(), t.C2.max() - t.C1.min()) ** 2
    reg = 0.03 * ((1 - t.alpha) * np.ptp(t.M) + t.alpha * structures)
    one = solve(**(t.arguments | {"reg": 0.0}), reg_rel=0.03, backend=backend)
    np.testing.assert_allclose(one.plan, solve(**(t.arguments | {"reg": reg}), backend=backend).plan, atol=1e-9)


@pytest.mark.parametrize("reg", [0.0, 0.004])
def test_starts(sequences, reg, backend):
    """The best start wins, all are reported, and the seed makes it reproducible."""
    data = {k: v for k, v in sequences(12, seed=3).items() if k not in "XY"}
    one, two = (solve(**data, reg=reg, n_init=7, random_state=3, backend=backend, on_fail="ignore") for _ in range(2))
    assert one.starts.shape == (7,)
    assert one.value == one.starts.min()
    assert np.ptp(one.starts) > 1e-6  # several basins, or this test says nothing
    assert one.starts[0] == pytest.approx(solve(**data, reg=reg, backend=backend, on_fail="ignore").value, rel=1e-9)
    np.testing.assert_array_equal(one.starts, two.starts)
    np.testing.assert_array_equal(one.plan, two.plan)


@pytest.mark.parametrize("reg", [0.0, 0.003])
def test_a_given_plan_keeps_its_basin(reg, backend):
    """Time reversal ties for |i-k|; features break the tie, but a start in the worse basin must stay there."""
    n = 10
    C = np.abs(np.subtract.outer(np.arange(n), np.arange(n))) / n
    M = np.abs(np.subtract.outer(np.arange(n), np.arange(n))) / n
    for order in (np.arange(n), np.arange(n)[::-1]):
        res = solve(M, C, C, alpha=0.95, reg=reg, init=np.eye(n)[order] / n, backend=backend)
        assert res.converged
        np.testing.assert_array_equal(res.plan.argmax(1), order)
    assert res.value > solve(M, C, C, alpha=0.95, reg=reg, init="monotone", backend=backend).value + 1e-3


@pytest.mark.parametrize(("kind", "reg"), [*((k, r) for k in ("balanced", "partial") for r in (0.0, 0.05)), ("kl_totals", 0.05)])
def test_batch_equals_singles(kind, reg, backend):
    tasks = [oracle.problem(kind, "fgw", symmetric=False, reg=reg, seed=s) for s in range(3)]
    common = {"alpha": tasks[0].alpha, "reg": reg, "m": tasks[0].m, "backend": backend}
    common |= {} if tasks[0].tau == (np.inf, np.inf) else {"tau": tasks[0].tau}
    batch = solve(**{k: np.stack([getattr(t, k) for t in tasks]) for k in ("M", "C1", "C2", "p", "q")}, **common)
    assert len(batch) == 3
    for b, t in enumerate(tasks):
        one = solve(t.M, t.C1, t.C2, t.p, t.q, **common)
        np.testing.assert_allclose(batch[b].plan, one.plan, atol=1e-12)
        assert batch[b].value == pytest.approx(one.value, rel=1e-12)
        assert batch.converged[b] == one.converged


UNEQUAL = {"m": {"m": 0.5, "reg": 0.05}, "exact": {"m": 0.5}, "rel": {"reg_rel": 0.05}, "free": {"tau": (np.inf, 0), "reg": 0.05}}
UNEQUAL |= {how: {"normalize": how, "reg": 0.05} for how in ("mean", "max")} | {"starts": {"m": 0.5, "reg": 0.05, "n_init": 4}}


@pytest.mark.parametrize("common", UNEQUAL.values(), ids=UNEQUAL)
def test_solve_batch_of_unequal_sizes_equals_singles(common, backend):
    """Costs away from zero: padding must not count as a cost. The sums of padded rows round otherwise, hence the small tol."""
    problems = []
    for s, (n, k) in enumerate([(4, 5), (6, 3), (5, 7)]):
        t = oracle.problem("balanced", "fgw", n=n, k=k, seed=s)
        problems.append({"M": t.M + 1, "C1": t.C1 + 1, "C2": t.C2 + 1.5, "p": t.p, "q": t.q})
    for res, problem in zip(solve_batch(problems, **common, backend=backend, tol=1e-10), problems, strict=True):
        one = solve(**problem, **common, backend=backend, tol=1e-10)
        np.testing.assert_allclose(res.plan, one.plan, atol=1e-8)
        assert res.value == pytest.approx(one.value, rel=1e-9)


def test_plans_hold_no_denormal_numbers(rng):
    """They would slow every product with the plan by an order of magnitude."""
    x = rng.normal(size=(64, 3)).astype(np.float32)
    C = np.linalg.norm(x[:, None] - x, axis=2)
    res = solve(rng.random((64, 64)).astype(np.float32), C, C[::-1, ::-1].copy(), reg=0.02, m=0.6, on_fail="ignore")
    positive = res.plan[res.plan > 0]
    assert positive.min() >= 1e-30
    assert len(positive) < res.plan.size  # some would be
    assert res.residuals.marginal < 1e-4


@pytest.mark.parametrize("reg", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["balanced", "partial_totals", "semi_relaxed"])
def test_float32(kind, reg, backend):
    t = oracle.problem(kind, "fgw", reg=reg)
    wide = solve(**t.arguments, backend=backend)
    narrow = solve(**(t.arguments | {k: getattr(t, k).astype(np.float32) for k in ("M", "C1", "C2", "p", "q")}), backend=backend)
    assert narrow.plan.dtype == narrow.gradient.dtype == np.float32
    assert narrow.converged
    assert narrow.value == pytest.approx(wide.value, rel=1e-4)
    if reg:
        np.testing.assert_allclose(narrow.plan, wide.plan, atol=1e-4)


def test_torch_in_torch_out(backend):
    torch = pytest.importorskip("torch")
    t = oracle.problem("partial", "fgw")
    res = solve(**{k: torch.as_tensor(v) if isinstance(v, np.ndarray) else v for k, v in t.arguments.items()}, backend=backend)
    assert isinstance(res.plan, torch.Tensor)
    assert isinstance(res.gradient, torch.Tensor)
    np.testing.assert_array_equal(res.plan.numpy(), solve(**t.arguments, backend=backend).plan)
