"""Properties that hold for every problem, on random and on extreme ones; the seeds are fixed (`derandomize`)."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import oracle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import KINDS, Task

from fpgwot import ConvergenceWarning, audit, solve

FEW = settings(derandomize=True, max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
SOME = settings(FEW, max_examples=60)
HARD = [kind for kind, (_, _, _, tau) in KINDS.items() if all(x in (0.0, np.inf) for x in tau)]


@st.composite
def tasks(draw, exact=None, kinds=tuple(KINDS), parts=("linear", "gw", "fgw")):
    """A task of any kind; few points, so that its answer can be checked by the slow solver."""
    exact = draw(st.booleans()) if exact is None else exact
    kind = draw(st.sampled_from([k for k in kinds if k in HARD or not exact]))
    reg = 0.0 if exact else draw(st.sampled_from([0.03, 0.1, 1.0]))
    shape = {"n": draw(st.integers(2, 7)), "k": draw(st.integers(2, 7))}
    return oracle.problem(kind, draw(st.sampled_from(parts)), draw(st.booleans()), reg, seed=draw(st.integers(0, 999)), **shape)


def quiet(t: Task, **options):
    """Solve; no warning but ConvergenceWarning may come (all others are errors here)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return solve(**t.arguments, **options)


def check(t: Task, res, feasible: float = 1e-6, digits: float = 1e-12):
    """What holds for any input; and if `converged`, that the certificate says the truth."""
    T = np.asarray(res.plan, float)
    assert np.isfinite(T).all()
    assert (T >= 0).all()
    assert np.isfinite([res.value, res.mass, res.residuals.marginal, res.residuals.mass]).all()
    assert not np.isnan(res.residuals.stationarity)
    assert not np.isnan(res.gradient).any()
    assert not any(np.isnan(x).any() for x in res.potentials)
    if res.converged:
        assert oracle.violation(t, T) <= feasible
        # the terms of the value cancel: their rounding is that of mass times costs, prices and entropy
        sizes = [abs(A).max() ** power for A, power in ((t.M, 1), (t.C1, 2), (t.C2, 2)) if A is not None]
        scale = (sum(sizes) + 100 * t.reg + 100 * sum(x for x in t.tau if np.isfinite(x))) * (1 + T.sum()) ** 2
        assert abs(res.value - oracle.objective(t, T)) <= digits * scale


# -------------------------------------------------------------------------------------------------------------- properties


@SOME
@given(tasks(), st.sampled_from(["numpy", "numba"]))
def test_feasible_certified_and_as_the_audit_says(t, backend):
    res = quiet(t, backend=backend)
    check(t, res)
    assert res.converged
    found = audit(res.plan, **{k: v for k, v in t.arguments.items() if k != "mask"})
    scale = max(abs(x) for x in oracle.terms(t, res.plan).values()) + 1e-12
    assert abs(found.value - oracle.objective(t, res.plan)) <= 1e-10 * scale
    assert abs(found.value - res.value) <= 1e-9 * scale
    assert found.mass == pytest.approx(res.mass, rel=1e-12)
    assert found.marginal_violation <= 1e-6
    assert abs(found.marginal_violation - oracle.violation(t, res.plan)) <= 1e-6
    assert found.mass_error <= 1e-6
    if t.reg > 0:
        assert found.stationarity <= 1e-5
        assert oracle.stationarity(t, res.plan) <= 1e-5
    else:
        assert oracle.gap(t, res.plan) <= 1e-8 * abs(res.value) + 1e-10


@FEW
@given(tasks())
def test_transposed(t):
    """Rows and columns may be exchanged."""
    other = Task(t.q, t.p, None if t.M is None else t.M.T.copy(), t.C2, t.C1, t.alpha, t.reg, t.m, t.tau[::-1])
    one, two = quiet(t, tol=1e-9), quiet(other, tol=1e-9)
    if t.reg >= 0.1:  # one basin: the plans agree
        assert np.abs(one.plan - two.plan.T).sum() <= 1e-5 * one.mass
    if t.C1 is None or t.reg >= 0.1:
        assert one.value == pytest.approx(two.value, rel=1e-6, abs=1e-9)


