"""Every primitive of `_protocol` in Numba against its NumPy twin, on random states; and the parts that Numba has alone."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from numba import get_num_threads, njit, set_num_threads

from fpgwot import solve
from fpgwot._backends import _protocol as ix
from fpgwot._backends import numba_cpu as numba_be
from fpgwot._backends import numpy_ref as numpy_be
from fpgwot._backends.numba_cpu import _memory, dual, elementary, lp, scaling, simplex, whole
from fpgwot._validate import make_problem

B, N, K = 3, 37, 41  # more rows than one work item (32) and than a group of 4; odd, so that no loop comes out even
SIZE = np.array([[37, 41], [33, 5], [4, 38]], np.int64)
TOLERANCE = {np.float64: 1e-12, np.float32: 2e-5}
INF = np.inf
# tau (rows, columns), cap (rows, columns), fixed mass
RULES = {
    "balanced": ((INF, INF), (INF, INF), False),
    "partial": ((INF, INF), (0.0, 0.0), True),
    "full_rows": ((INF, INF), (INF, 0.0), False),
    "full_columns": ((INF, INF), (0.0, INF), False),
    "kl": ((0.3, 0.8), (INF, INF), False),
    "hard_and_kl": ((INF, 0.5), (INF, INF), False),
    "semi_relaxed": ((INF, 0.0), (INF, INF), False),
    "free_rows": ((0.0, INF), (INF, INF), False),
}


class State:
    """A scaling problem in the middle of its iteration, with the matrices that the primitives read and write."""

    def __init__(self, kind: str, dtype, seed: int = 0, size: np.ndarray = SIZE) -> None:
        rng = np.random.default_rng(seed)
        B, (N, K) = len(size), size.max(0)
        tau, cap, fixed = RULES[kind]
        inside = np.zeros((B, N, K), bool)
        p, q = np.zeros((B, N)), np.zeros((B, K))
        for b, (n, k) in enumerate(size):
            inside[b, :n, :k] = True
            p[b, :n], q[b, :k] = rng.dirichlet(np.full(n, 3.0)), rng.dirichlet(np.full(k, 3.0))
        mass = np.full(B, 0.6 if fixed else np.nan)
        eps = np.array([0.1, 0.2, 0.15])[:B]
        self.s = ix.Scaling(np, dtype, size, p, q, mass, eps, tau, tuple(np.full(B, c) for c in cap))
        rows, cols = p > 0, q > 0
        self.s.rows[:, ix.F] = np.where(rows, 0.5 * rng.normal(size=(B, N)) - 0.6, 0)
        self.s.cols[:, ix.G, :K] = np.where(cols, 0.5 * rng.normal(size=(B, K)) - 0.6, 0)
        self.s.rows[:, ix.F] = np.minimum(self.s.rows[:, ix.F], cap[0])
        self.s.cols[:, ix.G, :K] = np.minimum(self.s.cols[:, ix.G, :K], cap[1])
        self.s.cols[:, ix.G, K] = 0.3 * fixed
        self.s.cols[:, ix.Y, :K] = np.where(cols, 0.2 * rng.normal(size=(B, K)), 0)
        self.s.cols[:, ix.Y, K] = 0.1 * fixed

        def matrix(low, high):
            return np.where(inside, rng.uniform(low, high, (B, N, K)), 0).astype(dtype)

        # costs in [0, 1] + 5 eps: the plan is about p q', as in a real run
        self.L, self.G, self.A, self.M = matrix(0.5, 1.5), matrix(0.5, 1.5), matrix(0, 0.3), matrix(-1, 1)
        self.T, self.T0, self.K = matrix(1e-4, 2e-3), matrix(1e-4, 2e-3), matrix(0.1, 1)
        self.bias = matrix(-0.2, 0.2)
        self.r, self.c = np.where(rows, rng.normal(size=(B, N)), 0), np.where(cols, rng.normal(size=(B, K)), 0)
        self.wl, self.wq = rng.random(B), rng.random(B)
        self.on = np.array([True, False, True])[:B]
        self.out: dict = {}

    def arrays(self) -> dict[str, np.ndarray]:
        s = self.s
        named = {k: v for k, v in vars(self).items() if isinstance(v, np.ndarray)} | self.out
        return named | {"vals": s.vals, "rows": s.rows, "cols": s.cols, "v": s.v, "hist": s.hist}


def sweep(be, x):
    be.sweep(x.K, x.s, x.on)


def gradient(M, bias, first, ahead=False):
    def step(be, x):
        first_ = np.full(len(x.on), first)
        args = x.A, M and x.M, bias and x.bias, x.T, x.T0, x.L, x.s, x.r, x.c, x.wl, x.wq, first_, x.on
        x.out["ahead"] = np.zeros_like(x.T)
        x.out["sums"] = be.gradient(*args, x.out["ahead"]) if ahead else be.gradient(*args)
        with_logarithms(be, x)

    return step


def gradient_of_distances(first):
    """A = C1 T C2 of two structures |t_i - t_k| made inside the pass, where the other backend takes it from matrix products."""

    def step(be, x):
        rng = np.random.default_rng(4)
        (t1, scale1), (t2, scale2) = (
            (3 + np.cumsum(rng.random(n) + 0.01), s) for n, s in zip(x.T.shape[1:], (0.7, 0.2), strict=True)
        )
        C1, C2 = scale1 * abs(t1[:, None] - t1), scale2 * abs(t2[:, None] - t2)
        gaps = tuple((np.diff(t, prepend=t[0]), s) for t, s in ((t1, scale1), (t2, scale2)))
        args = x.M, None, x.T, x.T0, x.L, x.s, x.r, x.c, x.wl, x.wq, np.full(len(x.on), first), x.on
        inside = (x.M != 0) & x.on[:, None, None]
        x.A[inside] = np.nan if be.scans else (C1 @ x.T.astype(float) @ C2)[inside]
        x.out["sums"] = be.gradient(x.A, *args, **({"distances": gaps} if be.scans else {}))
        with_logarithms(be, x)

    return step


def with_logarithms(be, x):
    """The two sums that `gradient` may only bound."""
    if be.divergences is not None and x.out["sums"][:, ix.KL].any():
        x.out["sums"][:, ix.BREG : ix.KL + 1] = be.divergences(x.T, x.T0, x.L, x.s, x.on)


def shared_layer(be, x):
    """One cost for all problems of the batch (several starts)."""
    first = np.zeros(len(x.on), bool)
    x.out["sums"] = be.gradient(x.A, x.M[:1], x.bias[:1], x.T, x.T0, x.L, x.s, x.r, x.c, x.wl, x.wq, first, x.on)
    with_logarithms(be, x)


def kernel(be, x):
    be.kernel(x.L, x.G, x.T, x.T0, x.s, np.array([0.4, 0.5, 1.0])[: len(x.on)], np.array([False, False, True])[: len(x.on)], x.on)


def damped_kernel(be, x):
    be.kernel(x.L, x.G, x.T, x.T0, x.s, np.array([0.4, 0.5, 0.7])[: len(x.on)], np.zeros(len(x.on), bool), x.on)


def long_kernel(be, x):
    """Steps beyond the plan, where T0 would pass 0."""
    be.kernel(x.L, x.G, x.T, x.T0, x.s, np.array([3.0, 50.0, 1.5])[: len(x.on)], np.zeros(len(x.on), bool), x.on)
    x.out["least"] = np.array([x.T0.min()])
    assert x.T0.min() >= 0


def kernel_of_moved_buffers(be, x):
    """As where every cost and plan moves all the way: nothing is copied, and neither G nor T0 is read or written."""
    one = np.ones(len(x.on))
    be.kernel(x.L, x.G, x.T, x.T0, x.s, one, np.zeros(len(x.on), bool), x.on, True)


def spread(be, x):
    x.G[0, 2, 3] = x.G[2, 1] = ix.FORBIDDEN  # one pair, and a row without any
    x.out["spread"] = be.spread(x.G, x.s)


def logsums(be, x):
    x.L *= 300  # eps is 0.1: sums of exp(-4000), which only the log domain survives
    x.out["logsums"] = be.column_logsums(x.L, x.s, x.on)


def anderson(be, x):
    """Random images, so that the small systems are well conditioned; past the full memory; one problem goes back to its image."""
    rng, none = np.random.default_rng(7), np.zeros(len(x.on), bool)
    back = np.array([False, False, True])[: len(x.on)]
    for i in range(ix.MEMORY + 4):
        random = rng.normal(size=x.s.cols[:, 0].shape) * (x.s.cols[:, ix.Q] != 0)  # padding is zero, the mass may be NaN
        x.s.cols[x.on, ix.IMAGE] = random[x.on]
        be.anderson(x.s, back if i == 5 else none, back & x.on if i == 5 else x.on)


def far_mix(be, x):
    """Two images with almost the same residual: the weights would be 1e6, so the newest image is taken as it is."""
    none, image = np.zeros(len(x.on), bool), np.random.default_rng(8).normal(size=x.s.cols[:, 0].shape) * (x.s.cols[:, ix.Q] != 0)
    for factor in (1.0, 1.0 + 1e-6):
        x.s.cols[x.on, ix.Y], x.s.cols[x.on, ix.IMAGE] = 0.0, (factor * image)[x.on]
        be.anderson(x.s, none, x.on)


def images_of_the_last_kernel(be, x):
    anderson(be, x)
    be.plan(x.K, x.s, x.on)
    for _ in range(2):
        x.s.cols[x.on, ix.IMAGE] = np.cos(np.arange(x.s.cols.shape[2])) * (x.s.cols[x.on, ix.Q] != 0)
        be.anderson(x.s, np.zeros(len(x.on), bool), x.on)


def marginal_sums(be, x):
    rng = np.random.default_rng(9)
    mu, nu, s1, s2 = (rng.random(a.shape) * (a != 0) for a in (x.r, x.c, x.r, x.c))
    mu0, nu0 = (a * rng.uniform(0.5, 1.5, a.shape) for a in (mu, nu))
    mu0[:, ::5] = 0.0
    x.s.cols[:, ix.GRAD] = rng.normal(size=x.s.cols[:, 0].shape)
    x.out["along"] = be.marginal_sums(mu, nu, mu0, nu0, s1, s2, x.r, x.c, x.s)
    x.out["linear"] = be.marginal_sums(mu, nu, mu0, nu0, None, None, x.r, x.c, x.s)


def newton(be, x):
    be.sweep(x.K, x.s, x.on)
    be.newton(x.K, x.s, x.on)


def cg(be, x):
    newton(be, x)
    for _ in range(3):
        be.cg(x.K, x.s, 1e-3, x.on)


def factor(be, x):
    newton(be, x)
    x.out["built"] = be.factor(x.K, x.s, x.on).astype(float)
    free = (x.s.cols[:, ix.DIAG] > 0).any(axis=1) | np.isfinite(x.s.mass)  # else there is nothing to solve
    assert (x.out["built"] > 0).tolist() == (x.on & free).tolist()


def factor_of_an_earlier_system(be, x):
    """Other free rows and columns than when the factor was built."""
    newton(be, x)
    be.factor(x.K, x.s, x.on)
    be.trial(x.s, np.ones(len(x.on)), x.on)
    cg(be, x)
    x.s.cols[np.ix_(x.on, [ix.CG_R, ix.CG_D])] = 0.0  # solved: what is left is rounding


def trial(be, x):
    cg(be, x)
    be.trial(x.s, np.array([1.0, 1.0, 0.3])[: len(x.on)], x.on)


def shorten(be, x):
    """After a step far too long, which brings rows to their caps where there are any."""
    cg(be, x)
    a = np.array([2.0, 2.0, 8.0])[: len(x.on)]
    be.trial(x.s, a, x.on)
    be.sweep(x.K, x.s, x.on)
    x.s.vals[x.on, ix.GAIN] = 1e-4  # as near the solution
    be.shorten(x.s, a, x.on)
    x.out["a"] = a


def plan(be, x):
    be.sweep(x.K, x.s, x.on)
    be.plan(x.K, x.s, x.on)


def drift(be, x):
    """Scalings at the edge of what a float32 holds are cut, and the residual says so."""
    x.s.cols[:, ix.Y, :-1] -= 55.0
    x.K *= np.asarray(1e-20, x.K.dtype)
    be.sweep(x.K, x.s, x.on)


STEPS = {f"gradient-{M}-{bias}-{first}": gradient(M, bias, first) for M, bias, first in [
    (None, None, True), (True, None, False), (None, True, False), (True, True, False), (True, True, True)]}  # fmt: skip
STEPS |= {"gradient-distances": gradient_of_distances(False), "gradient-distances-first": gradient_of_distances(True)}
STEPS["gradient-ahead"] = gradient(True, None, False, True)
STEPS |= {
    f.__name__: f for f in (shared_layer, sweep, kernel, damped_kernel, long_kernel, kernel_of_moved_buffers, spread, logsums)
}
STEPS |= {
    f.__name__: f for f in (anderson, far_mix, images_of_the_last_kernel, marginal_sums, newton, cg, trial, shorten, plan, drift)
}
STEPS |= {f.__name__: f for f in (factor, factor_of_an_earlier_system)}


def tolerance(name: str, dtype) -> float:
    """Linear systems amplify the last digit; their factors are float32."""
    dtype = np.float32 if name.startswith("factor") else dtype
    return TOLERANCE[dtype] * (
        100 if name in ("anderson", "images_of_the_last_kernel", "cg", "trial", "shorten") or name.startswith("factor") else 1
    )


def run(step, be, kind, dtype, on=None) -> tuple[dict, dict]:
    x = State(kind, dtype)
    x.on = x.on if on is None else on
    before = copy.deepcopy(x.arrays())
    step(be, x)
    return before, x.arrays()


def compare(one: dict, two: dict, tolerance: float, on: np.ndarray, least: float = 1e-3) -> None:
    """Equal entries where problems are on, relative to the largest of each vector (each sum by itself), or `least`.

    Padding and scratch are left out.
    """
    for name, a in one.items():
        b = two[name]
        if a.ndim < 2 or name in ("on",):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=name)
            continue
        for item in np.flatnonzero(on):
            x, y = np.asarray(a[item], float), np.asarray(b[item], float)
            where = np.isfinite(x)
            np.testing.assert_array_equal(where, np.isfinite(y), err_msg=name)
            # sums have nothing in common: the residual may be 1e21 where the bend is .1
            rows = x.reshape(len(x), -1) if name in ("rows", "cols", "hist", "sums") else x.reshape(1, -1)
            top = np.maximum(np.max(np.where(where.reshape(rows.shape), np.abs(rows), 0), axis=1), least)
            gap = np.abs(np.where(where, x, 0) - np.where(where, y, 0)).reshape(rows.shape)
            assert (gap <= tolerance * top[:, None]).all(), f"{name} of problem {item}: {np.max(gap / top[:, None]):.1e}"


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("name", STEPS)
def test_numba_equals_numpy(name, kind, dtype):
    (_, one), (_, two) = (run(STEPS[name], be, kind, dtype) for be in (numpy_be, numba_be))
    compare(one, two, tolerance(name, dtype), np.array([True, False, True]))
    assert any(np.isfinite(a).all() and np.ptp(a) > 0 for a in two.values())


@pytest.mark.parametrize("be", [numpy_be, numba_be], ids=["numpy", "numba"])
@pytest.mark.parametrize("kind", ["balanced", "partial", "kl"])
@pytest.mark.parametrize(
    "name", [x for x in STEPS if x not in ("spread", "logsums", "marginal_sums", "drift")]
)  # those change their input first
def test_problems_that_are_off_and_padding_stay_as_they_are(name, kind, be):
    before, after = run(STEPS[name], be, kind, np.float64)
    for key, a in before.items():
        if a.ndim >= 2:
            np.testing.assert_array_equal(after[key][1], a[1], err_msg=key)
    for key in ("K", "T", "T0", "L", "A"):
        for b, (n, k) in enumerate(SIZE):
            assert not after[key][b, n:].any()
            assert not after[key][b, :, k:].any()


@pytest.mark.parametrize("name", STEPS)
def test_a_problem_alone_equals_the_same_in_a_batch(name):
    """Its neighbours have no say: bit for bit."""
    _, alone = run(STEPS[name], numba_be, "partial", np.float64, np.array([True, False, False]))
    _, batch = run(STEPS[name], numba_be, "partial", np.float64, np.array([True, True, False]))
    for key, a in alone.items():
        if a.ndim >= 2:
            np.testing.assert_array_equal(a[0], batch[key][0], err_msg=key)


@pytest.mark.parametrize("be", [numpy_be, numba_be], ids=["numpy", "numba"])
@pytest.mark.parametrize("kind", RULES)
def test_a_factor_solves_the_newton_system_in_a_few_steps(kind, be):
    """A float32 factor gives some four digits a step, where the diagonal gives one in several."""
    x = State(kind, np.float64)
    newton(be, x)
    be.factor(x.K, x.s, x.on)
    for bound in (1e-4, 1e-8):
        be.cg(x.K, x.s, 1e-12, x.on)
        for b in np.flatnonzero(x.on):
            assert np.abs(x.s.cols[b, ix.CG_R]).sum() <= bound * x.s.vals[b, ix.NORM]


@pytest.mark.parametrize("be", [numpy_be, numba_be], ids=["numpy", "numba"])
@pytest.mark.parametrize("kind", RULES)
def test_a_factor_is_that_of_the_second_derivative_of_the_dual(kind, be):
    """U'U, scaled back, against central differences of the gradient, free rows and columns only; in float32."""
    x, step = State(kind, np.float64), 1e-5
    newton(be, x)
    be.factor(x.K, x.s, x.on)
    b, seats = 0, np.flatnonzero(x.s.cols[0, ix.SEAT] > 0)
    assert x.s.vals[b, ix.FACTORED] == len(seats)
    assert len(seats) == np.count_nonzero(x.s.cols[b, ix.DIAG, :-1]) + np.isfinite(x.s.mass[b])
    U = np.triu(x.s.factor[b, : len(seats), : len(seats)]).astype(float)
    diag = np.append(x.s.cols[b, ix.DIAG, :-1], x.s.vals[b, ix.MASS])[seats]
    scale, shift = np.sqrt(np.outer(diag, diag)), x.s.vals[b, ix.SHIFT] + ix.RIDGE
    found = scale * (U.T @ U - shift * np.eye(len(seats)))
    y0, expected = x.s.cols[b, ix.Y].copy(), np.empty((len(seats), len(seats)))
    for c, j in enumerate(seats):
        sides = []
        for sign in (1, -1):
            x.s.cols[b, ix.Y] = y0
            x.s.cols[b, ix.Y, j] += sign * step
            numpy_be.sweep(x.K, x.s, x.on)
            sides.append(x.s.cols[b, ix.GRAD, seats].copy())
        expected[:, c] = (sides[1] - sides[0]) / (2 * step)
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("width", [1e-3, 0.3, 3.0, 30.0])
def test_divergences_without_logarithms_are_bounds_from_below(width, dtype):
    """Entries from 0 and to 0 among them."""
    x = State("balanced", dtype)
    rng = np.random.default_rng(5)
    f, g = x.s.rows[:, ix.F, :, None] + x.s.cols[:, ix.G, -1, None, None], x.s.cols[:, ix.G, None, :-1]
    x.T[:] = (x.T > 0) * np.exp(f + g - x.L / x.s.vals[:, ix.EPS, None, None])
    x.T0[:] = x.T * np.exp(width * rng.normal(size=x.T.shape))
    x.T0[:, 3] = 0
    x.L[:, 4], x.T[:, 4] = ix.FORBIDDEN, 0
    args = x.M, None, x.T, x.T0, x.L, x.s, x.r, x.c, x.wl, x.wq, np.zeros(3, bool), x.on
    exact, bounds = (be.gradient(x.A.copy(), *args)[x.on] for be in (numpy_be, numba_be))
    for k in (ix.BREG, ix.KL):
        assert (bounds[:, k] <= exact[:, k] * (1 + TOLERANCE[dtype])).all()
    for b in range(2):  # and what they are: sum (T - T0)^2 / max(T, T0)
        i = np.flatnonzero(x.on)[b]
        T, T0 = x.T[i].astype(float), x.T0[i].astype(float)
        top = np.maximum(T, T0)
        moved = np.sum((T - T0) ** 2 / np.where(top > 0, top, 1))
        assert bounds[b, ix.BREG] == pytest.approx(moved, rel=1e-5) and bounds[b, ix.KL] == pytest.approx(moved / 2, rel=1e-5)


