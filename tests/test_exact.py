"""The exact solver against independent oracles: SciPy's linear programs, brute force, finite differences, and POT."""

from __future__ import annotations

import itertools
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.sparse import coo_matrix

import fpgwot
from fpgwot._backends import network_simplex, numba_cpu, numpy_ref
from fpgwot._backends.numba_cpu import lp as numba_lp
from fpgwot._backends.numba_cpu import simplex
from fpgwot._solvers.energy import Energy
from fpgwot._solvers.frank_wolfe import solve
from fpgwot._solvers.linear_program import EMPTY, LinearProgram
from fpgwot.marginals import balanced, kl_penalty, partial_mass
from fpgwot.structure import Dense, LaplaceKernel, LowRank, PointCloud, PowerDistance, Toeplitz

PRIMITIVES = [
    *("fgw_gradient", "lp_basis", "lp_solve", "lp_nearest", "descend", "plan_sums", "plan_pairing", "plan_changes"),
    *("product_factors", "square_matvec", "plan_energy", "active_weights", "add_laplacians", "matmul"),
    *("power_matmul", "decay_matmul", "toeplitz_matmul"),
]


def backend(module):
    return SimpleNamespace(**{name: getattr(module, name) for name in PRIMITIVES})


NUMBA, NUMPY = backend(numba_cpu), backend(numpy_ref)
PYTHON = SimpleNamespace(**{**vars(NUMBA), "descend": None})  # every step in the loop that is not compiled


# ------------------------------------------------------------------------------------------------------------- oracles
def energy(C1, C2, T):
    """E by its definition, all four indices."""
    return np.einsum("ijkl,ij,kl->", (C1[:, None, :, None] - C2[None, :, None, :]) ** 2, T, T, optimize=True)


def objective(M, C1, C2, T, w_lin, w_quad):
    """F without the four-index array, for larger problems."""
    mu, nu = T.sum(1), T.sum(0)
    E = mu @ (C1 * C1) @ mu + nu @ (C2 * C2) @ nu - 2 * np.sum((C1 @ T @ C2.T) * T)
    return w_lin * (0.0 if M is None else np.sum(M * T)) + w_quad * E


def highs(G, p, q, rule, mass=None, allowed=None):
    """min <G,T> by HiGHS over the constraints as they are written down: no dummies, no arcs."""
    n, m = G.shape
    sums = np.zeros((n + m, n * m))
    for i, j in itertools.product(range(n), range(m)):
        sums[i, i * m + j] = sums[n + j, i * m + j] = 1
    bounds = [(0, None if allowed is None or ok else 0) for ok in (np.ones(G.shape) if allowed is None else allowed).ravel()]
    cost = (G if allowed is None else np.where(allowed, G, 0.0)).ravel()
    options = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    if rule == "balanced":
        args = {"A_eq": sums, "b_eq": np.concatenate((p, q * (p.sum() / q.sum())))}
    elif rule == "partial":
        args = {"A_ub": sums, "b_ub": np.concatenate((p, q)), "A_eq": np.ones((1, n * m)), "b_eq": [mass]}
    elif rule == "rows":
        args = {"A_eq": sums[:n], "b_eq": p}
    else:
        args = {"A_eq": sums[n:], "b_eq": q}
    result = linprog(cost, bounds=bounds, method="highs-ds", options=options, **args)
    assert result.status == 0, result.message
    return result.fun


def random_problem(n, m, seed, symmetric=True, uniform=False):
    rng = np.random.default_rng(seed)
    M, C1, C2 = rng.normal(size=(n, m)), rng.normal(size=(n, n)), rng.normal(size=(m, m))
    if symmetric:
        C1, C2 = C1 + C1.T, C2 + C2.T
    p, q = (np.full(k, 1 / k) if uniform else rng.dirichlet(np.full(k, 3.0)) for k in (n, m))
    return M, C1, C2, p, q


