"""Whole solves through the CuPy host code, on the stand-in for CuPy: equal to Numba's, and nothing large leaves the device."""

from __future__ import annotations

import numpy as np
import pytest
from emulator import build
from emulator.standin import Standin
from emulator.standin import ndarray as DeviceArray

from fpgwot import (
    Dense,
    LaplaceKernel,
    LowRank,
    PointCloud,
    PowerDistance,
    Toeplitz,
    _dispatch,
    align,
    as_structure,
    solve,
    solve_batch,
)
from fpgwot._backends import _protocol
from fpgwot._backends.cupy_gpu import Gpu
from fpgwot._solvers import changes

pytestmark = [pytest.mark.emulated, pytest.mark.skipif(build.MISSING is not None, reason=str(build.MISSING))]
N = 64


@pytest.fixture(autouse=True)
def no_factor(monkeypatch):
    """The CPU buys a dense factor of hard Newton systems, the GPU does not: without one both take the same steps."""
    monkeypatch.setattr(_protocol, "LARGEST_FACTOR", 0)


@pytest.fixture(scope="module")
def gpu() -> Gpu:
    """Pass by pass, whatever the size; `test_gpu_small` has the solves whose inner loop is one launch."""
    return Gpu(Standin(), small=0)


@pytest.fixture
def problem(sequences):
    x = sequences(N)
    return x["M"], x["C1"], x["C2"]


def both(gpu, *arrays, dtype=np.float64, **options):
    """The same solve on both backends, the second with device arrays; its result with NumPy arrays."""
    cp = gpu.cp
    arrays = [x.astype(dtype) if isinstance(x, np.ndarray) else x for x in arrays]
    expected = solve(*arrays, **options)
    moved = {k: cp.asarray(x) if isinstance(x, np.ndarray) and x.ndim > 1 else x for k, x in options.items()}
    found = solve(*(cp.asarray(x) if isinstance(x, np.ndarray) else x for x in arrays), **moved, backend=gpu)
    assert isinstance(found.plan, DeviceArray)
    assert isinstance(found.potentials[0], DeviceArray)
    assert found.plan.dtype == dtype
    assert (found.backend, found.device) == ("cupy", "cuda:0")
    return expected, found


def agree(expected, found, tolerance=1e-9, same_steps=True):
    assert np.all(found.converged)
    assert np.array_equal(expected.n_iter, found.n_iter) or not same_steps  # the same loop, step for step
    np.testing.assert_allclose(found.plan.get(), expected.plan, atol=tolerance * expected.plan.max())
    np.testing.assert_allclose(found.value, expected.value, rtol=tolerance)
    np.testing.assert_allclose(found.mass, expected.mass, rtol=tolerance)
    for x, y in zip(found.potentials[:2], expected.potentials[:2], strict=True):
        np.testing.assert_allclose(x.get(), y, atol=1e3 * tolerance)
    np.testing.assert_allclose(found.gradient.get(), expected.gradient, atol=tolerance)
    assert np.isfinite(found.marginal_a.get()).all()


def test_products_of_changes_in_single_precision(gpu, monkeypatch):
    rng = np.random.default_rng(0)
    C1, C2 = rng.random((N, N)), rng.random((N - 5, N - 5))
    made, cross = [], changes.Changes.cross

    def watched(self, *args):
        cross(self, *args)
        made.append(bool((self.error == 0).all()))

    monkeypatch.setattr(changes.Changes, "cross", watched)
    monkeypatch.setattr(changes, "SMALLEST", 1)
    agree(*both(gpu, rng.random((N, N - 5)), C1, C2, alpha=0.5, reg=0.02, m=0.8), tolerance=1e-7)
    assert made
    assert sum(made) < 0.5 * len(made)


MARGINALS = {"partial": {"m": 0.7}, "balanced": {}, "kl": {"tau": (0.3, 0.8)}, "priced": {"tv": 0.4}, "whole": {"m": 1.0}}