@FEW
@given(tasks(), st.integers(0, 99))
def test_order_of_the_points_does_not_matter(t, seed):
    rng = np.random.default_rng(seed)
    i, j = rng.permutation(len(t.p)), rng.permutation(len(t.q))
    M, C1, C2 = (None if A is None else A[np.ix_(rows, cols)] for A, rows, cols in ((t.M, i, j), (t.C1, i, i), (t.C2, j, j)))
    one, two = quiet(t, tol=1e-9), quiet(replace(t, p=t.p[i], q=t.q[j], M=M, C1=C1, C2=C2), tol=1e-9)
    if t.C1 is None or t.reg >= 0.1:
        assert one.value == pytest.approx(two.value, rel=1e-6, abs=1e-9)
    if t.reg >= 0.1:
        np.testing.assert_allclose(one.plan[np.ix_(i, j)], two.plan, atol=1e-6)


@FEW
@given(tasks(), st.sampled_from([1e-9, 0.03, 7.0, 1e9]))
def test_costs_in_other_units(t, c):
    """All costs, prices and the entropy times c: the same plan, c times the value."""
    M, C1, C2 = (None if A is None else A * w for A, w in ((t.M, c), (t.C1, c**0.5), (t.C2, c**0.5)))
    other = replace(t, M=M, C1=C1, C2=C2, reg=t.reg * c, tau=tuple(x * c for x in t.tau))
    one, two = quiet(t), quiet(other)
    check(other, two)
    assert two.converged
    assert two.value == pytest.approx(c * one.value, rel=1e-5 if t.reg == 0 or t.reg >= 0.1 else 0.05, abs=1e-9 * c)
    if t.reg >= 0.1:
        np.testing.assert_allclose(one.plan, two.plan, atol=1e-5)


@FEW
@given(tasks(parts=("fgw",)), st.sampled_from([0.0, 1.0]))
def test_alpha_at_its_ends(t, alpha):
    """0 is linear transport, 1 pure Gromov-Wasserstein: the other cost has no say, whatever it is."""
    both = replace(t, alpha=alpha)
    alone = replace(both, C1=None, C2=None) if alpha == 0 else replace(both, M=None)
    one, two = quiet(both), quiet(alone)
    np.testing.assert_allclose(one.plan, two.plan, atol=1e-9)
    assert one.value == pytest.approx(two.value, rel=1e-9, abs=1e-12)


@FEW
@given(tasks(exact=True), st.integers(0, 99))
def test_exact_goes_down_from_any_start(t, seed):
    product = quiet(t)
    assert product.value <= oracle.objective(t, oracle.product_plan(t)) + 1e-10
    # a start that is feasible whatever the rules: a mean of the product plan and another solution
    M = np.random.default_rng(seed).random((len(t.p), len(t.q)))
    other = solve(**(t.arguments | {"M": M, "alpha": 0.0, "C1": None, "C2": None}))
    start = 0.5 * (other.plan + oracle.product_plan(t))
    res = quiet(t, init=start)
    check(t, res)
    assert res.value <= oracle.objective(t, start) + 1e-10


# ---------------------------------------------------------------------------------------------------------------- extremes

SHAPES = st.sampled_from([(1, 1), (1, 5), (5, 1), (2, 3), (6, 6)])


@st.composite
def extremes(draw):
    """Costs of every size and pattern, entropies from a ten-thousandth to a thousand times their range, tiny masses."""
    n, k = draw(SHAPES)
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    pattern = draw(st.sampled_from(["random", "zero", "constant", "ties", "duplicates", "negative", "spread"]))
    size = draw(st.sampled_from([1e-9, 1.0, 1e9]))
    M, C1, C2 = rng.random((n, k)), rng.random((n, n)), rng.random((k, k))
    if pattern == "zero":
        M, C1, C2 = 0 * M, 0 * C1, 0 * C2
    elif pattern == "constant":
        M, C1, C2 = 0 * M + 1, 0 * C1 + 1, 0 * C2 + 1
    elif pattern == "ties":
        M, C1, C2 = (np.round(2 * A) / 2 for A in (M, C1, C2))
    elif pattern == "duplicates":
        M, C1, C2 = np.repeat(M[:1], n, 0), np.ones((n, n)) * C1[0, 0], C2
    elif pattern == "negative":
        M, C1, C2 = -M - 1, -C1, -C2
    elif pattern == "spread":
        M, C1, C2 = (A * 10.0 ** rng.integers(-6, 1, A.shape) for A in (M, C1, C2))
    kind = draw(st.sampled_from(list(KINDS)))
    total_p, total_q, m, tau = KINDS[kind]
    exact = kind in HARD and draw(st.booleans())
    reg = 0.0 if exact else size * draw(st.sampled_from([1e-4, 1e-2, 1.0, 1e3]))
    m = m if m is None else m * draw(st.sampled_from([1.0, 1.0, 1e-9]))
    p, q = rng.dirichlet(np.ones(n)) + 1e-12, rng.dirichlet(np.ones(k)) + 1e-12
    part = draw(st.sampled_from(["linear", "gw", "fgw"]))
    alpha = {"linear": 0.0, "gw": 1.0, "fgw": 0.5}[part]
    C = (None, None) if part == "linear" else (size**0.5 * C1, size**0.5 * C2)
    tau = tuple(x * size for x in tau)
    return Task(p * total_p / p.sum(), q * total_q / q.sum(), None if part == "gw" else size * M, *C, alpha, reg, m, tau)