def sequences(n, m, seed, ties=True):
    """Two noisy sequences of eight steps, two of them swapped, a quarter of the frames background: the same one with `ties`."""
    rng = np.random.default_rng(seed)
    steps, order = rng.normal(size=(8, 16)), np.array([0, 1, 2, 4, 3, 5, 6, 7])
    X, Y = (steps[o[np.arange(k) * 8 // k]] + 0.7 * rng.normal(size=(k, 16)) for k, o in ((n, np.arange(8)), (m, order)))
    for Z in (X, Y):
        background = rng.random(len(Z)) < 0.25
        Z[background] = rng.normal(size=16 if ties else (background.sum(), 16))
        Z /= np.linalg.norm(Z, axis=1, keepdims=True)
    C1, C2 = (np.abs(np.subtract.outer(np.arange(k), np.arange(k))) / k for k in (n, m))
    return 1 - X @ Y.T, C1, C2, np.full(n, 1 / n), np.full(m, 1 / m)


def marginals_of(code, x, n, m):
    i, j = np.divmod(code, m)
    return np.bincount(i, x, n), np.bincount(j, x, m)


def rules(mass):
    """Arguments of `solve` for a mass, or for None (balanced), "rows", "columns"."""
    if mass is None:
        return {"marginals": balanced(), "mass": None}
    if isinstance(mass, str):
        return {"marginals": kl_penalty(np.inf, 0) if mass == "rows" else kl_penalty(0, np.inf), "mass": None}
    return {"marginals": partial_mass(), "mass": mass}


def fgw(M, C1, C2, p, q, mass=None, alpha=0.5, be=NUMBA, **options):
    C1, C2 = (None if C is None else Dense(np.ascontiguousarray(C)) for C in (C1, C2))
    return solve(be, M, C1, C2, p, q, w_lin=1 - alpha, w_quad=alpha, **rules(mass), **options)


def check(res, p, q, mass=None, tol=1e-12):
    """Feasibility, and the signs and complementary slackness of the duals."""
    T, row, col, total = res.plan, res.plan.sum(1), res.plan.sum(0), res.plan.sum()
    assert T.min() >= 0
    scale = max(1.0, np.abs(res.gradient[res.gradient < 1e29]).max())
    if mass != "columns":
        assert np.all(row <= p + tol)
    if mass != "rows":
        assert np.all(col <= q + tol)
    if mass is None or mass == "rows":
        np.testing.assert_allclose(row, p, atol=tol)
    if mass is None or mass == "columns":
        np.testing.assert_allclose(col, q, atol=tol)
    if isinstance(mass, float):
        assert abs(total - mass) <= tol * mass
        assert res.f.max() <= 0 and res.g.max() <= 0
    elif mass in ("rows", "columns"):
        assert res.h == 0 and np.all((res.g if mass == "rows" else res.f) == 0)
    reduced = res.gradient - res.f[:, None] - res.g - res.h
    assert reduced.min() >= -1e-11 * scale
    # every part of the duality gap is one of complementary slackness, none is negative, and they add up to the gap
    assert res.f @ (row - p) + res.g @ (col - q) + np.sum(reduced * T) == pytest.approx(res.gap, abs=1e-11 * scale * total)
    if res.status == "converged":
        assert res.gap <= 1e-8 * scale * total


MODES = [None, 0.8, 0.3, "rows", "columns"]
RULE = {None: "balanced", "rows": "rows", "columns": "columns"}


# --------------------------------------------------------------------------------------------------- linear programs
@pytest.mark.parametrize("be", [NUMBA, NUMPY], ids=["numba", "numpy"])
@pytest.mark.parametrize("mass", MODES)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 5), (7, 4), (9, 12), (34, 31)])
def test_linear_ot_equals_linprog(n, m, mass, be, monkeypatch):
    M, _, _, p, q = random_problem(n, m, seed=n)
    for dense_up_to in (10**6, 0):  # sweeps over all pairs, or most pivots on few arcs
        monkeypatch.setattr(simplex, "DENSE_UP_TO", dense_up_to)
        for shift in (0.0, -5.0, 5.0):
            res = fgw(M + shift, None, None, p, q, mass, alpha=0.0, be=be)
            assert res.status == "converged" and res.value_quad == 0
            assert res.value_linear == pytest.approx(
                highs(M + shift, p, q, RULE.get(mass, "partial"), mass), abs=1e-10 * (1 + abs(shift))
            )
            check(res, p, q, mass)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mass", [None, 0.7])
def test_few_arcs_are_as_good_as_all(seed, mass, monkeypatch):
    """Structured costs: started from one arc a node, the sweeps over all pairs must find what is missing."""
    M, _, _, p, q = sequences(60, 50, seed)
    everything = fgw(M, None, None, p, q, mass, alpha=0.0)
    monkeypatch.setattr(simplex, "DENSE_UP_TO", 0)
    monkeypatch.setattr(simplex, "K_COLD", 1)
    few = fgw(M, None, None, p, q, mass, alpha=0.0)
    assert few.n_rounds > 1
    assert few.value_linear == pytest.approx(everything.value_linear, rel=1e-12)
    check(few, p, q, mass)