@pytest.mark.parametrize("be", [numpy_be, numba_be], ids=["numpy", "numba"])
def test_images_of_the_last_kernel_tell_how_the_map_answers(be):
    """For an affine map with another constant the first mixing finds the fixed point."""
    rng, m, on, none, inf = np.random.default_rng(3), 4, np.ones(1, bool), np.zeros(1, bool), np.full(1, np.inf)
    p = np.full((1, m), 1 / m)
    s = ix.Scaling(np, np.float64, np.array([[m, m]]), p, p, np.full(1, np.nan), np.full(1, 0.1), (inf, inf), (inf, inf))
    A, K = 0.5 * rng.normal(size=(m, m)), np.ones((1, m, m))

    def mix(c):
        s.cols[0, ix.IMAGE, :m] = A @ s.cols[0, ix.Y, :m] + c
        be.anderson(s, none, on)
        return s.cols[0, ix.Y, :m].copy()

    c = rng.normal(size=m)
    for _ in range(m + 2):
        y = mix(c)
    np.testing.assert_allclose(y, np.linalg.solve(np.eye(m) - A, c), rtol=1e-6)
    be.plan(K, s, on)  # y = 0 again, in other coordinates
    c = rng.normal(size=m)
    np.testing.assert_allclose(mix(c), np.linalg.solve(np.eye(m) - A, c), rtol=1e-3)