@pytest.mark.parametrize("kind", MARGINALS)
def test_fused_solves_with_temporal_structures(kind, gpu, problem):
    agree(*both(gpu, *problem, alpha=0.5, reg=0.02, **MARGINALS[kind]))


@pytest.mark.parametrize(
    "operator",
    [
        PowerDistance(130, scale=1 / 130),
        PowerDistance(130, power=2, scale=130.0**-2),
        LaplaceKernel(130, 7.0, weight=-1.0, offset=1.0),
        LaplaceKernel(scale=5.0, times=np.cumsum(np.random.default_rng(0).random(130) + 0.1)),
        Toeplitz((np.arange(130) < 40) * 1.0),
        Toeplitz(np.cos(np.arange(130) / 9.0)),
        Toeplitz(np.exp(-np.arange(130) / 9.0), np.exp(-np.arange(130) / 4.0)),
        LowRank(*np.random.default_rng(1).random((2, 130, 3))),
        PointCloud(np.random.default_rng(2).random((130, 2))),
    ],
    ids=lambda x: f"{type(x).__name__}-{x.is_symmetric}",
)
def test_operators(operator, gpu):
    """One outer step or two with every kind of structure, on both sides."""
    M = np.random.default_rng(3).random((130, 131))
    other = PowerDistance(131, scale=1 / 131)
    one, two = (
        solve(A, operator, other, m=0.8, reg=0.05, max_iter=2, on_fail="ignore", backend=be)
        for A, be in ((M, "numba"), (gpu.cp.asarray(M), gpu))
    )
    np.testing.assert_allclose(two.plan.get(), one.plan, atol=1e-9 * one.plan.max())
    np.testing.assert_allclose(two.value, one.value, rtol=1e-9)


def test_float32(gpu, problem):
    arrays = [x.astype(np.float32) for x in problem]
    expected = solve(*arrays, m=0.7, reg=0.05, backend="numpy")
    found = solve(*(gpu.cp.asarray(x) for x in arrays), m=0.7, reg=0.05, backend=gpu)
    assert found.plan.dtype == np.float32
    assert found.converged
    np.testing.assert_allclose(found.plan.get(), expected.plan, atol=1e-4 * expected.plan.max())
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-4)


def test_smoothness_reference_mask_and_given_start(gpu, problem):
    rng = np.random.default_rng(5)
    Q, mask = rng.random((N, N)) + 0.1, abs(np.subtract.outer(np.arange(N), np.arange(N))) < 40
    agree(*both(gpu, *problem, m=0.6, reg=0.05, smoothness=0.01, reference=Q))
    agree(*both(gpu, *problem, m=0.6, reg=0.05, mask=mask, init=rng.random((N, N))))


def test_weights_with_zeros_scales_and_asymmetric_structures(gpu, problem):
    rng = np.random.default_rng(6)
    p, q = rng.random(N) * 3, rng.random(N - 5) * 2
    p[[0, 7, 8]], q[[3, N - 6]] = 0, 0
    M, C1, C2 = problem[0][:, : N - 5], rng.random((N, N)), problem[2][: N - 5, : N - 5].copy()
    agree(*both(gpu, M, C1, C2, p, q, m=10.0, reg=1.0))
    # 140 steps of slow progress: rounding decides which is the last, so both go far below what is compared
    agree(*both(gpu, M, C1, C2, p, q, m=10.0, reg=0.1, tol=1e-11), tolerance=1e-10, same_steps=False)
    agree(*both(gpu, M, C1, C2, p, q, m=10.0, reg_rel=0.1, normalize="mean", loss="product"))


def test_linear_problem_and_several_starts(gpu, problem):
    agree(*both(gpu, problem[0], reg=0.05))
    expected, found = both(gpu, *problem, m=0.7, reg=0.05, n_init=5, random_state=0)
    agree(expected, found)
    np.testing.assert_allclose(found.starts, expected.starts, rtol=1e-8)