@pytest.mark.parametrize("kind", ["uniform", "random", "integers", "tiny", "one heavy"])
@pytest.mark.parametrize("mass", [None, 0.3, "priced"])
def test_simplex_equals_pots(kind, mass):
    """Own basis against POT's simplex on all arcs: value, marginals and duals, cold and from the last basis, with ties."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        n, m = rng.integers(1, 40, 2)
        if kind == "uniform":
            p, q = np.full(n, 1 / n), np.full(m, 1 / m)
        elif kind == "tiny":
            p, q = (rng.dirichlet(np.full(k, 0.02)) + 1e-25 for k in (n, m))
        elif kind == "one heavy":
            p, q = (np.append(np.full(k - 1, 1e-9), 1.0) for k in (n, m))
        else:
            p, q = rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))
        p, q = p / p.sum(), q / q.sum()
        free = mass == "priced"
        args = (p, q, mass if mass == 0.3 else 1.0, mass is not None, mass is not None, free)
        own, pots = NUMBA.lp_basis(*args), NUMPY.lp_basis(*args)
        for _ in range(3):
            G = rng.integers(-3, 4, (n, m)).astype(float) if kind == "integers" else rng.normal(size=(n, m)) - 0.3
            top = np.abs(G).max()
            (code, x, u, v, low, limit, _), (code0, x0, *_) = NUMBA.lp_solve(own, G, top), NUMPY.lp_solve(pots, G, top)
            assert np.all(np.diff(code) > 0) and x.min(initial=1.0) > 0 and limit <= low <= 0
            assert x @ G.ravel()[code] == pytest.approx(x0 @ G.ravel()[code0], abs=1e-12)
            row, col = (np.bincount(k, x, size) for k, size in zip(np.divmod(code, m), (n, m), strict=True))
            if mass is None:
                np.testing.assert_allclose(row, p, rtol=1e-12, atol=1e-15)
                np.testing.assert_allclose(col, q, rtol=1e-12, atol=1e-15)
            assert np.all(row <= p + 1e-15) and np.all(col <= q + 1e-15)
            if mass == 0.3:
                assert x.sum() == pytest.approx(0.3, rel=1e-14)
            assert (G - u[:n, None] - v[:m]).min() >= limit
            assert np.all(np.abs(G - u[:n, None] - v[:m]).ravel()[code] <= -limit)


@pytest.mark.parametrize("mass", [None, 0.6])
def test_equal_weights_give_whole_matches(mass):
    """With n = m and equal weights a vertex is a matching: entries 1/n to the last digit and no crumbs."""
    n = 45
    p = np.full(n, 1 / n)
    M = np.random.default_rng(0).integers(0, 3, (n, n)).astype(float)
    res = fgw(M, None, None, p, p, mass, alpha=0.0)
    assert np.count_nonzero(res.plan) == (n if mass is None else 27)
    assert np.all(np.abs(res.plan[res.plan > 0] - 1 / n) <= 1e-17)


def test_later_programs_start_from_the_last_one():
    M, _, _, p, q = sequences(90, 80, 0)
    lp = LinearProgram(NUMBA, p, q, partial_mass(), 0.6, M)
    rng = np.random.default_rng(0)
    for _ in range(3):
        G = M + 0.05 * rng.normal(size=M.shape)
        code, x, low = lp(G, np.abs(G).max())
        fresh = fgw(G, None, None, p, q, 0.6, alpha=0.0)
        assert x @ G.ravel()[code] == pytest.approx(fresh.value_linear, abs=1e-13)
        assert np.all(np.diff(code) > 0) and -1e-12 < low <= 0


def test_public_simplex_gives_the_same(monkeypatch):
    M, C1, C2, p, q = sequences(40, 40, 1)
    private = fgw(M, C1, C2, p, q, 0.8, be=NUMPY)
    monkeypatch.setattr(network_simplex, "_compiled", lambda: None)
    public = fgw(M, C1, C2, p, q, 0.8, be=NUMPY)
    np.testing.assert_allclose(public.plan, private.plan, atol=1e-15)
    check(public, p, q, 0.8)


def test_compiled_simplex_has_the_signature_we_use():
    compiled = network_simplex._compiled()
    assert compiled is not None, "POT moved its sparse routine; the slower public one is used"
    ends = np.array([0, 1], np.uint64)
    out = compiled(np.array([0.4, 0.6]), np.array([0.4, 0.6]), ends, ends, np.array([1.0, 2.0]), 1000, np.zeros(2), np.zeros(2))
    assert len(out) == 7 and out[3] == pytest.approx(1.6) and out[6] == 1


@pytest.mark.parametrize("private", [True, False])
def test_infeasible_arcs_raise(private, monkeypatch):
    if not private:
        monkeypatch.setattr(network_simplex, "_compiled", lambda: None)
    ends = np.array([0, 1], np.uint64), np.array([0, 0], np.uint64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(network_simplex.LinearProgramError, match="no feasible flow"):
            network_simplex.sparse_lp(np.array([0.5, 0.5]), np.array([0.5, 0.5]), *ends, np.ones(2))


# ---------------------------------------------------------------------------------------------------- primitives' twins
@pytest.mark.parametrize(("n", "m", "k"), [(1, 1, 4), (5, 9, 3), (40, 33, 8), (130, 70, 16), (300, 290, 8)])
def test_candidates_hold_the_nearest_arcs(n, m, k):
    rng = np.random.default_rng(n)
    G = rng.normal(size=(n, m))
    G[rng.random((n, m)) < 0.1] = 1e30
    top = np.abs(G[G < 1e29]).max(initial=0.0)
    u, v = numba_lp.lp_reduce(G, top)
    np.testing.assert_allclose(u, np.minimum(G.min(1), top), atol=0)
    np.testing.assert_allclose(v, np.minimum((G - u[:, None]).min(0), 2 * top), atol=0)
    reduced = np.where(G < 1e29, G - u[:, None] - v, np.inf)
    near = np.concatenate([np.argsort(reduced, 1)[:, :k].ravel() + 0, np.argsort(reduced, 0)[:k].ravel()])
    rows = np.concatenate([np.repeat(np.arange(n), min(k, m)), near[n * min(k, m) :]])
    cols = np.concatenate([near[: n * min(k, m)], np.tile(np.arange(m), min(k, n))])
    plain = np.unique((rows * m + cols)[reduced[rows, cols] < np.inf])
    fast = numba_lp.lp_candidates(G, u, v, k)
    assert np.all(np.diff(fast) > 0) and np.isin(plain, fast).all()
    assert np.all(G.ravel()[fast] < 1e29) and len(fast) <= 3 * k * (n + m)
    for by_row in (True, False):
        np.testing.assert_array_equal(NUMBA.lp_nearest(G, by_row), NUMPY.lp_nearest(G, by_row))


def test_parallel_forms_equal_the_serial_ones(monkeypatch):
    """Blocks do not depend on the number of threads; only the threshold that picks a form is moved here."""
    M, C1, C2, p, q = sequences(150, 130, 3)
    monkeypatch.setattr(simplex, "DENSE_UP_TO", 0)
    serial = fgw(M, C1, C2, p, q, 0.8)
    for kernel in (numba_lp._gradient, numba_lp._column_limits, numba_lp._near_pairs, numba_lp._plan_energy, simplex._flags):
        monkeypatch.setattr(kernel, "PARALLEL_FROM", 0, raising=False)
        monkeypatch.setattr(kernel, "EARNED", 0.0, raising=False)
    parallel = fgw(M, C1, C2, p, q, 0.8)
    np.testing.assert_allclose(parallel.plan, serial.plan, atol=1e-15)
    assert parallel.value_quad == pytest.approx(serial.value_quad, rel=1e-13)


def test_plan_primitives_equal_their_twins():
    rng = np.random.default_rng(0)
    n, m = 23, 17
    M, A, s1, s2 = rng.normal(size=(n, m)), rng.normal(size=(n, m)), rng.random(n), rng.random(m)
    M[3, 4] = 1e30
    for args in ((M, A), (None, A)):
        G, H = np.empty((n, m)), np.empty((n, m))
        tops = [be.fgw_gradient(*args, s1, s2, 0.3, 0.7, -1.1, X) for be, X in ((NUMBA, G), (NUMPY, H))]
        np.testing.assert_allclose(G, H, atol=1e-14)
        assert tops[0] == pytest.approx(tops[1], abs=1e-14) and tops[0] < 100
    (code, x), (code0, x0) = ((np.sort(rng.choice(n * m, k, replace=False)), rng.random(k)) for k in (30, 25))
    for X in (M, None):
        for a, b in zip(NUMBA.plan_sums(code, x, X, A), NUMPY.plan_sums(code, x, X, A), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-13)
    assert NUMBA.plan_pairing(code, x, s1, s2, A, -2.0) == pytest.approx(NUMPY.plan_pairing(code, x, s1, s2, A, -2.0), rel=1e-13)
    for a, b in zip(NUMBA.plan_changes(code, x, code0, x0, n, m), NUMPY.plan_changes(code, x, code0, x0, n, m), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)
    B = [A.copy(), A.copy()]
    for be, X in zip((NUMBA, NUMPY), B, strict=True):
        be.add_laplacians(code, x, 0.3, X)
    np.testing.assert_allclose(B[0], B[1], atol=1e-14)
    assert np.abs(B[0] - A).max() > 0.1
    X1, X2 = rng.normal(size=(n, n)), rng.normal(size=(m, m))
    assert np.allclose(NUMBA.square_matvec(X1, s1), NUMPY.square_matvec(X1, s1), rtol=1e-13)
    i, j = np.divmod(code, m)
    assert NUMBA.plan_energy(i, j, x, X1, X2) == pytest.approx(NUMPY.plan_energy(i, j, x, X1, X2), rel=1e-13)
    D, D0 = (coo_matrix((z, np.divmod(c, m)), shape=(n, m)).toarray() for c, z in ((code, x), (code0, x0)))
    for be in (NUMBA, NUMPY):
        L, R = be.product_factors(code, x, code0, x0, X1, X2)
        np.testing.assert_allclose(L.T @ R, X1.T @ (D - D0) @ X2, atol=1e-12)
        L, R = be.product_factors(code, x, code[2:], x[2:], X1, X2)
        assert len(L) <= 2
    H, c = rng.normal(size=(6, 6)), rng.normal(size=6)
    H = H @ H.T
    w = [be.active_weights(H, c, np.full(6, 1 / 6), 1e-12, 10000) for be in (NUMBA, NUMPY)]
    np.testing.assert_allclose(w[0], w[1], atol=1e-9)
    g = c + 2 * H @ w[0]
    assert w[0].min() >= 0 and w[0].sum() == pytest.approx(1) and g[w[0] > 0].max() - g.min() <= 1e-9


# ------------------------------------------------------------------------------------------------- energy and gradient
@pytest.mark.parametrize("skew", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("be", [NUMBA, NUMPY], ids=["numba", "numpy"])
def test_gradient_is_the_derivative(skew, be):
    """Central differences of the definition in every direction e_i e_j', at a plan that is not a vertex."""
    n, m, alpha = 6, 5, 0.6
    M, C1, C2, p, q = random_problem(n, m, 3, symmetric=False)
    C1, C2 = (C if s else C + C.T for C, s in zip((C1, C2), skew, strict=True))
    T = 0.6 * np.outer(p, q) + 0.4 * np.diag(np.ones(n))[:, :m] / n
    res = fgw(M, C1, C2, T.sum(1), T.sum(0), None, alpha, be=be, T0=T, max_iter=1)

    def F(T):
        return (1 - alpha) * np.sum(M * T) + alpha * energy(C1, C2, T)

    eps, expected = 1e-5, np.empty((n, m))
    for i, j in itertools.product(range(n), range(m)):
        D = np.zeros((n, m))
        D[i, j] = eps
        expected[i, j] = (F(T + D) - F(T - D)) / (2 * eps)
    np.testing.assert_allclose(res.gradient, expected, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(res.plan, T, atol=1e-15)
    assert res.value_quad == pytest.approx(alpha * energy(C1, C2, T), rel=1e-12)
    assert res.value_linear == pytest.approx((1 - alpha) * np.sum(M * T), rel=1e-12)


@pytest.mark.parametrize("symmetric", [True, False])
def test_products_by_difference(symmetric):
    rng = np.random.default_rng(5)
    _, C1, C2, _, _ = random_problem(30, 26, 5, symmetric)
    e = Energy(NUMBA, Dense(C1), Dense(C2), (30, 26), 1.0, "square", 0.0)
    last, A = EMPTY, None
    for size in (20, 24, 700, 3):
        code = np.sort(rng.choice(30 * 26, size, replace=False))
        x = rng.random(size)
        A, last = e.product(code, x, last, A), (code, x)
        T = coo_matrix((x, np.divmod(code, 26)), shape=(30, 26)).toarray()
        np.testing.assert_allclose(A, (C1 @ T @ C2.T + C1.T @ T @ C2) / 2, atol=1e-11)
        assert e.value(code, x, 0.0, 1.0) == pytest.approx(energy(C1, C2, T) if size < 300 else 0.0, rel=1e-11)


# ------------------------------------------------------------------------------------------------------ the whole solver
@pytest.mark.parametrize("mass", MODES)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("n", "m", "seed"), [(5, 7, 0), (8, 6, 1), (12, 12, 2), (30, 32, 3)])
def test_converges_to_a_stationary_point(n, m, seed, symmetric, mass):
    """The gap, computed again from the plan with another gradient and another linear program, is zero."""
    alpha = 0.5
    M, C1, C2, p, q = random_problem(n, m, seed, symmetric)
    res = fgw(M, C1, C2, p, q, mass, alpha)
    T = res.plan
    assert res.status == "converged"
    check(res, p, q, mass)
    mu, nu = T.sum(1), T.sum(0)
    s1, s2 = (C1**2 + C1.T**2) @ mu / 2, (C2**2 + C2.T**2) @ nu / 2
    G = (1 - alpha) * M + 2 * alpha * (s1[:, None] + s2 - C1 @ T @ C2.T - C1.T @ T @ C2)
    np.testing.assert_allclose(res.gradient, G, atol=1e-11)
    gap = np.sum(G * T) - highs(G, p, q, RULE.get(mass, "partial"), mass)
    F = objective(M, C1, C2, T, 1 - alpha, alpha)
    assert gap <= 1e-8 * max(1, abs(F)) and res.gap <= 1e-9 * abs(F) + 1e-12
    assert res.value_linear + res.value_quad == pytest.approx(F, rel=1e-11)
    assert np.all(np.diff(res.history[:, 0]) <= 1e-12 * np.abs(res.history[:-1, 0]))
    assert res.history[-1, 0] == pytest.approx(F, rel=1e-10)