@pytest.mark.parametrize("be", [numpy_be, numba_be], ids=["numpy", "numba"])
def test_a_refused_step_is_cut_where_the_dual_turns(be):
    """Against a scan of the dual along the step, on systems solved exactly near a solution: caps are what is left to stop it."""
    refused = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        n, on = 24, np.ones(1, bool)
        cost = rng.random((1, n, n))
        p = rng.dirichlet(np.full(n, 3.0))[None]
        inf, zero = np.array([np.inf]), np.zeros(1)
        s = ix.Scaling(np, np.float64, np.array([[n, n]]), p, p, np.array([0.7]), np.array([0.01]), (inf, inf), (zero, zero))
        K = np.exp(-cost / 0.01 + rng.normal(size=(1, n, 1)))

        def dual(t, s=s, K=K, on=on):
            be.trial(s, np.array([t]), on)
            be.sweep(K, s, on)
            return s.vals[0, ix.PHI]

        be.sweep(K, s, on)
        for _ in range(30):
            be.newton(K, s, on)
            while s.vals[0, ix.DONE] == 0 and s.vals[0, ix.STEPS] < 200:
                be.cg(K, s, 1e-10, on)
            start, a = dual(0.0), np.ones(1)
            if dual(1.0) < start - 1e-9:
                refused += 1
                be.shorten(s, a, on)
                best = max(dual(t) for t in np.geomspace(1e-6, 1, 200))
                assert dual(a[0]) - start > 0.5 * (best - start)
            elif s.vals[0, ix.RES] < 1e-9:
                break
    assert refused > 10


