"""Structure operators against their matrices; recognition of arrays; solves that never build an n x n array."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest

import fpgwot
from fpgwot import Dense, LaplaceKernel, LowRank, PointCloud, PowerDistance, Toeplitz, as_structure, solve
from fpgwot._backends import numba_cpu, numpy_ref
from fpgwot._dispatch import load_backend
from fpgwot._validate import make_problem
from fpgwot.structure import FFT_FROM, SCAN_FROM

BACKENDS = {"numpy": numpy_ref, "numba": numba_cpu}
CLOSE = {np.float64: 1e-12, np.float32: 1e-5}  # of the largest entry of the product


def times(n):
    return np.cumsum(np.random.default_rng(n).exponential(size=n)) + 1000.0


def rough(n):
    return np.random.default_rng(n).standard_normal(n)


def factors(n, r=3):
    return np.random.default_rng(n).standard_normal((2, n, r))


KINDS = {
    "distance": lambda n: PowerDistance(n),
    "distance scaled": lambda n: PowerDistance(n, scale=1 / n),
    "distance stamped": lambda n: PowerDistance(None, 1, 0.3, times(n)),
    "square": lambda n: PowerDistance(n, 2, 1 / n**2),
    "square stamped": lambda n: PowerDistance(None, 2, 1.0, times(n)),
    "kernel": lambda n: LaplaceKernel(n, scale=2.0),
    "kernel long": lambda n: LaplaceKernel(n, scale=10.0 * n, weight=-0.7, offset=0.2),
    "kernel saturating": lambda n: LaplaceKernel(n, scale=0.05 * n, weight=-1.0, offset=1.0),
    "kernel stamped": lambda n: LaplaceKernel(scale=5.0, times=times(n)),
    "window": lambda n: Toeplitz(np.where(np.arange(n) <= n // 5, 2.0, 0.0)),
    "window hollow": lambda n: Toeplitz(np.where((np.arange(n) <= 40) & (np.arange(n) > 0), 1.0, 0.0)),
    "constant": lambda n: Toeplitz(np.full(n, 3.0)),
    "others": lambda n: Toeplitz(1.0 - np.eye(n)[0]),
    "zero": lambda n: Toeplitz(np.zeros(n)),
    "band": lambda n: Toeplitz(np.where(np.arange(n) < 10, rough(n), 0.0)),
    "fft": lambda n: Toeplitz(rough(n)),
    "fft skew": lambda n: Toeplitz(rough(n), rough(n + 1)[:n]),
    "rank": lambda n: LowRank(*factors(n)),
    "rank symmetric": lambda n: LowRank(factors(n)[0], factors(n)[0]),
    "points": lambda n: PointCloud(factors(n)[0] + 50.0),
}
DATA = {
    "signed": lambda rng, shape: rng.standard_normal(shape),
    "positive": lambda rng, shape: rng.random(shape),
    "one end": lambda rng, shape: np.where(np.arange(shape[1])[:, None] < 2, rng.random(shape), 1e-9),
    "other end": lambda rng, shape: np.where(np.arange(shape[1])[:, None] >= shape[1] - 2, rng.random(shape), 0.0),
}


def assert_close(value, expected, tolerance):
    assert value.shape == expected.shape
    top = np.abs(expected).max(initial=0.0)
    assert np.abs(value - expected).max(initial=0.0) <= tolerance * top + 1e-300


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_products_are_those_of_the_matrix(kind, dtype):
    """Both axes, both transposes, both backends, a batch of two, with and without a buffer, and the square."""
    rng = np.random.default_rng(7)
    for n in (1, 2, 3, 31, 257):
        C, k = KINDS[kind](n), 5
        matrix = C.to_dense()[0]
        assert C.shape == (1, n, n) and C.is_symmetric == np.allclose(matrix, matrix.T, rtol=1e-10, atol=1e-10)
        assert_close(C.symmetrized().to_dense()[0], (matrix + matrix.T) / 2, 1e-12)
        assert_close(C.square().to_dense()[0], matrix**2, 1e-12)
        squares = C.square()
        for make in DATA.values():
            X = make(rng, (2, n, k)).astype(dtype)
            Y = np.ascontiguousarray(X.swapaxes(1, 2))
            exact_X, exact_Y = X.astype(float), Y.astype(float)
            for name, be in BACKENDS.items():
                for transpose in (False, True):
                    A = matrix.T if transpose else matrix
                    out = np.full_like(X, np.nan)
                    assert C.matmul(be, X, transpose, out=out) is out, name
                    assert_close(out, A @ exact_X, CLOSE[dtype])
                    assert_close(C.rmatmul(be, Y, transpose), exact_Y @ A, CLOSE[dtype])
                assert C.matmul(be, X).dtype == dtype
                assert_close(squares.matmul(be, X[:, :, :1]), matrix**2 @ exact_X[:, :, :1], CLOSE[dtype])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_products_of_long_sequences(kind, dtype):
    n, m = 2000, 140  # several strips and blocks, none of them full at the end
    C, rng = KINDS[kind](n), np.random.default_rng(3)
    matrix = C.to_dense()[0]
    for make in (DATA["signed"], DATA["one end"]):
        X = make(rng, (1, n, m)).astype(dtype)
        assert_close(C.matmul(numba_cpu, X), (matrix @ X[0].astype(float))[None], CLOSE[dtype])
        Y = np.ascontiguousarray(X.swapaxes(1, 2))
        assert_close(C.rmatmul(numba_cpu, Y), (Y[0].astype(float) @ matrix)[None], CLOSE[dtype])
        x = X[:, :, :1]
        assert_close(C.square().matmul(numba_cpu, x), (matrix**2 @ x[0].astype(float))[None], CLOSE[dtype])


def test_buffers_that_are_not_contiguous():
    X = np.random.default_rng(0).random((1, 40, 12))
    for C in (PowerDistance(40), LaplaceKernel(40), Toeplitz(rough(40)), LowRank(*factors(40))):
        out = np.empty((1, 40, 20))[:, :, ::2][:, :, :6]
        C.matmul(numba_cpu, X[:, :, ::2], out=out)
        assert_close(out, C.to_dense() @ X[:, :, ::2], 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_subsets_and_extent(kind):
    n = 60
    C = KINDS[kind](n)
    matrix = C.to_dense()[0]
    for index in (np.arange(n), np.arange(20), np.arange(1, n, 3), np.array([5, 2, 40])):
        assert_close(C.subset(index).to_dense()[0], matrix[np.ix_(index, index)], 1e-12)
    assert_close(C.single(3, 25).to_dense()[0], matrix[:25, :25], 1e-12)
    assert C.single(0, n) is C and C.take(np.array([0, 2])) is C
    low, high = C.extent()
    assert low.shape == high.shape == (1,)
    assert_close(np.append(low, high), np.array([matrix.min(), matrix.max()]), 1e-12)


# ---------------------------------------------------------------------------------------------------------------- recognition


def lag(n):
    return np.abs(np.subtract.outer(np.arange(n), np.arange(n)))


def distances(t):
    return np.abs(np.subtract.outer(t, t))


@pytest.mark.parametrize("n", [SCAN_FROM, 600])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_recognition(n, dtype):
    grid = np.linspace(0, 1, n)  # not quite uniform: a rounding off here and there
    cases = [
        (lag(n) / n, PowerDistance),
        (np.abs(grid[:, None] - grid), PowerDistance),
        ((lag(n) / n) ** 2, PowerDistance),
        (np.exp(-lag(n) / 7.0), LaplaceKernel),
        (1 - np.exp(-lag(n) / n / 0.05), LaplaceKernel),
        (1 - np.exp(-lag(n) / n), LaplaceKernel),
        (2.5 - 0.3 * np.exp(-lag(n) / 1.5), LaplaceKernel),
        ((lag(n) < 12) / 12.0, Toeplitz),
        (np.ones((n, n)), Toeplitz),
        (np.sqrt(lag(n)), Toeplitz if n >= FFT_FROM else Dense),
        (np.subtract.outer(np.arange(n), np.arange(n)), Dense),
        (grid[:, None] * grid, Dense),
        (distances(grid**1.5), PowerDistance),
        (distances(7 - grid**1.5), PowerDistance),  # backwards
        (distances(1e5 * np.cumsum(np.random.default_rng(n).random(n) + 0.05)), PowerDistance),
        (distances(grid**1.5) ** 2, PowerDistance),
        (distances(grid**1.5) ** 3, Dense),
        (distances(np.maximum(grid, grid[2])), Dense),  # equal times
        (distances(np.random.default_rng(n).random(n)), Dense),  # in no order
        (distances(grid**1.5) * (1 + (lag(n) == 5) * 1e-3), Dense),
    ]
    X = np.random.default_rng(0).random((1, n, 4)).astype(dtype)
    for array, kind in cases:
        C = as_structure(array.astype(dtype))
        assert type(C) is kind
        assert_close(C.to_dense()[0], array, 20 * np.finfo(dtype).eps)
        assert_close(C.matmul(numba_cpu, X), array @ X.astype(float), CLOSE[dtype])
        assert as_structure(C) is C


@pytest.mark.parametrize("power", [1, 2])
def test_one_other_distance_is_seen(power):
    array = distances(np.linspace(0, 1, 300) ** 1.5) ** power
    assert as_structure(array).times is not None
    for at in ((0, 0), (0, 299), (299, 0), (0, 150), (150, 0), (150, 7), (77, 78), (299, 299)):
        for change in (1e-9, -1e-9, np.nan, np.inf):
            other = array.copy()
            other[at] += change
            assert type(as_structure(other)) is Dense


@pytest.mark.parametrize("reg", [0.0, 0.05])
@pytest.mark.parametrize("power", [1, 2])
def test_recordings_with_time_stamps_are_solved_as_their_matrices_are(power, reg):
    """Two clocks that run unevenly: operators against the same numbers as plain arrays."""
    rng = np.random.default_rng(0)
    C1, C2 = (distances(np.cumsum(rng.random(n) + 0.05) / n) ** power for n in (150, 140))
    M = np.abs(np.linspace(0, 1, 150)[:, None] - np.linspace(0, 1, 140)) + 0.1 * rng.random((150, 140))
    assert type(as_structure(C1)) is type(as_structure(C2)) is PowerDistance
    found, want = (solve(M, *pair, alpha=0.5, m=0.8, reg=reg) for pair in ((C1, C2), (Dense(C1), Dense(C2))))
    assert found.converged
    assert want.converged
    np.testing.assert_allclose(found.value, want.value, rtol=1e-9)
    assert np.abs(found.plan - want.plan).sum() < 1e-5


def test_one_other_entry_is_seen():
    for i, k in ((0, 0), (0, 299), (299, 0), (150, 7), (77, 78)):
        array = lag(300) / 300
        array[i, k] += 1e-9
        assert type(as_structure(array)) is Dense
    array = lag(300) / 300
    array += 1e-16 * np.random.default_rng(0).standard_normal(array.shape)  # rounding is not
    assert type(as_structure(array)) is PowerDistance
    array = lag(300) / 300 + 1e-6 * (lag(300) == 9)  # Toeplitz, but no distance, and too short for FFT
    assert type(as_structure(array)) is Dense


def test_small_arrays_and_stacks_stay_arrays():
    assert type(as_structure(lag(SCAN_FROM - 1).astype(float))) is Dense
    assert type(as_structure(np.stack([lag(200), 2 * lag(200)]).astype(float))) is Dense


# ----------------------------------------------------------------------------------------------------------------- the solver


def both(n, m, kind):
    return (
        (PowerDistance(n, scale=1 / n), PowerDistance(m, scale=1 / m))
        if kind == "distance"
        else tuple(LaplaceKernel(k, 0.05 * k, weight=-1.0, offset=1.0) for k in (n, m))
    )


@pytest.mark.parametrize("kind", ["distance", "kernel"])
@pytest.mark.parametrize(
    "options",
    [
        {"m": 0.8, "reg": 0.05},
        {"m": 0.8, "reg_rel": 0.02, "normalize": "mean"},
        {"tau": 0.1, "reg": 0.05, "normalize": "max", "n_init": 2},
        {"m": 0.7, "reg": 0.0},
    ],
)
def test_solve_gives_the_same_with_operators_and_arrays(sequences, kind, options):
    n, m = 220, 180
    M = sequences(n)["M"][:, :m]
    C1, C2 = both(n, m, kind)
    exact = options.get("reg") == 0
    tol = None if exact else 1e-10  # plans are compared to 1e-9
    results = [
        solve(M, *pair, alpha=0.3, tol=tol, on_fail="ignore", **options)
        for pair in (
            (C1, C2),
            (C1.to_dense()[0], C2.to_dense()[0]),
            tuple(Dense(C.to_dense()[0]) for C in (C1, C2)),
        )
    ]
    for r in results[1:]:
        assert abs(r.value - results[0].value) <= 1e-9 * abs(results[0].value)
        assert np.abs(r.plan - results[0].plan).sum() <= (1e-6 if exact else 1e-9)


@pytest.mark.parametrize("name", ["kernel", "distance", "points", "rank", "fft"])
def test_points_without_weight_are_taken_out(sequences, name):
    n, m = 200, 160
    M, p = sequences(n)["M"][:, :m], np.full(n, 1 / n)
    p[np.random.default_rng(0).permutation(n)[:60]] = 0.0
    C1, C2 = ((KINDS[name](k)) for k in (n, m))
    options = {"alpha": 0.3, "p": p, "m": 0.5, "reg": 0.1, "normalize": "mean", "on_fail": "ignore"}
    a = solve(M, C1, C2, **options)
    b = solve(M, Dense(C1.to_dense()[0]), Dense(C2.to_dense()[0]), **options)
    assert np.abs(a.plan - b.plan).sum() <= 1e-8 and not a.plan[p == 0].any()


def test_batches_share_an_operator(sequences):
    n = 150
    M = np.stack([sequences(n, seed)["M"] for seed in (0, 1)])
    C = PowerDistance(n, scale=1 / n)
    p = np.full((2, n), 1.0)
    p[1, ::3] = 0.0  # the operator on the points of each problem
    p /= p.sum(1, keepdims=True)
    for weights in (None, p):
        options = {"alpha": 0.3, "m": 0.8, "reg": 0.05}
        batch = solve(M, C, C, weights, **options)
        for b in range(2):
            one = solve(M[b], C, C, None if weights is None else weights[b], **options)
            assert np.abs(batch[b].plan - one.plan).sum() <= 1e-6


def test_float32_and_small_operators(sequences):
    for n in (40, 200):
        M = sequences(n)["M"].astype(np.float32)
        C = LaplaceKernel(n, 0.1 * n)
        r = solve(M, C, C, alpha=0.5, m=0.8, reg=0.05)
        assert r.plan.dtype == np.float32
        assert abs(r.value - solve(M.astype(float), C, C, alpha=0.5, m=0.8, reg=0.05).value) < 1e-5


def test_align_uses_operators(sequences):
    data = sequences(160)
    for structure in ("laplace", "linear"):
        r = fpgwot.align(data["X"], data["Y"], structure=structure)
        gap = lag(160) / 160
        C = gap if structure == "linear" else 1 - np.exp(-gap / 0.05)
        M = data["M"] / data["M"].mean()
        other = solve(M, Dense(C), Dense(C), alpha=0.3, m=0.8, reg_rel=0.01, normalize="mean")
        assert abs(r.value - other.value) <= 1e-6 * abs(other.value)


def test_no_square_array_is_built():
    n, m = 1500, 40
    M = np.random.default_rng(0).random((n, m))
    pairs = [both(n, m, kind) for kind in ("distance", "kernel")] + [(Toeplitz(np.sqrt(np.arange(n))), PointCloud(rough(m)))]
    for C1, C2 in pairs:
        options = {"alpha": 0.3, "m": 0.8, "reg": 0.1, "normalize": "mean", "max_iter": 3, "on_fail": "ignore"}
        solve(M, C1, C2, **options)  # compiles
        tracemalloc.start()
        solve(M, C1, C2, **options)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 0.7 * 8 * n * n  # about a dozen n x m arrays


def test_products_beat_matrix_products():
    """At n = 1024 a matrix product takes 20 times as long or more; a busy machine may hide some of that, not all."""

    def seconds(run):
        best = np.inf
        for _ in range(5):
            start = time.perf_counter()
            run()
            best = min(best, time.perf_counter() - start)
        return best

    n = 1024
    T, out = np.full((1, n, n), 1.0 / n**2), np.empty((1, n, n))
    for C in (PowerDistance(n), LaplaceKernel(n, 50.0)):
        matrix = Dense(C.to_dense())
        for product in ("matmul", "rmatmul"):
            fast, slow = (seconds(lambda S=S: getattr(S, product)(numba_cpu, T, out=out)) for S in (C, matrix))  # noqa: B023
            assert fast < slow / 3


# ----------------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: PowerDistance(0), "n="),
        (lambda: PowerDistance(2.5), "n="),
        (lambda: PowerDistance(5, 3), "Toeplitz"),
        (lambda: PowerDistance(5, scale=0.0), "positive"),
        (lambda: LaplaceKernel(), "needs n"),
        (lambda: LaplaceKernel(5, scale=-1.0), "positive"),
        (lambda: LaplaceKernel(5, weight=np.nan), "finite"),
        (lambda: LaplaceKernel(times=[0.0, 1.0, 1.0]), "increasing"),
        (lambda: LaplaceKernel(4, times=[0.0, 1.0, 2.0]), "do not fit"),
        (lambda: Toeplitz([]), "weights"),
        (lambda: Toeplitz(np.ones((3, 3))), "vector"),
        (lambda: Toeplitz(np.ones(3), np.ones(4)), "same length"),
        (lambda: LowRank(np.ones((3, 2)), np.ones((3, 1))), "one shape"),
        (lambda: PointCloud(np.full((3, 2), np.inf)), "finite"),
        (lambda: Dense(np.ones((3, 2))), "square"),
        (lambda: solve(np.ones((3, 3)), PowerDistance(4), PowerDistance(3)), "shapes do not fit"),
    ],
)
def test_errors_say_what_to_do(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_solve_batch_refuses_operators():
    with pytest.raises(TypeError, match="to_dense"):
        fpgwot.solve_batch([{"M": np.ones((3, 3)), "C1": PowerDistance(3), "C2": PowerDistance(3)}])


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("kind", ["arrays", "shared", "operators"])
def test_cross_of_the_product_plan_is_the_double_sum(kind, symmetric, backend):
    """A_ij = sum_kl (C1_ik C2_jl + C1_ki C2_lj)/2 T_kl, by its definition; the last problem of a batch has fewer points."""
    rng = np.random.default_rng(4)
    B, n, m = (1, 9, 7) if kind == "operators" else (3, 9, 7)
    layers = B if kind == "arrays" else 1
    C1, C2 = rng.random((layers, n, n)), rng.random((layers, m, m))
    if symmetric:
        C1, C2 = C1 + C1.swapaxes(1, 2), C2 + C2.swapaxes(1, 2)
    given = C1, C2
    if kind == "operators":
        w = rng.random((4, max(n, m)))
        upper = [None, None] if symmetric else [w[2, :n], w[3, :m]]
        given = Toeplitz(w[0, :n], upper[0]), Toeplitz(w[1, :m], upper[1])
        C1, C2 = (C.to_dense() for C in given)
    p, q = rng.random((B, n)), rng.random((B, m))
    p[-1, 6:], q[-1, 5:] = 0, 0
    unused = dict.fromkeys(("tau", "reg_rel", "reference", "normalize", "mask"))
    prep = make_problem(load_backend(backend), None, *given, p, q, alpha=1.0, loss="square", m=np.full(B, 0.3), reg=0.1, **unused)
    z = prep.problem
    out = np.full(z.shape, np.nan)
    z.cross_of_product(out)
    for b in range(B):
        rows, cols = np.flatnonzero(p[b]), np.flatnonzero(q[b])
        a, c = (C[b % len(C)][np.ix_(i, i)] for C, i in ((C1, rows), (C2, cols)))
        T = 0.3 / prep.scale[b] * np.outer(p[b, rows] / p[b].sum(), q[b, cols] / q[b].sum())
        A = (np.einsum("ik,jl,kl->ij", a, c, T) + np.einsum("ki,lj,kl->ij", a, c, T)) / 2
        np.testing.assert_allclose(out[b, : len(rows), : len(cols)], A, rtol=1e-12)


@pytest.mark.parametrize("axis", [0, 1])
def test_products_of_distances_are_rounded_as_their_largest_entry(axis):
    """Two groups of points far apart, all mass in one: the worst case of a scan that starts at the other."""
    from fpgwot._backends import numba_cpu

    rng = np.random.default_rng(0)
    t = np.cumsum(rng.random(300)) + 1e6 * (np.arange(300) >= 150)
    X = np.where(np.arange(300) >= 150, rng.random((40, 300)), 0.0)
    want = (X.astype(np.longdouble) @ np.abs(np.subtract.outer(t, t)).astype(np.longdouble)).astype(float)
    x = X.T if axis == 0 else X
    C = PowerDistance(None, times=t)
    got = (C.matmul if axis == 0 else C.rmatmul)(numba_cpu, np.ascontiguousarray(x)[None])[0]
    got = got.T if axis == 0 else got
    assert (np.abs(got - want).max(1) <= 1e-14 * want.max(1)).all()