@pytest.mark.parametrize("symmetric", [True, False])
def test_line_search_is_exact(symmetric):
    """After one step F is the minimum of the segment: checked on a grid, inside it and at its end."""
    inside = 0
    for seed in range(8):
        M, C1, C2, p, q = random_problem(9, 8, seed, symmetric)
        if seed % 2:  # -2 <C1 T C2, T> is convex: the minimum may lie inside
            M, C1, C2 = 0.1 * M, 0.3 * C1 + C1 @ C1.T, 0.3 * C2 - C2 @ C2.T
        first, second = (fgw(M, C1, C2, p, q, 0.8, max_iter=k) for k in (1, 2))
        D = second.plan - first.plan
        gamma = 1.0 if np.count_nonzero(second.plan) <= 18 else 1 - (second.plan / first.plan).min()
        inside += gamma < 1
        F = [objective(M, C1, C2, first.plan + t / gamma * D, 0.5, 0.5) for t in np.linspace(0, 1, 101)]
        assert objective(M, C1, C2, second.plan, 0.5, 0.5) <= min(F) + 1e-13 * abs(F[0])
        assert second.history[1, 0] == pytest.approx(objective(M, C1, C2, second.plan, 0.5, 0.5), rel=1e-12)
    assert 0 < inside < 8


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("mass", MODES)
@pytest.mark.parametrize("loss", ["square", "product"])
def test_the_compiled_loop_does_the_same(loss, mass, symmetric):
    """Whole steps in one call, all steps in the loop, and the plain backend: the same F and gap at every program."""
    vertices = 0
    for seed in range(4):
        M, C1, C2, p, q = random_problem(11, 13, seed, symmetric)
        if seed == 3:
            M, C1, C2 = 3 * M, 0.1 * C1, 0.1 * C2
        for iterations in (1, 2, 1000):
            runs = [fgw(M, C1, C2, p, q, mass, be=be, loss=loss, max_iter=iterations) for be in (NUMBA, PYTHON, NUMPY)]
            for other in runs[1:]:
                assert other.status == runs[0].status
                np.testing.assert_allclose(other.history[:6], runs[0].history[:6], rtol=1e-8, atol=1e-8)
                assert other.value_quad == pytest.approx(runs[0].value_quad, abs=1e-3)
                if iterations < 3:
                    np.testing.assert_allclose(other.plan, runs[0].plan, atol=1e-9)
                    np.testing.assert_allclose(other.gradient, runs[0].gradient, atol=1e-8)
        check(runs[0], p, q, mass)
        vertices += np.count_nonzero(runs[0].plan) <= 24
    assert vertices