# ---------------------------------------------------------------------------------------------------------- whole matrices

SIZES = {"small": (2, 40, 45), "large": (2, 211, 257)}  # below and above the size from which Numba has kernels of its own
assert np.prod(SIZES["small"]) < numba_be.WHOLE_FROM < np.prod(SIZES["large"])


@pytest.mark.parametrize("be", [numpy_be, numba_be], ids=lambda be: be.name)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES)
def test_sums_products_and_checks_of_whole_matrices(size, dtype, be):
    rng, (B, n, m) = np.random.default_rng(0), SIZES[size]
    T, x, y = rng.random((B, n, m)).astype(dtype), rng.normal(size=(B, n)), rng.normal(size=(B, m))
    rows, cols = be.plan_marginals(T)
    exact = T.astype(np.longdouble)
    assert rows.dtype == cols.dtype == np.float64
    np.testing.assert_allclose(rows, exact.sum(2).astype(float), rtol=1e-14)
    np.testing.assert_allclose(cols, exact.sum(1).astype(float), rtol=1e-14)
    np.testing.assert_allclose(be.plan_marginals(T.swapaxes(1, 2))[0], cols, rtol=1e-14)  # whatever its layout

    x, y = x.astype(dtype), y.astype(dtype)
    out = np.full((B, n, m), np.nan, dtype)
    assert be.outer(x, y, out) is out
    np.testing.assert_array_equal(out, np.einsum("bi,bj->bij", x, y))

    assert be.is_finite(T) and be.is_finite(T * (np.finfo(dtype).max / 2))  # a sum that overflows says nothing
    for wrong in (np.nan, np.inf, -np.inf):
        for at in ((0, 0, 0), (1, n // 2, m // 3), (B - 1, n - 1, m - 1)):
            bad = T.copy()
            bad[at] = wrong
            assert not be.is_finite(bad)
    for at in (whole.CHUNK - 1, whole.CHUNK, T.size - 1):  # the seams of the chunks
        bad = T.reshape(-1).copy()
        bad[min(at, T.size - 1)] = np.nan
        assert not be.is_finite(bad.reshape(T.shape))


@pytest.mark.parametrize("rule", [{"m": 0.5}, {"m": None}, {"m": None, "tau": (0.3, 0.8)}], ids=("partial", "balanced", "kl"))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_marginals_of_the_product_plan_are_those_of_its_matrix(dtype, rule):
    rng, (n, m) = np.random.default_rng(0), (30, 40)
    p, q = (x / x.sum(1)[:, None] * 1.5 for x in (rng.random((2, n)), rng.random((2, m))))
    q = q * (1.0 if rule == {"m": None} else 1.3)
    options = dict.fromkeys(("reg_rel", "reference", "normalize", "mask"))
    M = rng.random((2, n, m)).astype(dtype)
    problem = make_problem(
        numba_be, M, None, None, p, q, alpha=0.0, loss="square", reg=0.1, tau=rule.get("tau"), m=rule["m"], **options
    ).problem
    for found, want in zip(problem.product_marginals(), numpy_be.plan_marginals(problem.product_plan()), strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-12 if dtype == np.float64 else 1e-6)


@pytest.mark.parametrize("be", [numpy_be, numba_be], ids=lambda be: be.name)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 2, 150, 300])
def test_toeplitz_matrices_are_told_by_every_entry(n, dtype, be):
    rng = np.random.default_rng(0)
    weights = rng.random(n).astype(dtype)
    C = weights[abs(np.subtract.outer(np.arange(n), np.arange(n)))]
    assert be.is_toeplitz(C, weights.astype(float), 1e-3)
    for at in ((0, 0), (n - 1, 0), (0, n - 1), (n // 2, n // 3), (n - 1, n - 1)):
        for change, same in ((5e-4, True), (-5e-4, True), (2e-3, False), (-2e-3, False), (np.nan, False), (np.inf, False)):
            D = C.copy()
            D[at] += change
            assert be.is_toeplitz(D, weights.astype(float), 1e-3) is same


@pytest.mark.parametrize("be", [numpy_be, numba_be], ids=lambda be: be.name)
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("n", [1, 2, 150])
def test_distances_are_told_by_every_entry(n, power, be):
    t = np.cumsum(np.random.default_rng(0).random(n))
    C = abs(np.subtract.outer(t, t)) ** power
    assert be.is_distance(C, t, power, 1e-12)
    for at in ((0, 0), (n - 1, 0), (0, n - 1), (n // 2, n // 3), (n - 1, n - 1)):
        for change, same in ((5e-4, True), (-5e-4, True), (2e-3, False), (-2e-3, False), (np.nan, False), (np.inf, False)):
            D = C.copy()
            D[at] += change
            assert be.is_distance(D, t, power, 1e-3) is same


def test_no_kernel_is_compiled_for_arrays_of_another_kind():
    C = abs(np.subtract.outer(np.arange(300.0), np.arange(300.0)))
    kernels = [
        getattr(one, form) for one in (whole.not_numbers, whole.lag_errors, whole.marginals) for form in ("serial", "parallel")
    ]
    before = [len(k.overloads) for k in kernels]
    fixed = C.copy()
    fixed.flags.writeable = False
    for x in (C.astype(np.float16), C.astype(np.longdouble), C.astype(int), fixed, C[::-1, ::-1]):
        assert numba_be.is_finite(x)
        assert numba_be.is_toeplitz(x, C[0], 1e-3)
        np.testing.assert_allclose(numba_be.plan_marginals(x[None])[0][0], C.sum(1), rtol=1e-3)
    assert [len(k.overloads) for k in kernels] == before


def test_memory_of_one_solve_serves_the_next_and_never_a_result(monkeypatch):
    rng, n = np.random.default_rng(0), 400
    monkeypatch.setattr(_memory, "_free", [])
    M, t = rng.random((n, n)), np.arange(n) / n
    C = abs(t[:, None] - t)
    first = solve(M, C, C, reg=0.05)
    kept = list(_memory._free)
    assert len(kept) == 3 and all(x.nbytes == M.nbytes for x in kept)  # of five: two are the result's
    copies = first.plan.copy(), first.gradient.copy()
    second = solve(M.T.copy(), C, C, reg=0.05)
    assert {id(x) for x in kept} & {id(x) for x in (*_memory._free, second.plan, second.gradient)}
    for x in _memory._free:
        assert not any(np.shares_memory(x, y) for r in (first, second) for y in (r.plan, r.gradient))
    np.testing.assert_array_equal(first.plan, copies[0])
    np.testing.assert_array_equal(first.gradient, copies[1])
    again = solve(M, C, C, reg=0.05)  # whatever is in the memory that it gets
    np.testing.assert_allclose(again.plan, first.plan, rtol=1e-12, atol=1e-18)


def test_memory_that_is_kept_is_limited(monkeypatch):
    monkeypatch.setattr(_memory, "_free", [])
    size = _memory.MOST // 8 // 4
    _memory.give_back(np.empty(size) for _ in range(7))
    assert len(_memory._free) == 4
    _memory.give_back([np.empty(10), np.empty(_memory.MOST // 8 + 1)])  # too small, too large
    assert len(_memory._free) == 4
    newest = np.empty((2, size // 2))
    _memory.give_back([newest])
    assert len(_memory._free) == 4 and _memory.borrow((2, size // 2), np.float64) is newest
    assert _memory.borrow((size,), np.float32) is not None and len(_memory._free) == 3
    with _memory._lock:  # as a fork may leave it
        assert _memory.borrow((size,), np.float64).shape == (size,)
        _memory.give_back([newest])
    assert len(_memory._free) == 3


# --------------------------------------------------------------------------------------------- what only Numba has: threads

KERNELS = [x for m in (scaling, dual, lp, whole) for x in vars(m).values() if type(x).__name__ == "Kernel"]


@pytest.fixture
def form(monkeypatch):
    """Forces the serial or the parallel form of every kernel."""

    def choose(name: str) -> None:
        for one in KERNELS:
            monkeypatch.setattr(type(one), "__call__", lambda self, work, *args: getattr(self, name)(*args))

    return choose


@pytest.mark.slow  # compiles
def test_serial_and_parallel_forms_are_equal_and_so_are_one_and_two_threads(form):
    """Partial sums are added in a fixed order. One test, since compiling every parallel form takes most of a minute."""
    assert len(KERNELS) > 10
    names = [x for x in STEPS if not x.startswith("gradient")]  # shared_layer is the gradient with all that it can have
    rng, threads = np.random.default_rng(0), get_num_threads()
    M, C1, C2, Q = rng.random((70, 66)), rng.random((70, 70)), rng.random((66, 66)), rng.random((70, 66)) + 0.5
    states, plans = {}, {}
    try:
        for how in (("serial", 1), ("parallel", 1), ("parallel", min(2, threads))):
            form(how[0])
            set_num_threads(how[1])
            states[how] = {(x, kind): run(STEPS[x], numba_be, kind, np.float64)[1] for x in names for kind in ("partial", "kl")}
            plans[how] = solve(M, C1, C2, m=0.7, reg=0.05, reference=Q, backend="numba").plan
    finally:
        set_num_threads(threads)
    for how, state in states.items():
        np.testing.assert_allclose(plans[how], plans["serial", 1], rtol=1e-11, atol=1e-16)
        for (name, kind), found in state.items():
            compare(states["serial", 1][name, kind], found, tolerance(name, np.float64), np.array([True, False, True]))
    np.testing.assert_array_equal(plans["parallel", 1], plans["parallel", min(2, threads)])


# --------------------------------------------------------------------------------------------------- exp, log, order, maximum


@njit
def _largest(x, n, w):
    return elementary.largest(x, n, w)


@njit
def _order(x):
    return simplex._in_rising_order(x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_largest_of_the_first_entries(dtype):
    rng, room = np.random.default_rng(0), np.full(elementary.WINDOW, np.inf, dtype)
    for n in (*range(1, 20), *(k * elementary.WINDOW + d for k in (1, 2, 3, 7) for d in (-1, 0, 1, 100))):
        for where in {0, n // 3, n // 2, n - 1}:
            x = rng.normal(size=n + 20).astype(dtype)
            x[where], x[n:] = 9, 99
            before = x.copy()
            assert _largest(x, n, room) == 9
            np.testing.assert_array_equal(x, before)


def test_rising_order_is_stable():
    rng = np.random.default_rng(0)
    for n in (0, 1, 2, 3, 7, 64, 65, 300):
        for x in (rng.normal(size=n), rng.integers(0, 5, n).astype(float), np.full(n, np.inf), np.arange(n) * -1.0):
            np.testing.assert_array_equal(_order(x), np.argsort(x, kind="stable"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("width", [scaling.STRIP - 1, 2 * scaling.STRIP + 3])
def test_kernels_wider_than_a_strip(width, dtype):
    size, kernels = np.array([[5, width]], np.int64), []
    for be in (numpy_be, numba_be):
        x = State("partial", dtype, size=size)
        kernel(be, x)
        kernels.append((x.T, x.s.f.copy()))
    np.testing.assert_allclose(kernels[1][0], kernels[0][0], rtol=TOLERANCE[dtype])
    np.testing.assert_allclose(kernels[1][1], kernels[0][1], rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@njit
def _exp(x, y):
    for i in range(len(x)):
        y[i] = elementary.exp(x[i])


@njit
def _log(x, y):
    for i in range(len(x)):
        y[i] = elementary.log(x[i])


@pytest.mark.parametrize(("dtype", "low", "high", "error"), [(np.float64, -708, 709, 5e-16), (np.float32, -87, 88, 2e-7)])
def test_exp(dtype, low, high, error):
    x = np.concatenate((np.linspace(low, high, 20_001)[1:-1], np.linspace(-1, 1, 2001), [0, 1e-30, -1e-30])).astype(dtype)
    y = np.empty_like(x)
    _exp(x, y)
    exact = np.exp(x.astype(np.longdouble))
    # k ln 2 is subtracted in two parts: the error grows with |x| by a rounding of x at most
    assert np.max(np.abs(y - exact) / exact / (1 + np.abs(x) / high)) <= error
    assert y[-3] == 1
    _exp(ends := np.array([-np.inf, -1e30, low - 1, high, high + 1, 1e30, np.inf], dtype), y := np.empty(7, dtype))
    assert np.isfinite(y).all()
    assert (y[:3] == 0).all()
    assert (y[4:] == y[3]).all(), ends


@pytest.mark.parametrize(("dtype", "tiny", "error"), [(np.float64, 1e-300, 3e-16), (np.float32, 1e-37, 3e-7)])
def test_log(dtype, tiny, error):
    top = np.finfo(dtype).max
    powers = np.exp(np.linspace(np.log(tiny) + 1, np.log(float(top)) - 1, 20_001))
    x = np.concatenate((powers, np.linspace(0.5, 2, 3001), [1.0, top, tiny])).astype(dtype)
    y = np.empty_like(x)
    _log(x, y)
    exact = np.log(x.astype(np.longdouble))
    assert np.max(np.abs(y - exact) / np.maximum(np.abs(exact), 1)) <= error
    assert y[np.flatnonzero(x == 1)[0]] == 0
    _log(np.array([0, -1, -np.inf, tiny / 10], dtype), y := np.empty(4, dtype))
    np.testing.assert_allclose(y, np.log(tiny), rtol=1e-6)  # no NaN from what rounding makes of a zero
