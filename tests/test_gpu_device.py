"""What only a GPU can show: the kernels as its own compiler makes them, streams, torch, bit for bit the same twice.

    pytest -m gpu

The comparisons are those of `test_gpu_kernels` and `test_gpu_host`, which run without a GPU on an emulator.
"""

from __future__ import annotations

import numpy as np
import pytest
import test_backends as parity
import test_gpu_graph as graphs
import test_gpu_small as small
from test_gpu_host import MARGINALS, no_factor  # noqa: F401
from test_gpu_kernels import LINES, REALS, SIZES, STEPS, OnDevice, check, products

from fpgwot import solve, solve_batch
from fpgwot._backends.cupy_gpu import Gpu, backend

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def gpu():
    try:
        return backend()
    except (ImportError, RuntimeError) as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("kind", parity.RULES)
@pytest.mark.parametrize("name", STEPS)
def test_primitives(name, kind, dtype, gpu):
    check(parity.STEPS[name], kind, dtype, OnDevice(gpu))


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("size", [*SIZES, [[67, 2100]], [[33, 4200]], [[64, 9001]]], ids=str)
@pytest.mark.parametrize("name", [x for x in STEPS if x != "spread"])
def test_sizes(name, size, dtype, gpu):
    check(parity.STEPS[name], "partial", dtype, OnDevice(gpu), np.array(size, np.int64))


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("kind", parity.RULES)
def test_inner_solves_in_one_launch(kind, dtype, gpu):
    for threads, size in (
        (512, parity.SIZE),
        (32, parity.SIZE),
        (512, np.array([[97, 53], [120, 133]])),
        (512, np.array([[181, 181]])),
    ):
        small.check(kind, dtype, OnDevice(Gpu(gpu.cp, threads=threads)), size, exact=False)


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("kind", parity.RULES)
def test_inner_solves_with_graphs(kind, dtype, gpu):
    for threads in (512, 32):
        graphs.check(kind, dtype, OnDevice(Gpu(gpu.cp, threads=threads, small=0)), exact=False)


@pytest.mark.parametrize("name", STEPS)
def test_results_repeat_bit_for_bit(name, gpu):
    found = []
    for _ in range(3):
        x = parity.State("partial", np.float32)
        parity.STEPS[name](OnDevice(gpu), x)
        found.append(x.arrays())
    for one in found[1:]:
        for key, a in found[0].items():
            np.testing.assert_array_equal(a, one[key], err_msg=key)


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("shape", [*LINES, (3, 1000, 700)], ids=str)
def test_structures(shape, dtype, gpu):
    n, be = shape[1], OnDevice(gpu)
    gaps = np.random.default_rng(0).random(n - 1) + 0.1
    for power in (1, 2):
        products("power_matmul", shape, dtype, be, np.append(0.0, gaps), power, 0.25)
    products("decay_matmul", shape, dtype, be, np.append(0.0, np.exp(-gaps)), -1.0, 1.0)
    for width in (0, 5, 32, 40, 300):
        products("toeplitz_matmul", shape, dtype, be, np.append(0.5, np.full(width, 0.2)))


@pytest.mark.parametrize("kind", MARGINALS)
@pytest.mark.parametrize("n", [64, 300])
def test_whole_solves(kind, n, gpu, sequences):
    x = sequences(n)
    arrays = [x[k] for k in ("M", "C1", "C2")]
    expected = solve(*arrays, alpha=0.5, reg=0.02, tol=1e-9, **MARGINALS[kind])
    cp = gpu.cp
    found = solve(*(cp.asarray(a) for a in arrays), alpha=0.5, reg=0.02, tol=1e-9, **MARGINALS[kind])
    assert isinstance(found.plan, cp.ndarray)
    assert found.converged
    np.testing.assert_allclose(cp.asnumpy(found.plan), expected.plan, atol=1e-6 * expected.plan.max())
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-8)


def test_a_solve_repeats_bit_for_bit(gpu, sequences):
    x = sequences(200)
    arrays = [gpu.cp.asarray(x[k].astype(np.float32)) for k in ("M", "C1", "C2")]
    one, two = (solve(*arrays, m=0.7, reg=0.02).plan.get() for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_a_batch(gpu):
    rng, cp = np.random.default_rng(7), gpu.cp
    problems = [{"M": rng.random((n, k)), "p": rng.dirichlet(np.ones(n))} for n, k in [(9, 20), (31, 33), (40, 32), (17, 1)]]
    expected = solve_batch(problems, m=0.7, reg=0.05)
    found = solve_batch([{k: cp.asarray(x) for k, x in one.items()} for one in problems], m=0.7, reg=0.05)
    for one, two in zip(expected, found, strict=True):
        np.testing.assert_allclose(cp.asnumpy(two.plan), one.plan, atol=1e-8)


def test_torch_tensors_stay_where_they_are(gpu, sequences):
    """In and out by DLPack, on the stream that torch works on: not the default one here."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    x = sequences(128)
    expected = solve(x["M"], x["C1"], x["C2"], m=0.7, reg=0.05)
    with torch.cuda.stream(torch.cuda.Stream()):
        arrays = [torch.as_tensor(x[k], device="cuda") * 1.0 for k in ("M", "C1", "C2")]
        found = solve(*arrays, m=0.7, reg=0.05)
        doubled = found.plan * 2  # at once, on the same stream
    assert found.plan.device == arrays[0].device
    assert found.backend == "cupy"
    np.testing.assert_allclose(doubled.cpu().numpy() / 2, expected.plan, atol=1e-6 * expected.plan.max())
    shared = gpu.cp.from_dlpack(arrays[0])
    assert shared.data.ptr == arrays[0].data_ptr()  # a view, no copy