@pytest.mark.parametrize("be", [NUMBA, NUMPY], ids=["numba", "numpy"])
@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("loss", ["square", "product"])
@pytest.mark.parametrize("mass", [None, 0.7, "rows"])
def test_product_loss_and_smoothness(mass, loss, structured, be):
    """Value by its definition, gradient by central differences, stationarity by another linear program."""
    gamma = 0.4
    for n, m, seed in ((6, 5, 0), (1, 4, 1), (9, 9, 2)):
        M, C1, C2, p, q = random_problem(n, m, seed, symmetric=False)
        alpha = 0.6 if structured else 0.0

        def F(T, M=M, C1=C1, C2=C2, alpha=alpha):
            product = np.einsum("ik,jl,ij,kl->", C1, C2, T, T, optimize=True)
            rough = np.sum(np.diff(T, axis=0) ** 2) + np.sum(np.diff(T, axis=1) ** 2)
            return (1 - alpha) * np.sum(M * T) + alpha * (energy(C1, C2, T) if loss == "square" else product) + gamma / 2 * rough

        C = (C1, C2) if structured else (None, None)
        res = fgw(M, *C, p, q, mass, alpha, be=be, loss=loss, smoothness=gamma)
        assert res.status == "converged"
        check(res, p, q, mass)
        assert res.value_linear + res.value_quad == pytest.approx(F(res.plan), rel=1e-10, abs=1e-12)
        eps, G = 1e-5, np.empty((n, m))
        for i, j in itertools.product(range(n), range(m)):
            D = np.zeros((n, m))
            D[i, j] = eps
            G[i, j] = (F(res.plan + D) - F(res.plan - D)) / (2 * eps)
        np.testing.assert_allclose(res.gradient, G, atol=1e-8)
        assert np.sum(G * res.plan) - highs(G, p, q, RULE.get(mass, "partial"), mass) <= 1e-7
        assert np.all(np.diff(res.history[:, 0]) <= 1e-12)