def test_mass_is_chosen(gpu, sequences):
    x = sequences(33)
    with pytest.warns(UserWarning, match="not to be trusted"):  # its price has no jump
        expected, found = both(gpu, x["M"], x["C1"], x["C2"], m="auto", reg=0.1)
    np.testing.assert_allclose(found.mass_path.prices, expected.mass_path.prices, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.plan.get(), expected.plan, atol=1e-9)


def check_batch(gpu):
    """Five unequal problems, step for step where rounding does not grow.

    At alpha .5 the slowest direction of three of them loses little in a step: after 40 steps rounding alone, which differs from
    processor to processor, is 1e-7 of the plan. There the solutions are compared, solved to more digits than that.
    """
    rng, cp, problems = np.random.default_rng(7), gpu.cp, []
    for n, k in [(9, 20), (31, 33), (40, 32), (17, 1), (64, 50)]:
        C1, C2 = (abs(np.subtract.outer(np.arange(x), np.arange(x))) / x for x in (n, k))
        problems.append({"M": rng.random((n, k)), "C1": C1, "C2": C2, "p": rng.dirichlet(np.ones(n))})
    moved = [{k: cp.asarray(x) for k, x in one.items()} for one in problems]
    for alpha, tol, tolerance in ((0.2, None, 1e-12), (0.5, 1e-11, 1e-9)):
        options = {"m": 0.7, "reg": 0.05, "alpha": alpha, "tol": tol}
        expected, found = solve_batch(problems, **options), solve_batch(moved, **options, backend=gpu)
        for one, two in zip(expected, found, strict=True):
            agree(one, two, tolerance, same_steps=tol is None)


def test_a_batch_of_unequal_problems(gpu):
    check_batch(gpu)


def test_numpy_arrays_go_to_the_gpu_and_back_where_that_is_asked_for(gpu, problem):
    res = solve(*problem, m=0.7, reg=0.05, backend=gpu)
    assert type(res.plan) is np.ndarray
    assert type(res.potentials[0]) is np.ndarray
    assert res.backend == "cupy"


def test_no_matrix_leaves_the_device(gpu, problem):
    """Numbers and vectors do, matrices never; and little of either."""
    cp = gpu.cp
    arrays = [cp.asarray(x) for x in problem]
    cp._traffic.clear()
    res = solve(*arrays, m=0.7, reg=0.05, backend=gpu)
    assert not [x for x in (*cp._traffic.to_host, *cp._traffic.to_device) if x[-2:] == (N, N)]
    assert len(cp._traffic.to_host) <= 1.5 * int(res.n_passes) + 8 * int(res.n_iter) + 40
    assert res.matches()["weight"].sum() > 0
    assert len(res.unmatched()) > 0


def test_a_hard_problem_runs_every_kernel(gpu, problem):
    cp = gpu.cp
    cp._traffic.clear()
    solve(*(cp.asarray(x) for x in problem), m=0.7, reg=0.003, smoothness=0.01, backend=gpu, on_fail="ignore", max_iter=12)
    found = {x.partition("<")[0] for x in cp._traffic.launches}
    assert found >= {"gradient", "roughness", "spread", "marginal_sums", "column_logsums", "kernel_matrix", "plan"}
    assert found >= {"sweep_rows", "anderson", "newton_rows", "cg_rows", "cg_columns", "trial"}


def test_exact_problems_are_solved_on_the_host_and_say_so(gpu, sequences):
    x = sequences(20)
    arrays = [x[k] for k in ("M", "C1", "C2")]
    expected, found = solve(*arrays, m=0.7), solve(*(gpu.cp.asarray(a) for a in arrays), m=0.7, backend=gpu)
    assert isinstance(found.plan, DeviceArray)
    assert (found.backend, found.device) == ("numba", "cpu")
    np.testing.assert_allclose(found.plan.get(), expected.plan)
    assert type(solve(*arrays, m=0.7, backend=gpu).plan) is np.ndarray


# ------------------------------------------------------------------------------------------------------------ what is refused