@settings(FEW, max_examples=150)
@given(extremes(), st.sampled_from(["numpy", "numba"]))
def test_extremes_never_make_nan_or_negative_entries(t, backend):
    res = quiet(t, backend=backend)
    check(t, res)
    if t.reg == 0:
        assert oracle.violation(t, res.plan) <= 1e-6  # the exact solver is feasible even where it stops early
    elif res.converged and t.mask is None:
        found = audit(res.plan, **{k: v for k, v in t.arguments.items() if k != "mask"})
        assert found.marginal_violation <= 1e-6
        assert found.mass_error <= 1e-6
        # the fixed point of the linearised problem; where the entropy is tiny, rounding of the costs moves it
        assert found.stationarity <= 1e-4 or t.reg < 1e-3 * max(abs(A).max() for A in (t.M, t.C1, t.C2) if A is not None)


@settings(FEW, max_examples=80)
@given(extremes(), st.sampled_from(["numpy", "numba"]))
def test_extremes_in_float32(t, backend):
    narrow = replace(t, **{k: A.astype(np.float32) for k in ("M", "C1", "C2") if (A := getattr(t, k)) is not None})
    res = quiet(narrow, backend=backend)
    assert res.plan.dtype == np.float32
    check(narrow, res, feasible=2e-4, digits=1e-6)


@pytest.mark.parametrize("reg", [0.0, 0.1])
def test_one_point_on_a_side(reg, backend):
    """The plan is then the marginal of the other side."""
    q = np.array([0.2, 0.5, 0.3])
    M, C1, C2 = np.array([[1.0, 2.0, 4.0]]), np.zeros((1, 1)), np.ones((3, 3)) - np.eye(3)
    for args in ((M,), (M, C1, C2), (None, C1, C2)):
        np.testing.assert_allclose(solve(*args, q=q, reg=reg, backend=backend).plan, q[None], atol=1e-9)
    np.testing.assert_allclose(solve([[3.0]], reg=reg, backend=backend).plan, [[1.0]])
    np.testing.assert_allclose(solve([[3.0]], m=1e-9, reg=reg, backend=backend).plan, [[1e-9]], rtol=1e-6)


@pytest.mark.parametrize("shift", [-5.0, 5.0])
def test_a_constant_in_the_cost_changes_nothing_but_the_value(shift, backend):
    """With the mass fixed: also where all costs are negative, which tempts a solver to send more."""
    for kind in ("balanced", "partial"):
        for reg in (0.0, 0.1):
            t = oracle.problem(kind, "linear", reg=reg)
            one, two = solve(**t.arguments, backend=backend), solve(**replace(t, M=t.M + shift).arguments, backend=backend)
            np.testing.assert_allclose(one.plan, two.plan, atol=1e-7)
            assert two.value == pytest.approx(one.value + shift * one.mass, rel=1e-7)


def test_everything_forbidden_with_free_marginals_is_an_empty_plan(backend):
    res = solve(np.ones((3, 3)), tau=0.5, reg=0.1, mask=np.zeros((3, 3), bool), backend=backend, on_fail="ignore")
    assert (res.plan == 0).all()
    assert np.isfinite(res.value)


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("max_iter", [1, 3])
def test_a_plan_that_is_cut_short_keeps_its_marginals(kind, max_iter, backend):
    """The last step that is allowed meets them, whatever the stage of the annealing."""
    t = oracle.problem(kind, "fgw", reg=0.003, n=20, k=17)
    res = solve(**t.arguments, max_iter=max_iter, tol=1e-12, backend=backend, on_fail="ignore")
    assert res.status.name == "MAX_ITER"
    assert res.residuals.marginal < 1e-6
    assert res.residuals.mass < 1e-6