OPERATORS = {
    "distance": lambda n: PowerDistance(n, scale=1 / n),
    "stamps": lambda n: PowerDistance(None, times=np.cumsum(1.0 + np.arange(n) % 3)),
    "squares": lambda n: PowerDistance(n, power=2, scale=1 / n**2),
    "laplace": lambda n: LaplaceKernel(n, scale=0.2 * n, weight=-1.0, offset=1.0),
    "band": lambda n: Toeplitz(np.append([0.0, 1.0, 0.5], np.zeros(n - 3))),
    "one way": lambda n: Toeplitz(np.arange(n) / n, upper=np.sqrt(np.arange(n) / n)),
    "low rank": lambda n: LowRank(*np.random.default_rng(n).normal(size=(2, n, 3))),
    "points": lambda n: PointCloud(np.random.default_rng(n).normal(size=(n, 2))),
    "array": lambda n: Dense(np.cos(np.subtract.outer(np.arange(n), np.arange(n)))),
}


@pytest.mark.parametrize("kinds", [*[(k, k) for k in OPERATORS], ("distance", "array"), ("one way", "laplace")], ids="-".join)
@pytest.mark.parametrize(("loss", "smoothness"), [("square", 0.0), ("product", 0.0), ("square", 0.1)])
def test_operators_give_what_their_arrays_give(kinds, loss, smoothness):
    """Products by difference, thin and whole, of sparse and full plans; then the solver itself, and no array is built."""
    n, m = 40, 44
    rng = np.random.default_rng(1)
    C1, C2 = OPERATORS[kinds[0]](n), OPERATORS[kinds[1]](m)
    D1, D2 = Dense(np.asarray(C1.to_dense())), Dense(np.asarray(C2.to_dense()))
    operators, arrays = (Energy(NUMBA, *C, (n, m), 0.7, loss, smoothness) for C in ((C1, C2), (D1, D2)))
    plans = [np.sort(rng.choice(n * m, size, replace=False)) for size in (60, 1500, 70)]
    last, A = EMPTY, None
    for code in (*plans, plans[-1]):
        x = rng.random(len(code)) if code is not plans[-1] else np.where(np.arange(70) < 60, 0.1, rng.random(70))
        out, work = np.full((n, m), np.nan), np.full((n, m), np.nan)
        A = operators.product(code, x, last, A, out, work)
        assert A is out
        np.testing.assert_allclose(A, arrays.product(code, x), atol=1e-9)
        mu, nu = rng.random(n), rng.random(m)
        for a, b in zip(operators.squares(mu, nu), arrays.squares(mu, nu), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(operators.rank_one(mu, nu), arrays.rank_one(mu, nu), rtol=1e-9, atol=1e-9)
        full = arrays.pairing(code, x, *arrays.squares(*marginals_of(code, x, n, m)), arrays.product(code, x))
        for e in (operators, arrays):  # by definition where little is left
            assert e.value(code, x, full if smoothness or loss == "product" else 0.0, 1e9) == pytest.approx(
                full, rel=1e-9
            ) or len(x) > 6 * (n + m)
        last = code, x
    M, p, q = rng.random((n, m)), rng.dirichlet(np.full(n, 3.0)), rng.dirichlet(np.full(m, 3.0))
    options = {"w_lin": 0.4, "w_quad": 0.6, "loss": loss, "smoothness": smoothness, **rules(0.8)}
    ours, plain = solve(NUMBA, M, C1, C2, p, q, **options), solve(PYTHON, M, D1, D2, p, q, **options)
    assert ours.status == plain.status == "converged"
    check(ours, p, q, 0.8)
    k = min(4, ours.n_iter, plain.n_iter)
    np.testing.assert_allclose(ours.history[:k], plain.history[:k], rtol=1e-8, atol=1e-8)


def test_temporal_operators_build_no_array(monkeypatch):
    def refuse(self):
        raise AssertionError("an n x n array was built")

    monkeypatch.setattr(PowerDistance, "to_dense", refuse)
    monkeypatch.setattr(LaplaceKernel, "to_dense", refuse)
    n = 150
    M = np.random.default_rng(0).random((n, n))
    p = np.full(n, 1 / n)
    options = {"w_lin": 0.4, "w_quad": 0.6, **rules(0.8)}
    assert solve(NUMBA, M, PowerDistance(n), LaplaceKernel(n, 9.0), p, p, **options).status == "converged"
    same = solve(NUMBA, None, PowerDistance(n), PowerDistance(n), p, p, w_lin=0.0, w_quad=1.0, T0=np.eye(n) / n, **rules(None))
    assert same.status == "converged" and same.value_quad == 0


@pytest.mark.parametrize("seed", range(6))
def test_brute_force_over_permutations(seed):
    """Squared distances of the line make E concave on balanced plans: the optimum is a permutation, and ours is none better."""
    rng = np.random.default_rng(seed)
    n = 5
    x, y, M = rng.random(n), rng.random(n), rng.random((n, n))
    C1, C2 = (np.subtract.outer(z, z) ** 2 for z in (x, y))
    p = np.full(n, 1 / n)
    best = min(objective(M, C1, C2, np.eye(n)[list(s)] / n, 0.5, 0.5) for s in itertools.permutations(range(n)))
    res = fgw(M, C1, C2, p, p)
    F = objective(M, C1, C2, res.plan, 0.5, 0.5)
    assert best - 1e-14 <= F <= best * 1.15
    found = min(
        objective(M, C1, C2, fgw(M, C1, C2, p, p, T0=np.eye(n)[list(s)] / n).plan, 0.5, 0.5)
        for s in itertools.permutations(range(n))
    )
    assert found == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(40, 40), (48, 64), (128, 128), (256, 240)])
