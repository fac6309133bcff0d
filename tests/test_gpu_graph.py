"""The inner solve of larger problems: mixed sweeps and conjugate gradients captured as graphs, stopped by flags on the device."""

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
from test_gpu_small import ascend, compare, hard_problems, without_factor

from fpgwot import solve
from fpgwot._backends import _protocol as ix
from fpgwot._backends import inner, numpy_ref
from fpgwot._backends.cupy_gpu import Gpu
from fpgwot._backends.cupy_gpu.graph import AT_ONCE, MIXES, Captured, Mixed

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


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("kind", "seed", "steps"), [("balanced", 5, 6), ("balanced", 3, 8), ("full_rows", 4, 8)])
def test_mixed_points_that_fall_go_back_to_the_last_image(kind, seed, steps, order):
    hard_problems(passes(order, 6), kind, seed, steps)


def test_problems_that_are_off_stay_as_they_are():
    before, x = parity.State("partial", np.float64), parity.State("partial", np.float64)
    ascend(passes(), x, 1e-8, 8)
    for key, a in before.arrays().items():
        if a.ndim >= 2:
            np.testing.assert_array_equal(x.arrays()[key][1], a[1], err_msg=key)


def test_a_solve_captures_once_reads_once_a_launch_and_keeps_nothing(sequences, monkeypatch):
    gpu, x = Gpu(Standin(), small=0), sequences(40)
    traffic, captures, cg_reads, mix_reads = gpu.cp._traffic, [], [], []

    def counted(call, reads):
        def wrapped(*args):
            before = len(traffic.to_host), traffic.graphs
            out = call(*args)
            reads.append((len(traffic.to_host) - before[0], traffic.graphs - before[1]))
            return out

        return wrapped

    monkeypatch.setattr(Captured, "__init__", counted(Captured.__init__, captures))
    monkeypatch.setattr(Mixed, "run", counted(Mixed.run, mix_reads))
    cg = counted(gpu._cg_graph, cg_reads)
    gpu._ascend_from_newton = inner.interpreted(gpu, sweep=gpu._next_sweep, cg=cg, AT_ONCE=AT_ONCE, SWEEPS=0)
    arrays = [gpu.cp.asarray(x[k]) for k in ("M", "C1", "C2")]
    expected = solve(*(x[k] for k in ("M", "C1", "C2")), m=0.7, reg=0.01, backend="numpy")
    found = solve(*arrays, m=0.7, reg=0.01, backend=gpu)
    assert captures == [(0, 0)] * 4  # the plan and the kernel change places between two buffers
    assert set(cg_reads) == {(0, 1)}  # the read comes when the loop asks whether to go on
    assert set(mix_reads) <= {(launches + 1, launches) for launches in (1, inner.SWEEPS // MIXES)}  # and one for the passes
    assert len(mix_reads) == found.n_iter > 3
    assert found.n_passes == expected.n_passes
    np.testing.assert_allclose(found.plan.get(), expected.plan, atol=1e-9 * expected.plan.max())
    assert not gpu._graphs
    assert not gpu._swept


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


def test_the_loops_end_at_their_limits():
    assert inner.CG_STEPS % AT_ONCE == inner.SWEEPS % MIXES == 0


BEYOND = "if (!on[b] || done(S, b)) return;\n  const i64 used"


@pytest.mark.parametrize(
    ("before", "after"),
    [(BEYOND, BEYOND.replace(" || done(S, b)", "")), ("worse[b] = work[b] && Numbers", "worse[b] = work[b] && !Numbers")],
    ids=["a step beyond the last", "the wrong points fall"],
)
def test_the_suite_notices(before, after, monkeypatch):
    be = planted(monkeypatch, "scaling.cu", before, after)
    be.gpu.small = 0
    with pytest.raises((AssertionError, EmulationError)):
        check("partial", np.float64, be)
