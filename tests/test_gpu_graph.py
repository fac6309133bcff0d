"""The conjugate gradient loop of larger problems: several steps captured as one graph, stopped by a flag on the device."""

from __future__ import annotations

import numpy as np
import pytest
import test_backends as parity
from emulator import build
from emulator.build import EmulationError
from emulator.standin import Standin
from test_gpu_host import no_factor  # noqa: F401
from test_gpu_kernels import ORDERS, REALS, OnDevice
from test_gpu_mutations import planted
from test_gpu_small import ascend, compare, without_factor

from fpgwot import solve
from fpgwot._backends import _protocol as ix
from fpgwot._backends import inner, numpy_ref
from fpgwot._backends.cupy_gpu import Gpu
from fpgwot._backends.cupy_gpu.graph import AT_ONCE

pytestmark = [pytest.mark.emulated, pytest.mark.skipif(build.MISSING is not None, reason=str(build.MISSING))]


def passes(order: str = "forward", seed: int = 0, threads: int = 64) -> OnDevice:
    """The backend, pass by pass whatever the size."""
    return OnDevice(Gpu(Standin(order, seed), threads=threads, small=0))


def check(kind: str, dtype, be: OnDevice, exact: bool = True) -> None:
    """The loop with graphs takes the steps of the reference: the same passes, since the flags stop each problem by itself."""
    x, y = (without_factor(parity.State(kind, dtype)) for _ in range(2))
    target, tolerance = (1e-10, 1e-9 if exact else 1e-7) if dtype == np.float64 else (1e-4, 2e-4)
    one, two = (ascend(b, s, target, 8, spent=59.0) for b, s in ((numpy_ref, x), (be, y)))
    if exact and dtype == np.float64:
        np.testing.assert_array_equal(two, one)
    compare(x, y, tolerance)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", ["partial", "full_rows", "kl"])
def test_steps_are_those_of_the_reference(kind, order):
    for dtype in REALS:
        check(kind, dtype, passes(order, 2))
    check(
        kind, np.float64, passes(order, 3, threads=32)
    )  # more columns than threads: sums over blocks of rows in a kernel of their own


def newton_state(dtype=np.float64) -> parity.State:
    """Three problems of which the last needs no step, the first few and the second many."""
    x = parity.State("partial", dtype)
    x.on[:] = True
    parity.newton(numpy_ref, x)
    x.s.vals[2, ix.DONE] = 1.0
    x.s.vals[0, ix.NORM] *= 1e3
    return x


@pytest.mark.parametrize("order", ORDERS)
def test_a_graph_stops_each_problem_at_its_last_step(order):
    stop, states = 1e-3, [newton_state() for _ in range(2)]
    x, y = states
    before = y.s.cols[2].copy()
    for _ in range(AT_ONCE):
        numpy_ref.cg(x.K, x.s, stop, x.on & (x.s.vals[:, ix.DONE] == 0))
    be = passes(order, 4)
    traffic = be.gpu.cp._traffic
    be._cg_graph(y.K, y.s, stop, y.on)
    assert (traffic.graphs, traffic.launches.count("cg_columns<double>")) == (1, AT_ONCE + 1)  # the first loads the kernel
    taken = y.s.vals[:, ix.STEPS]
    assert 0 == taken[2] < taken[0] < taken[1]
    np.testing.assert_array_equal(taken, x.s.vals[:, ix.STEPS])
    np.testing.assert_array_equal(y.s.vals[:, ix.DONE], x.s.vals[:, ix.DONE])
    np.testing.assert_array_equal(y.s.cols[2], before)
    np.testing.assert_allclose(y.s.cols[:2, ix.CG_X], x.s.cols[:2, ix.CG_X], rtol=1e-9, atol=1e-12)


def test_a_solve_captures_once_reads_once_a_launch_and_keeps_nothing(sequences):
    gpu = Gpu(Standin(), small=0)
    traffic, x = gpu.cp._traffic, sequences(40)
    captures, reads = [], []
    capture, launch = gpu._cg, gpu._cg_graph
    gpu._cg = lambda *args: (captures.append(1), capture(*args))

    def counted(*args):
        before = len(traffic.to_host)
        launch(*args)
        reads.append(len(traffic.to_host) - before)

    gpu._ascend_by_passes = inner.interpreted(gpu, cg=counted, AT_ONCE=AT_ONCE)
    arrays = [gpu.cp.asarray(x[k]) for k in ("M", "C1", "C2")]
    expected = solve(*(x[k] for k in ("M", "C1", "C2")), m=0.7, reg=0.01, backend="numpy")
    found = solve(*arrays, m=0.7, reg=0.01, backend=gpu)
    assert found.n_iter > 3
    assert traffic.graphs == len(reads) > 3
    assert len(captures) == 2 * (AT_ONCE + 1)  # the plan and the kernel change places between two buffers
    assert not any(reads)  # what the host reads are the numbers, once, when it asks whether to go on
    assert found.n_passes == expected.n_passes
    np.testing.assert_allclose(found.plan.get(), expected.plan, atol=1e-9 * expected.plan.max())
    assert not gpu._graphs


def test_another_matrix_is_captured_anew():
    be, x = passes(), newton_state()
    gpu, cp = be.gpu, be.gpu.cp
    s = ix.Scaling(cp, np.float64, x.s.size, *(cp.asarray(a) for a in (x.r * 0 + 1, x.c * 0 + 1)), np.nan, 0.1, (1, 1), (1, 1))
    K, other = cp.asarray(x.K), cp.asarray(x.K)
    gpu._cg_graph(K, s, 0.1, np.zeros(3, bool))
    (first,) = gpu._graphs[s]
    gpu._cg_graph(K, s, 0.1, np.ones(3, bool))
    assert gpu._graphs[s] == [first]
    gpu._cg_graph(other, s, 0.1, np.zeros(3, bool))
    assert len(gpu._graphs[s]) == 2 and gpu._graphs[s][1] is first  # a solve has two matrices in turn
    gpu._cg_graph(other, s, 0.2, np.zeros(3, bool))
    assert len(gpu._graphs[s]) == 2 and first not in gpu._graphs[s]


def test_the_loop_ends_at_its_limit():
    assert inner.CG_STEPS % AT_ONCE == 0


def test_the_suite_notices_a_step_beyond_the_last(monkeypatch):
    before = "if (!on[b] || done(S, b)) return;\n  const i64 used"
    be = planted(monkeypatch, "scaling.cu", before, before.replace(" || done(S, b)", ""))
    be.gpu.small = 0
    with pytest.raises((AssertionError, EmulationError)):
        check("partial", np.float64, be)