@pytest.mark.parametrize("mass", [None, 0.8])
def test_never_above_pot(n, m, mass):
    ot = pytest.importorskip("ot")
    M, C1, C2, p, q = sequences(n, m, n, ties=False)  # with ties, stationary points are many and which is met is chance
    res = fgw(M, C1, C2, p, q, mass, alpha=0.3)
    check(res, p, q, mass)
    assert res.status == "converged"
    if mass is None:
        T = ot.gromov.fused_gromov_wasserstein(M, C1, C2, p, q, alpha=0.3)
    else:
        T = ot.gromov.partial_fused_gromov_wasserstein(M, C1, C2, p, q, m=mass, alpha=0.3, numItermax=10**7)
    pot = objective(M, C1, C2, T, 0.7, 0.3)
    assert objective(M, C1, C2, res.plan, 0.7, 0.3) <= pot * (1 + 1e-9)


@pytest.mark.parametrize("mass", [None, 0.7, "rows"])
def test_both_backends_reach_the_same_value(mass):
    M, C1, C2, p, q = sequences(45, 50, 9)
    ours, plain = (fgw(M, C1, C2, p, q, mass, be=be) for be in (NUMBA, NUMPY))
    assert plain.status == "converged"
    check(plain, p, q, mass)
    assert ours.value_linear + ours.value_quad == pytest.approx(plain.value_linear + plain.value_quad, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_optimum_inside_a_face(seed):
    """Indefinite structures: the optimum is a mixture of vertices, which plain conditional gradient approaches in 1/k."""
    M, C1, C2, p, q = random_problem(48, 48, seed, uniform=True)
    M = M - M.min()
    res = fgw(M / M.max(), C1 / np.abs(C1).max(), C2 / np.abs(C2).max(), p, q, 0.8, tol=1e-11)
    assert res.status == "converged" and res.n_iter < 80
    check(res, p, q, 0.8)


def test_linear_in_the_start():
    """A stationary start stays; a stop is obeyed and reports the plan it stopped at."""
    M, C1, C2, p, q = sequences(40, 40, 2)
    res = fgw(M, C1, C2, p, q, 0.7)
    again = fgw(M, C1, C2, p, q, 0.7, T0=res.plan)
    assert again.n_iter == 1
    np.testing.assert_allclose(again.plan, res.plan, atol=1e-15)
    seen = []
    stopped = fgw(M, C1, C2, p, q, 0.7, callback=lambda *args: seen.append(args) or len(seen) == 2)
    assert stopped.status == "stopped" and len(seen) == 2 == stopped.n_iter
    assert seen[1][1] == pytest.approx(objective(M, C1, C2, stopped.plan, 0.5, 0.5), rel=1e-12)
    capped = fgw(M, C1, C2, p, q, 0.7, max_iter=1)
    assert capped.status == "max_iter" and capped.gap > 1e-3
    np.testing.assert_allclose(capped.plan, 0.7 * np.outer(p, q), atol=1e-16)


@pytest.mark.parametrize("be", [NUMBA, PYTHON], ids=["compiled", "python"])
@pytest.mark.parametrize("mass", [None, 0.7])
def test_a_gap_that_is_enough_stops(mass, be):
    M, C1, C2, p, q = sequences(40, 40, 2)
    full = fgw(M, C1, C2, p, q, mass, be=be)
    assert full.n_iter > 2
    for k, gap in enumerate(full.history[:-1, 1]):
        res = fgw(M, C1, C2, p, q, mass, be=be, enough=1.001 * gap)
        assert (res.status, res.n_iter) == ("stopped", k + 1)
        np.testing.assert_array_equal(res.history, full.history[: k + 1])
        assert res.history[-1, 0] == pytest.approx(objective(M, C1, C2, res.plan, 0.5, 0.5), rel=1e-12)
        assert fgw(M, C1, C2, p, q, mass, be=be, enough=0.999 * gap).n_iter > k + 1


# ----------------------------------------------------------------------------------------------------------- edge cases
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 4), (3, 1)])
@pytest.mark.parametrize("mass", MODES)
def test_one_point(n, m, mass):
    M, C1, C2, p, q = random_problem(n, m, 0)
    res = fgw(M, C1, C2, p, q, mass)
    assert res.status == "converged"
    check(res, p, q, mass)


@pytest.mark.parametrize("n", [20, 60])
@pytest.mark.parametrize("mass", [None, 0.5])
def test_equal_structures_reach_zero_and_stop(n, mass):
    C = np.abs(np.subtract.outer(np.arange(n), np.arange(n))) / n
    p = np.full(n, 1 / n)
    res = fgw(None, C, C, p, p, mass, alpha=1.0, T0=np.eye(n) / n * (mass or 1))
    assert res.status == "converged" and res.value_quad == 0 and res.n_iter == 1
    res = fgw(None, C, C, p, p, mass, alpha=1.0)
    assert res.status == "converged" and res.n_iter < 100
    check(res, p, p, mass)


@pytest.mark.parametrize("mass", [None, 0.5, "rows"])
@pytest.mark.parametrize("constant", [0.0, 3.0, -3.0])
def test_constant_costs(mass, constant):
    p, q = np.full(30, 1 / 30), np.full(28, 1 / 28)
    res = fgw(np.full((30, 28), constant), np.zeros((30, 30)), np.zeros((28, 28)), p, q, mass)
    assert res.status == "converged"
    assert res.value_linear == pytest.approx(0.5 * constant * (mass if isinstance(mass, float) else 1), abs=1e-12)
    check(res, p, q, mass)


