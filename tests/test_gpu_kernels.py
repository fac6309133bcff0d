"""Every CUDA kernel against the NumPy reference: run on the CPU by the emulator, through the package's own host code."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import test_backends as parity
from emulator import build
from emulator.standin import Standin

from fpgwot._backends import _protocol as ix
from fpgwot._backends import numpy_ref, numpy_structured
from fpgwot._backends.cupy_gpu import Gpu

pytestmark = [pytest.mark.emulated, pytest.mark.skipif(build.MISSING is not None, reason=str(build.MISSING))]
REALS = [np.float64, np.float32]
ORDERS = ["forward", "backward", "random"]
LEFT_OUT = "factor", "gradient-ahead", "gradient-distances"  # which the GPU does not have
STEPS = [x for x in parity.STEPS if not x.startswith(LEFT_OUT)]
STATE = ("size", "vals", "rows", "cols", "v", "hist")
# rows and columns of the problems of a batch: single points, a warp and a row block more or less, primes, and with blocks of
# 32 threads every number of columns in a thread (2, 4, 8, 16, and more than registers hold)
SIZES = [
    [[1, 1]],
    [[31, 32], [32, 31], [1, 33]],
    [[33, 1]],
    [[97, 53], [64, 61]],
    [[3, 113], [40, 7]],
    [[34, 250]],
    [[5, 509], [2, 300]],
    [[35, 1031]],
]


class OnDevice:
    """The GPU backend for NumPy arrays: each call moves its arrays to the device, and what it wrote back."""

    divergences, scans = Gpu.divergences, Gpu.scans

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu

    def __getattr__(self, name):
        cp, moved = self.gpu.cp, []

        def take(x):
            if isinstance(x, ix.Scaling):
                s = copy.copy(x)
                for key in STATE:
                    setattr(s, key, take(getattr(x, key)))
                s.part, s.sums = (cp.empty(y.shape, y.dtype) for y in (x.part, x.sums))  # poisoned: nothing may be left in them
                return s
            if isinstance(x, np.ndarray) and x.ndim > 1:
                moved.append((x, cp.asarray(x)))
                return moved[-1][1]
            return x

        def call(*args):
            out = getattr(self.gpu, name)(*(take(x) for x in args))
            for x, y in moved:
                x[...] = cp.asnumpy(y)
            return None if out is None else self.gpu.host(out)

        return call


@cache
def emulated(order: str = "forward", seed: int = 0, threads: int = 512) -> OnDevice:
    return OnDevice(Gpu(Standin(order=order, seed=seed), threads=threads))


def check(step, kind, dtype, be, size=parity.SIZE):
    x = parity.State(kind, dtype, size=size), parity.State(kind, dtype, size=size)
    for one, backend in zip(x, (numpy_ref, be), strict=True):
        step(backend, one)
    # linear systems amplify the last digit; with a side of one point gradients are nothing but rounding of numbers near 1
    mixes = step.__name__ in ("anderson", "images_of_the_last_kernel")
    loose = 100 if mixes or step.__name__ in ("cg", "trial", "shorten") else 1
    if mixes and size[:, 1].min() < ix.MEMORY:  # more images than variables: a singular system
        loose = 1e6 if dtype == np.float64 else 1e3
    parity.compare(x[0].arrays(), x[1].arrays(), loose * parity.TOLERANCE[dtype], x[0].on, 1.0 if size.min() == 1 else 1e-3)


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("kind", parity.RULES)
@pytest.mark.parametrize("name", STEPS)
def test_primitives(name, kind, dtype):
    check(parity.STEPS[name], kind, dtype, emulated())


@pytest.mark.parametrize("order", ORDERS[1:])
@pytest.mark.parametrize("name", STEPS)
def test_order_of_threads_and_blocks(name, order):
    for dtype in REALS:
        check(parity.STEPS[name], "partial", dtype, emulated(order, 3))
        check(parity.STEPS[name], "kl", dtype, emulated(order, 4, 32))


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", [x for x in STEPS if x != "spread"])  # it sets entries that small problems lack
def test_sizes(name, size, dtype):
    for kind in ("balanced", "partial"):
        check(parity.STEPS[name], kind, dtype, emulated(threads=32), np.array(size, np.int64))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["sweep", "newton", "cg", "plan"])
def test_several_warps_share_the_columns(name, order):
    for threads, size in ((64, [[34, 250]]), (64, [[33, 1031]]), (512, [[35, 1031], [3, 200]])):
        for dtype in REALS:
            check(parity.STEPS[name], "partial", dtype, emulated(order, 5, threads), np.array(size, np.int64))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_spread_of_all_sizes(size):
    x = parity.State("partial", np.float64, size=np.array(size, np.int64))
    np.testing.assert_allclose(emulated(threads=32).spread(x.G, x.s), numpy_ref.spread(x.G, x.s), rtol=1e-12)


@pytest.mark.parametrize("name", STEPS)
def test_results_repeat_bit_for_bit(name):
    """In every order of threads and blocks: no sum depends on who comes first."""
    found = []
    for order in ORDERS:
        x = parity.State("partial", np.float32)
        parity.STEPS[name](emulated(order, 7), x)
        found.append(x.arrays())
    for one in found[1:]:
        for key, a in found[0].items():
            np.testing.assert_array_equal(a, one[key], err_msg=key)


@pytest.mark.parametrize("kind", ["balanced", "partial", "kl"])
@pytest.mark.parametrize("name", [x for x in STEPS if x not in ("spread", "logsums", "marginal_sums", "drift")])
def test_problems_that_are_off_and_padding_stay_as_they_are(name, kind):
    parity.test_problems_that_are_off_and_padding_stay_as_they_are(name, kind, emulated())


@pytest.mark.parametrize("name", STEPS)
def test_a_problem_alone_equals_the_same_in_a_batch(name):
    _, alone = parity.run(parity.STEPS[name], emulated(), "partial", np.float64, np.array([True, False, False]))
    _, batch = parity.run(parity.STEPS[name], emulated(), "partial", np.float64, np.array([True, True, False]))
    for key, a in alone.items():
        if a.ndim >= 2:
            np.testing.assert_array_equal(a[0], batch[key][0], err_msg=key)


@pytest.mark.parametrize("dtype", REALS)
def test_roughness(dtype):
    for size in (parity.SIZE, np.array([[1, 1]]), np.array([[1, 70], [66, 2]])):
        x, y = (parity.State("balanced", dtype, size=size) for _ in range(2))
        weight = np.array([0.3, 0.7, 1.1])[: len(size)]
        out = [be.roughness(s.T, s.G, weight, size, s.on) for s, be in ((x, numpy_ref), (y, emulated()))]
        np.testing.assert_allclose(*out, rtol=20 * parity.TOLERANCE[dtype], atol=1e-14)
        np.testing.assert_allclose(x.G, y.G, rtol=parity.TOLERANCE[dtype])


def test_forbidden_pairs_and_large_costs():
    """Costs of 1e30 at the least eps: no NaN, and a plan entry of zero."""
    for dtype in REALS:
        x, y = (parity.State("partial", dtype) for _ in range(2))
        for s, be in ((x, numpy_ref), (y, emulated())):
            s.s.vals[:, ix.EPS] = 1e-7
            s.L[:, :, ::3] = s.G[:, :, ::3] = ix.FORBIDDEN
            s.out["logsums"] = be.column_logsums(s.L, s.s, s.on)
            be.kernel(s.L, s.G, s.T, s.T0, s.s, np.ones(3), np.array([True, False, False]), s.on)
        for b in (0, 2):
            n, m = parity.SIZE[b]
            assert np.isfinite(y.T[b]).all()
            allowed = np.arange(parity.K) % 3 > 0
            np.testing.assert_allclose(x.out["logsums"][b, allowed], y.out["logsums"][b, allowed], rtol=1e-5)
            assert (y.out["logsums"][b, :m][~allowed[:m]] < -1e29).all()
            assert (y.T[b, :n, 0:m:3][x.T[b, :n, 0:m:3] == 0] == 0).all()


# ------------------------------------------------------------------------------------------------------------------ structures

LINES = [(1, 1, 1), (2, 31, 3), (1, 32, 65), (1, 33, 64), (2, 101, 7), (1, 7, 130), (1, 257, 2)]  # problems, points, lines


@pytest.fixture(params=ORDERS)
def gpu(request):
    return emulated(request.param, 5)


def products(name, shape, dtype, gpu, *args):
    """A product of a backend's function along both axes, with and without a buffer for it."""
    B, n, lines = shape
    rng = np.random.default_rng(n)
    for axis in (0, 1):
        X = rng.random((B, n, lines) if axis == 0 else (B, lines, n)).astype(dtype)
        right = getattr(numpy_structured, name)(X.astype(float), *args, axis)
        top = np.abs(right).max() or 1.0
        found = getattr(gpu, name)(X, *args, axis)
        assert found.dtype == dtype
        np.testing.assert_allclose(found / top, right / top, atol=2e-13 if dtype == np.float64 else 3e-7)
        cp = gpu.gpu.cp
        out = cp.empty((*X.shape[:2], 2 * X.shape[2]), dtype)[:, :, ::2]  # not contiguous
        assert getattr(gpu.gpu, name)(cp.asarray(X), *args, axis, out) is out
        np.testing.assert_array_equal(cp.asnumpy(out), found)


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("shape", LINES, ids=str)
@pytest.mark.parametrize("power", [1, 2])
def test_power_distance(power, shape, dtype, gpu):
    gaps = np.append(0.0, np.random.default_rng(0).random(shape[1] - 1) + 0.1)
    products("power_matmul", shape, dtype, gpu, gaps, power, 0.25)


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("shape", LINES, ids=str)
def test_laplace_kernel(shape, dtype, gpu):
    gaps = np.random.default_rng(0).random(shape[1] - 1) * 5
    products("decay_matmul", shape, dtype, gpu, np.append(0.0, np.exp(-gaps)), -1.0, 1.0)
    products("decay_matmul", shape, dtype, gpu, np.append(0.0, np.full(shape[1] - 1, np.exp(-0.01))), 2.0, 0.0)


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("shape", LINES, ids=str)
def test_toeplitz_bands(shape, dtype, gpu):
    n = shape[1]
    for width in {0, 1, 5, 32, 33, 40, 64, n - 1, n + 3}:
        if width <= 40:
            products("toeplitz_matmul", shape, dtype, gpu, np.random.default_rng(width).random(width + 1))
        products("toeplitz_matmul", shape, dtype, gpu, np.append(0.5, np.full(width, 0.2)))
