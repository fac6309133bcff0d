"""The inner solve of a small problem in one thread block: against the loop of `inner.py` on the NumPy reference, and Numba's."""

from __future__ import annotations

import numpy as np
import pytest
import test_backends as parity
from emulator import build
from emulator.standin import Standin
from test_gpu_host import MARGINALS, agree, both, check_batch, no_factor  # noqa: F401
from test_gpu_kernels import ORDERS, REALS, SIZES, OnDevice

from fpgwot._backends import _protocol as ix
from fpgwot._backends import inner, numpy_ref
from fpgwot._backends.cupy_gpu import SMALL, Gpu

pytestmark = [pytest.mark.emulated, pytest.mark.skipif(build.MISSING is not None, reason=str(build.MISSING))]
SLACK = {np.float64: 1e-12, np.float32: 1e-6}
N = 64


def device(order: str = "forward", seed: int = 0, threads: int = 512, cached: bool = False) -> OnDevice:
    """The backend on the stand-in; `cached`: as on a device whose shared memory does not take the matrix."""
    gpu = Gpu(Standin(order, seed), threads=threads)
    if cached:
        gpu._most_shared = lambda: 0
    return OnDevice(gpu)


def ascend(be, x, target: float, steps: int, feasible: float = np.inf, spent: float = 0.0):
    """The inner solve of a state; its passes and what it has spent."""
    B, dtype = len(x.on), x.K.dtype.type
    left = np.full(B, spent)
    passes = be.ascend(x.K, x.s, np.full(B, target), np.full(B, feasible), steps, SLACK[dtype], left, x.on)
    return passes, left


def without_factor(x):
    """A state whose Newton systems get no factor, as on a GPU: with one the reference goes another way."""
    x.s.factor = x.s.factor[:, :0, :0]
    return x