def test_errors_name_the_way_out(gpu, problem):
    M = gpu.cp.asarray(problem[0])
    with pytest.raises(TypeError, match="different kinds"):
        solve(M, problem[1], problem[2], reg=0.1, backend=gpu)
    bad = problem[0].copy()
    bad[3, 4] = np.nan
    with pytest.raises(ValueError, match=r"M has NaN.*\(0, 3, 4\)"):
        solve(gpu.cp.asarray(bad), reg=0.1, backend=gpu)
    with pytest.raises(ValueError, match="M is 64 x 64, so C1 must be"):
        solve(M, gpu.cp.asarray(problem[1][:5, :5]), gpu.cp.asarray(problem[2]), reg=0.1, backend=gpu)
    with pytest.raises(NotImplementedError, match="costs on the host"):
        align(M, M, backend=gpu)
    with pytest.raises(TypeError, match="contiguous array of float64"):
        gpu._launch("columns.cu", "trial", M, (1,), 32, M.T, M, M, np.ones((1, 2), np.int64), M, np.ones(1, bool), 3, 3)
    with pytest.raises(ValueError, match="65,535 at once"):
        gpu._launch("columns.cu", "trial", M, (1, 70_000), 32, M, M, M, np.ones((1, 2), np.int64), M, np.ones(1, bool), 3, 3)


def test_without_cupy_the_error_says_what_is_missing():
    try:
        import cupy
    except ImportError:
        with pytest.raises(ImportError, match=r"fpgwot\[cuda12\]"):
            solve(np.ones((2, 2)), reg=0.1, backend="cupy")
        return
    if cupy.cuda.is_available():
        pytest.skip("there is a device")
    with pytest.raises(RuntimeError, match="no CUDA driver"):
        solve(np.ones((2, 2)), reg=0.1, backend="cupy")


def test_the_caller_stays_on_the_cpu_by_default():
    assert _dispatch.resolve([np.ones(2)], "auto")[1] == "cpu"
    with pytest.raises(ValueError, match="unknown backend"):
        _dispatch.resolve([np.ones(2)], "gpu")


def test_structures_and_weights_of_the_host_are_checked_there(gpu, problem):
    """CuPy's functions refuse arrays of NumPy."""
    M, C1, C2 = problem
    expected, found = both(gpu, M, Dense(C1), Dense(C2), reg=0.05)
    agree(expected, found)
    for value in (np.nan, np.inf):
        wrong = C1.copy()
        wrong[3, 4] = wrong[4, 3] = value
        with pytest.raises(ValueError, match=r"C1 has NaN or infinite entries \(first at \(0, 3, 4\)\)"):
            solve(gpu.cp.asarray(M), Dense(wrong), Dense(C2), reg=0.05, backend=gpu)
    p = np.full(N, 1 / N)
    p[5] = np.nan
    with pytest.raises(ValueError, match="p has NaN or infinite entries"):
        solve(gpu.cp.asarray(M), gpu.cp.asarray(C1), gpu.cp.asarray(C2), gpu.cp.asarray(p), reg=0.05, backend=gpu)


def test_patterns_are_recognised_on_the_device(gpu):
    lag = np.abs(np.subtract.outer(np.arange(200.0), np.arange(200.0)))
    assert isinstance(as_structure(gpu.cp.asarray(lag), gpu), PowerDistance)
    bent = lag.copy()
    bent[100, 7] += 1e-9
    assert isinstance(as_structure(gpu.cp.asarray(bent), gpu), Dense)
    uneven = np.abs(np.subtract.outer(np.arange(200.0) ** 1.5, np.arange(200.0) ** 1.5))
    assert as_structure(gpu.cp.asarray(uneven), gpu).times is not None
    uneven[100, 7] += 1e-3
    assert isinstance(as_structure(gpu.cp.asarray(uneven), gpu), Dense)
    with pytest.raises(TypeError):  # what `nn` did
        as_structure(gpu.cp.asarray(lag))