@pytest.mark.parametrize("be", ["numpy", "numba"])
@pytest.mark.parametrize("n", [1, 12, 90])
def test_a_price_below_all_costs_matches_nothing(n, be):
    """A linear program without any match, as the last one and as the first one."""
    C = 3 * np.abs(np.subtract.outer(np.arange(n), np.arange(n))) / n
    nothing = fpgwot.solve(2 - np.eye(n), C, C, alpha=0.3, sink=0.5, backend=be)  # a pair costs .7 and more
    assert nothing.converged
    assert not nothing.plan.any()
    assert nothing.value == pytest.approx(0.5)
    # at the product plan the structures make every pair dearer than the price; at no plan the diagonal costs nothing
    matched = fpgwot.solve(1 - np.eye(n), C, C, alpha=0.3, sink=0.5, backend=be)
    assert matched.converged
    np.testing.assert_allclose(matched.plan, np.eye(n) / n, atol=1e-12)


@pytest.mark.parametrize(("n", "m"), [(20, 24), (50, 45)])
@pytest.mark.parametrize("mass", [1e-9, 1e-3, 0.5])
def test_negative_costs_keep_the_mass(n, m, mass):
    M, C1, C2, p, q = random_problem(n, m, 1)
    res = fgw(M - 20, C1, C2, p, q, mass)
    assert res.plan.sum() == pytest.approx(mass, rel=1e-12)
    check(res, p, q, mass)


@pytest.mark.parametrize("off", [0.0, 1e-16, -1e-16, 3e-13])
def test_mass_at_the_whole_weight(off):
    M, C1, C2, p, q = random_problem(30, 31, 4)
    whole = float(min(p.sum(), q.sum()))
    res = fgw(M, C1, C2, p, q, whole + off)
    check(res, p, q, whole, tol=1e-12)
    exact = fgw(M, C1, C2, p, q, None)
    assert objective(M, C1, C2, res.plan, 0.5, 0.5) == pytest.approx(objective(M, C1, C2, exact.plan, 0.5, 0.5), rel=1e-9)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("total", [1.0, 1.3])
def test_one_full_side(side, total):
    """sum q = 1.3, mass = sum p: rows are equalities, columns are caps, and the duals carry no price of mass."""
    M, C1, C2, p, q = random_problem(30, 33, 6)
    p, q = (p, total * q) if side == 0 else (total * p, q)
    rule = partial_mass(full_rows=side == 0, full_columns=side == 1)
    res = solve(NUMBA, M, Dense(C1), Dense(C2), p, q, w_lin=0.5, w_quad=0.5, marginals=rule, mass=1.0)
    full, capped, capped_dual = (p, q, res.g) if side == 0 else (q, p, res.f)
    np.testing.assert_allclose(res.plan.sum(1 - side), full, atol=1e-13)
    assert np.all(res.plan.sum(side) <= capped + 1e-13) and res.h == 0 and capped_dual.max() <= 1e-12
    assert abs(capped_dual @ (capped - res.plan.sum(side))) <= 1e-12
    reduced = res.gradient - res.f[:, None] - res.g
    assert reduced.min() >= -1e-12 and np.sum(reduced * res.plan) <= 1e-9


@pytest.mark.parametrize("n", [12, 40])
@pytest.mark.parametrize("mass", [None, 0.6, "rows", "columns"])
def test_forbidden_pairs(n, mass):
    """A random mask of 70 % that leaves the diagonal: no mass on it, and the linear optimum within it."""
    M, C1, C2, p, _ = random_problem(n, n, 7)
    allowed = (np.random.default_rng(1).random((n, n)) > 0.7) | np.eye(n, dtype=bool)
    masked = np.where(allowed, M, 1e30)
    linear = fgw(masked, None, None, p, p, mass, alpha=0.0)
    assert np.all(linear.plan[~allowed] == 0)
    assert linear.value_linear == pytest.approx(highs(M, p, p, RULE.get(mass, "partial"), mass, allowed), abs=1e-10)
    check(linear, p, p, mass, tol=1e-11)
    one = fgw(masked, C1, C2, p, p, mass, max_iter=1)
    assert one.status == "max_iter" and np.all(one.plan[~allowed] == 0)
    check(one, p, p, mass, tol=1e-11)
    res = fgw(masked, C1, C2, p, p, mass)
    assert res.status == "converged" and np.all(res.plan[~allowed] == 0) and np.isfinite(res.value_linear)
    check(res, p, p, mass, tol=1e-11)


def test_a_mask_without_a_plan_raises():
    p = np.full(30, 1 / 30)
    M = np.where(np.arange(30) < 10, 0.0, 1e30) * np.ones((30, 1))
    for mass in (None, 0.5):
        with pytest.raises(ValueError, match="mask admits no plan"):
            fgw(M, None, None, p, p, mass, alpha=0.0)


def test_impossible_requests_raise():
    M, C1, C2, p, q = random_problem(6, 5, 0)
    with pytest.raises(ValueError, match="not above"):
        fgw(M, C1, C2, p, q, 1.1)
    with pytest.raises(ValueError, match="equal totals"):
        fgw(M, C1, C2, p, 1.001 * q)
    for tau in ((0.0, 0.0), (1.0, np.inf)):
        with pytest.raises(ValueError, match=r"free|hard"):
            solve(NUMBA, M, None, None, p, q, w_lin=1.0, w_quad=0.0, marginals=kl_penalty(*tau), mass=None)