def compare(x, y, tolerance: float) -> None:
    """What a caller reads afterwards: scalings, marginals, dual value, mass."""
    for b in np.flatnonzero(x.on):
        n, m = x.s.size[b]
        for name in (ix.LU, ix.E, ix.ROW):
            np.testing.assert_allclose(y.s.rows[b, name, :n], x.s.rows[b, name, :n], rtol=tolerance, atol=tolerance)
        for name in (ix.Y, ix.COL, ix.IMAGE):
            np.testing.assert_allclose(y.s.cols[b, name, :m], x.s.cols[b, name, :m], rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(y.s.v[b, :m], x.s.v[b, :m], rtol=tolerance)
        np.testing.assert_allclose(y.s.vals[b, [ix.PHI, ix.MASS]], x.s.vals[b, [ix.PHI, ix.MASS]], rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(y.s.cols[b, ix.Y, -1], x.s.cols[b, ix.Y, -1], rtol=tolerance, atol=tolerance)


def check(kind: str, dtype, be, size=parity.SIZE, target: float = 1e-10, exact: bool = True) -> None:
    """The same solve by the reference and in one launch.

    `exact`: with the CPU's exp and log, where rounding decides nothing in float64: the same passes.
    """
    x, y = (without_factor(parity.State(kind, dtype, size=size)) for _ in range(2))
    target, tolerance = (target, 1e-9 if exact else 1e-7) if dtype == np.float64 else (1e-4, 2e-4)
    one, two = ascend(numpy_ref, x, target, 8), ascend(be, y, target, 8)
    assert list(be.gpu._kernels) == [f"small<{'double' if dtype == np.float64 else 'float'}>"]
    assert (y.s.vals[x.on, ix.RES] <= np.maximum(target, 1.01 * x.s.vals[x.on, ix.RES])).all()
    if exact and dtype == np.float64:
        np.testing.assert_array_equal(two, one)
    assert not two[0][~x.on].any()
    compare(x, y, tolerance)


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("kind", parity.RULES)
def test_inner_solves(kind, dtype):
    check(kind, dtype, device())


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("threads", [32, 64, 256])
def test_order_of_threads_and_blocks(order, threads):
    for dtype in REALS:
        check("partial", dtype, device(order, 3, threads))
        check("kl", dtype, device(order, 4, threads, cached=True))


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("size", SIZES[:-1], ids=str)
def test_sizes(size, dtype):
    for kind in ("balanced", "partial"):
        for threads in (32, 512):
            check(kind, dtype, device(threads=threads), np.array(size, np.int64), target=1e-9)


def test_a_matrix_that_needs_more_shared_memory_than_the_default():
    be = device()
    check("partial", np.float64, be, np.array([[80, 75]]))
    assert be.gpu._kernels["small<double>"].max_dynamic_shared_size_bytes > 80 * 75 * 8


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", parity.RULES)
def test_a_fixed_number_of_steps(kind, order):
    """No target is met: all sweeps, one Newton step with its conjugate gradients and line search. The parity of primitives."""
    for dtype in REALS:
        x, y = (parity.State(kind, dtype) for _ in range(2))
        for one in (x, y):
            one.K **= 6  # mixing alone does not get down to rounding, where numbers decide nothing
        passes = [ascend(be, s, -1.0, 1)[0] for be, s in ((numpy_ref, x), (device(order, 9), y))]
        assert dtype == np.float32 or (passes[0] == passes[1]).all()
        compare(x, y, 1e3 * parity.TOLERANCE[dtype])


class Spy:
    """The reference, which counts what seldom happens: mixed points that fall, line searches that find nothing."""

    name, fallen, failed = "spy", 0, 0

    def __init__(self) -> None:
        self.ascend = inner.interpreted(self)

    def __getattr__(self, name):
        return getattr(numpy_ref, name)

    def anderson(self, s, restart, on):
        self.fallen += restart.any()
        numpy_ref.anderson(s, restart, on)

    def trial(self, s, a, on):
        self.failed += a[on].max() == 0
        numpy_ref.trial(s, a, on)


@pytest.mark.parametrize(("kind", "seed", "steps"), [("balanced", 5, 6), ("balanced", 3, 8), ("full_rows", 4, 8)])
def test_hard_problems_take_the_same_decisions(kind, seed, steps):
    hard_problems(device(), kind, seed, steps)


def hard_problems(be, kind: str, seed: int, steps: int) -> None:
    """A kernel over many orders of magnitude, from far away."""
    states = []
    for _ in range(2):
        x, rng = parity.State(kind, np.float64), np.random.default_rng(seed)
        for b, (n, m) in enumerate(parity.SIZE):
            x.K[b, :n, :m] = np.exp(20 * rng.normal(size=(n, m)))
        x.s.cols[:, ix.Y] *= 100
        states.append(x)
    spy = Spy()
    one, two = (ascend(be, x, 1e-8, steps, spent=59.0) for be, x in zip((spy, be), states, strict=True))
    assert spy.failed or kind != "balanced"  # where caps may hold no line search fails any more
    assert spy.fallen or seed == 5
    np.testing.assert_array_equal(two, one)
    compare(*states, 1e-9)


def test_the_violation_counts_as_well():
    """The target alone would end it after two passes."""
    x, y = (parity.State("partial", np.float64) for _ in range(2))
    one, two = ascend(numpy_ref, x, 1.0, 8, feasible=1e-6), ascend(device(), y, 1.0, 8, feasible=1e-6)
    assert one[0].max() > inner.SWEEPS
    np.testing.assert_array_equal(two, one)
    assert (y.s.vals[y.on, ix.VIOL] <= 1e-6).all()


def test_results_repeat_bit_for_bit_and_neighbours_have_no_say():
    found = []
    for order, on in [*((x, [True, False, True]) for x in ORDERS), ("forward", [True, True, True])]:
        x = parity.State("partial", np.float32)
        x.on = np.array(on)
        ascend(device(order, 7), x, 1e-5, 8)
        found.append(x.arrays())
    for one in found[1:]:
        for key in ("vals", "rows", "cols", "v"):
            for b in (0, 2):
                np.testing.assert_array_equal(one[key][b], found[0][key][b], err_msg=key)


def test_problems_that_are_off_and_padding_stay_as_they_are():
    before, x = parity.State("partial", np.float64), parity.State("partial", np.float64)
    ascend(device(), x, 1e-8, 8)
    for key, a in before.arrays().items():
        if a.ndim >= 2:
            np.testing.assert_array_equal(x.arrays()[key][1], a[1], err_msg=key)
    np.testing.assert_array_equal(before.K, x.K)
    for b, (n, m) in enumerate(parity.SIZE):
        assert not x.s.rows[b, ix.E, n:].any()
        assert not x.s.cols[b, ix.Y, m:-1].any()


def test_larger_matrices_go_pass_by_pass():
    for n, m in ((2, SMALL // 32 + 1), (200, 170)):
        gpu = Gpu(Standin())
        x = parity.State("balanced", np.float64, size=np.array([[n, m]]))
        ascend(OnDevice(gpu), x, 1e-3, 0)
        assert {name.partition("<")[0] for name in gpu.cp._traffic.launches} >= {"sweep_rows", "anderson"}


# ------------------------------------------------------------------------------------------------------------------ whole solves


@pytest.fixture(scope="module")
def gpu() -> Gpu:
    return Gpu(Standin())


@pytest.mark.parametrize("kind", MARGINALS)
def test_fused_solves_with_temporal_structures(kind, gpu, sequences):
    x = sequences(N)
    gpu.cp._traffic.clear()
    expected, found = both(gpu, x["M"], x["C1"], x["C2"], alpha=0.5, reg=0.02, **MARGINALS[kind])
    agree(expected, found)
    names = [name.partition("<")[0] for name in gpu.cp._traffic.launches]
    assert names.count("small") == found.n_iter  # one launch for each inner solve
    assert not {"sweep_rows", "cg_rows", "anderson"} & set(names)


def test_hard_and_float32_solves(gpu, sequences):
    x = sequences(N)
    arrays = [x[k] for k in ("M", "C1", "C2")]
    agree(*both(gpu, *arrays, m=0.7, reg=0.01, smoothness=0.01), tolerance=1e-8)
    expected, found = both(gpu, *arrays, m=0.7, reg=0.05, dtype=np.float32)
    assert found.converged
    np.testing.assert_allclose(found.plan.get(), expected.plan, atol=1e-4 * expected.plan.max())
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-5)


def test_several_starts_and_a_batch_of_unequal_problems(gpu, sequences):
    x = sequences(N)
    agree(*both(gpu, x["M"], x["C1"], x["C2"], m=0.7, reg=0.05, n_init=3, random_state=0))
    check_batch(gpu)
