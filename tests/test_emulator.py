"""The emulator finds planted faults, and the stand-in refuses what CuPy refuses. Kernels of the package are tested elsewhere."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from emulator import build, coverage, planted, sanitize
from emulator.arrays import ndarray
from emulator.build import ORDERS, EmulationError
from emulator.runtime import CUDADriverError, CUDARuntimeError
from emulator.standin import CONSTANTS, SAME, Standin

pytestmark = pytest.mark.skipif(build.MISSING is not None, reason=str(build.MISSING))
RIGHT = np.concatenate((np.arange(63.0, -1, -1), np.arange(127.0, 63, -1)))


@pytest.fixture
def cp() -> Standin:
    return Standin()


def kernel(cp: Standin, code: str, name: str = "f"):
    return cp.RawModule(code=code, options=("-std=c++17",)).get_function(name)


# ----------------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("order", ORDERS)
def test_a_sound_kernel_is_right_in_every_order(order):
    for seed in range(3 if order == "random" else 1):
        np.testing.assert_array_equal(planted.run("none", order, seed), RIGHT)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("fault", ["missing barrier", "unwritten shared memory"])
def test_poisoned_shared_memory_shows(fault, order):
    assert np.isnan(planted.run(fault, order)).any()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("divergent barrier", "divergent barrier: 32 threads of block . wait, 32 have left|waits elsewhere"),
        ("two barriers", "divergent barrier: threads of block . wait at kernels.cu:6 and at kernels.cu:7"),
        ("lane that has left", "lane 8 has left the kernel"),
        ("lane outside the mask", "lane 31 calls a warp operation whose mask 0x7fffffff leaves it out"),
        ("shuffle from outside the mask", "shuffles from lane 16, which is not in the mask 0xffff"),
        ("too many threads", "__launch_bounds__"),
        ("overrun of an array", "has written outside of an array"),
    ],
)
def test_faults_are_reported(fault, words):
    for order in ORDERS:
        with pytest.raises(EmulationError, match=words):
            planted.run(fault, order)


@pytest.mark.parametrize("flavour", ["address", "thread"])
def test_sanitizers_pass_a_sound_kernel(flavour):
    done = sanitize.run(flavour, ["-m", "emulator.planted", "none"])
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{RIGHT.tolist()}\n"


@pytest.mark.parametrize(
    ("flavour", "fault", "words"),
    [
        ("address", "overrun of shared memory", "out of bounds|heap-buffer-overflow"),
        ("address", "overrun of an array", "heap-buffer-overflow"),
        ("thread", "missing barrier", "data race"),
        ("thread", "race between blocks", "data race"),
        ("thread", "lane that has left", "has left the kernel"),
    ],
)
def test_sanitizers_name_the_line(flavour, fault, words):
    done = sanitize.run(flavour, ["-m", "emulator.planted", fault])
    assert done.returncode, done.stdout
    assert any(x in done.stderr for x in words.split("|")), done.stderr
    assert "kernels.cu:" in done.stderr


def test_line_coverage_misses_what_did_not_run(tmp_path):
    code = 'extern "C" __global__ void f(int* x) {\n  if (x[0] > 0) {\n    x[0] = 2;\n  } else {\n    x[0] = 3;\n  }\n}\n'
    script = (
        "import numpy as np\nfrom emulator.standin import Standin\ncp = Standin()\n"
        f"cp.RawModule(code={code!r}).get_function('f')((1,), (1,), (cp.zeros(1, np.int32),))"
    )
    assert sanitize.run("coverage", ["-c", script], FPGWOT_EMULATOR_CACHE=str(tmp_path)).returncode == 0
    lines = coverage.line_coverage(tmp_path)
    assert lines["kernels.cu"][0] - lines["kernels.cu"][1] == {3}
    assert lines["kernels.cu"][1] >= {2, 5}
    assert "not 3" in coverage.report(lines)
    assert 0.5 < coverage.share(lines) < 1


# ---------------------------------------------------------------------------------------------------------------- language


def test_warp_operations(cp):
    code = """
    extern "C" __global__ void f(int* out) {
      const int t = threadIdx.x;
      int* o = out + t * 12;
      o[0] = __shfl_sync(0xffffffffu, t, 3);
      o[1] = __shfl_up_sync(0xffffffffu, t, 2);
      o[2] = __shfl_down_sync(0xffffffffu, t, 2);
      o[3] = __shfl_xor_sync(0xffffffffu, t, 5);
      o[4] = __shfl_down_sync(0xffffffffu, t, 3, 8);
      o[5] = __shfl_sync(0xffffffffu, t, 1, 4);
      o[6] = __ballot_sync(0xffffffffu, t % 3 == 0);
      o[7] = __any_sync(0xffffffffu, t == 40);
      o[8] = __all_sync(0xffffffffu, t < 40);
      o[9] = __syncthreads_or(t == 63);
      o[10] = __syncthreads_and(t < 63);
      o[11] = __syncthreads_count(t % 2);
    }"""
    out = cp.empty((64, 12), np.int32)
    kernel(cp, code)((1,), (64,), (out,))
    t = np.arange(64)
    warp, lane = t // 32 * 32, t % 32
    ballot = [sum(1 << k for k in range(32) if (w + k) % 3 == 0) for w in warp]
    wanted = [
        warp + 3,
        np.where(lane < 2, t, t - 2),
        np.where(lane > 29, t, t + 2),
        warp + (lane ^ 5),
        np.where(t % 8 > 4, t, t + 3),
        t // 4 * 4 + 1,
        np.array(ballot, np.uint32).view(np.int32),
        warp == 32,
        warp == 0,
        np.ones(64),
        np.zeros(64),
        np.full(64, 32),
    ]
    np.testing.assert_array_equal(out.get(), np.stack([np.asarray(x, np.int32) for x in wanted], 1))


def test_lanes_of_one_warp_may_part_and_meet(cp):
    code = """
    extern "C" __global__ void f(double* out) {
      double v = threadIdx.x;
      if (threadIdx.x < 16) v += __shfl_xor_sync(0x0000ffffu, v, 1);
      else v -= __shfl_xor_sync(0xffff0000u, v, 1);
      __syncwarp();
      out[threadIdx.x] = __shfl_sync(0xffffffffu, v, 31 - threadIdx.x);
    }"""
    for order in ORDERS:
        mine = Standin(order)
        out = mine.empty(32)
        kernel(mine, code)((1,), (32,), (out,))
        t = np.arange(32.0)
        v = np.where(t < 16, t + (t.astype(int) ^ 1), t - (t.astype(int) ^ 1))
        np.testing.assert_array_equal(out.get(), v[::-1])


def test_functions_and_types(cp):
    code = """
    #define KERNEL(name, T) extern "C" __global__ void name(const T* __restrict__ x, T* o, long long n, bool b) { \\
      o[0] = max(x[0], x[1]); o[1] = min(x[1], x[0]); o[2] = fma(x[1], x[1], x[1]); o[3] = rsqrt(x[1]); o[4] = exp2(x[1]); \\
      o[5] = isnan(x[0]) && !isinf(x[0]); o[6] = __ldg(x + n); o[7] = b; o[8] = blockDim.x * gridDim.y; }
    KERNEL(f, double)
    KERNEL(g, float)
    extern "C" __global__ void h(float* x, unsigned* u) {
      float4 v = *reinterpret_cast<float4*>(x);
      x[0] = v.w, x[1] = __int_as_float(__float_as_int(v.z)), u[0] = __popc(255u) + __clz(1);
      atomicAdd(u + 1, 2u), atomicMax(u + 2, threadIdx.x), atomicOr(u + 3, 1u << threadIdx.x);
    }"""
    for name, dtype in (("f", np.float64), ("g", np.float32)):
        x, out = cp.asarray(np.array([np.nan, 4, 7], dtype)), cp.empty(9, dtype)
        kernel(cp, code, name)((1, 2), (1,), (x, out, np.int64(2), np.bool_(True)))
        np.testing.assert_allclose(out.get(), [4, 4, 20, 0.5, 16, 1, 7, 1, 2])
    x, u = cp.asarray(np.arange(4, dtype=np.float32)), cp.zeros(4, np.uint32)
    kernel(cp, code, "h")((1,), (1,), (x, u))
    assert x.get()[:2].tolist() == [3, 2]
    kernel(cp, code, "h")((2,), (8,), (x, u))
    assert u.get().tolist() == [39, 34, 7, 255]


def test_subnormal_numbers_can_be_flushed():
    code = 'extern "C" __global__ void f(float* x) { x[0] *= 0.5f; }'
    for flush, wanted in ((False, 2.0**-140), (True, 0.0)):
        cp = Standin(flush=flush)
        x = cp.asarray(np.array([2.0**-139], np.float32))
        kernel(cp, code)((1,), (1,), (x,))
        assert x.get()[0] == wanted
    assert np.float32(2.0**-139) * np.float32(0.5) > 0  # the mode of the process is back


def test_the_compiler_names_file_and_line(cp):
    with pytest.raises(EmulationError, match=r"sweep\.cu:12:.*y"):
        kernel(cp, '#line 11 "sweep.cu"\nextern "C" __global__ void f(float* x) {\n  y = 1;\n}')
    with pytest.raises(EmulationError, match="no atomics on floating-point"):
        kernel(cp, 'extern "C" __global__ void f(float* x) { atomicAdd(x, 1.0f); }')


def test_dynamic_shared_memory_is_poisoned_for_each_block(cp):
    code = """
    template <class T> __global__ void f(T* out) {
      extern __shared__ __align__(16) unsigned char raw[];
      T* s = reinterpret_cast<T*>(raw);
      out[2 * blockIdx.x] = s[0];
      s[0] = 1;
      out[2 * blockIdx.x + 1] = s[0];
    }"""
    module = cp.RawModule(code=code, options=("-std=c++17",), name_expressions=("f<double>", "f<float>"))
    for dtype, name in ((np.float64, "f<double>"), (np.float32, "f<float>")):
        out = cp.zeros(6, dtype)
        module.get_function(name)((3,), (1,), (out,), shared_mem=64)
        np.testing.assert_array_equal(out.get(), [np.nan, 1] * 3)


# ---------------------------------------------------------------------------------------------------------------- stand-in


def test_arguments_are_checked(cp):
    f = kernel(cp, 'extern "C" __global__ void f(float* x, int n, float a) { x[0] = n * a; }')
    x, n, a = cp.zeros((4, 4), np.float32), np.int32(2), np.float32(1.5)
    f((1,), (1,), (x, n, a))
    assert x.get()[0, 0] == 3
    for wrong in [(x.get(), n, a), (x, 2, a), (x, n, 1.5), (x, n, np.float64(1.5)), (x, np.int64(2), a), (x, n), (n, n, a)]:
        with pytest.raises(TypeError):
            f((1,), (1,), wrong)
    with pytest.raises(TypeError, match="float64"):
        f((1,), (1,), (cp.zeros(4), n, a))
    with pytest.raises(ValueError, match="contiguous"):
        f((1,), (1,), (x[:, 1], n, a))


def test_limits_of_a_launch(cp):
    code = 'extern "C" __global__ void f(float* x) { extern __shared__ float s[]; s[0] = 1; x[0] = s[0]; }'
    x = cp.zeros(1, np.float32)
    f = kernel(cp, code)
    for grid, block, shared in [((1,), (1025,), 4), ((1,), (1, 1, 65), 4), ((0,), (1,), 4), ((1, 65536), (1,), 4)]:
        with pytest.raises(CUDADriverError):
            f(grid, block, (x,), shared_mem=shared)
    with pytest.raises(CUDADriverError, match="max_dynamic"):
        f((1,), (1,), (x,), shared_mem=48 * 1024 + 4)
    f.max_dynamic_shared_size_bytes = 227 * 1024
    f((1,), (1,), (x,), shared_mem=227 * 1024)
    with pytest.raises(CUDADriverError):
        f.max_dynamic_shared_size_bytes = 228 * 1024
    g = kernel(cp, 'extern "C" __global__ void f(float* x) { __shared__ float s[13000]; s[0] = 1; x[0] = s[0]; }')
    with pytest.raises(CUDADriverError, match="static"):
        g((1,), (1,), (x,))


def test_arrays_of_host_and_device_do_not_mix(cp):
    a, b = cp.asarray(np.arange(3.0)), np.arange(3.0)
    mixed = (lambda: a + b, lambda: b + a, lambda: cp.maximum(a, b), lambda: np.asarray(a), lambda: np.sum(a), lambda: a @ b)
    for wrong in mixed:
        with pytest.raises(TypeError):
            wrong()
    for wrong in (lambda: a[np.array([0])], lambda: a[[0]]):
        with pytest.raises(IndexError):
            wrong()
    with pytest.raises(TypeError):
        a[:] = b
    with pytest.raises(TypeError):
        a += b
    with pytest.raises(TypeError, match="initial"):
        a.max(initial=0.0)
    assert not hasattr(cp.logaddexp, "reduce")
    assert not hasattr(a, "nbyte")
    assert not isinstance(a, np.ndarray)


def test_arithmetic_stays_on_the_device(cp):
    a = cp.asarray(np.arange(6.0).reshape(2, 3))
    cp._traffic.clear()
    b = cp.where(a > 1, np.float64(2) * a - 1, -a) + (1 - a) / 2
    b += a.sum(axis=1)[:, None] * cp.log(a + 1)
    b[0] = 0
    b[b < 0] = 1
    assert isinstance(b, ndarray)
    assert isinstance(b.sum(), ndarray)
    assert not cp._traffic.to_host
    assert float(b.sum()) == b.get().sum()
    assert cp._traffic.to_host == [(), (2, 3)]
    n = np.arange(6.0).reshape(2, 3)
    m = np.where(n > 1, 2 * n - 1, -n) + (1 - n) / 2 + n.sum(1)[:, None] * np.log(n + 1)
    m[0] = 0
    m[m < 0] = 1
    np.testing.assert_array_equal(b.get(), m)
    assert np.isnan(cp.empty((2, 2), np.float32).get()).all()


def test_graphs(cp):
    code = 'extern "C" __global__ void f(float* x, int n) { if (threadIdx.x < n) x[threadIdx.x] += 1; }'
    f, launches = kernel(cp, code), cp._traffic.launches
    x, n = cp.zeros(5, np.float32), np.int32(5)
    stream = cp.cuda.Stream(non_blocking=True)
    with pytest.raises(CUDARuntimeError, match="default stream"):
        cp.cuda.get_current_stream().begin_capture()
    with stream:
        stream.begin_capture()
        f((1,), (32,), (x[1:4], np.int32(3)))
        f((1,), (32,), (x, n))
        forbidden = [lambda: cp.empty(3), lambda: x + 1, lambda: x.get(), lambda: x.fill(0), lambda: bool(x[0] > 0)]
        forbidden += [lambda: x.set(np.ones(5, np.float32)), lambda: cp.asarray(np.ones(3)), lambda: kernel(cp, code)]
        forbidden += [stream.synchronize, stream.begin_capture]
        for wrong in forbidden:
            with pytest.raises(CUDARuntimeError, match="captured"):
                wrong()
        assert launches == []
        graph = stream.end_capture()
        assert x.get().tolist() == [0] * 5
        for _ in range(2):
            graph.launch()
    assert x.get().tolist() == [2, 4, 4, 4, 2]
    x.set(np.zeros(5, np.float32))
    graph.launch()  # on the default stream, which cannot be captured; it sees what the arrays hold now
    assert x.get().tolist() == [1, 2, 2, 2, 1]
    assert (launches, cp._traffic.graphs) == (["f"] * 6, 3)
    with stream:
        stream.begin_capture()
        with pytest.raises(CUDARuntimeError, match="captured"):
            graph.launch()
        with pytest.raises(CUDARuntimeError, match="empty graph"):
            stream.end_capture().launch()
    x = forbidden = wrong = None  # the last references
    with stream, pytest.raises(CUDARuntimeError, match="freed"):
        graph.launch()


def test_work_on_another_stream_is_no_part_of_a_capture(cp):
    f = kernel(cp, 'extern "C" __global__ void f(float* x) { x[0] = 1; }')
    x, stream = cp.zeros(1, np.float32), cp.cuda.Stream(non_blocking=True)
    stream.begin_capture()
    with pytest.raises(CUDARuntimeError, match="another stream"):
        f((1,), (1,), (x,))


def test_every_name_exists_in_cupy(cp):
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed: its names cannot be compared")
    for name in [*SAME, *CONSTANTS, "empty", "zeros", "empty_like", "asarray", "ascontiguousarray", "array", "asnumpy", "matmul"]:
        assert hasattr(cupy, name), name
    for name in vars(cp.cuda):
        assert hasattr(cupy.cuda, name), name
    for here, there in ((cp.cuda.runtime, cupy.cuda.runtime), (cp.cuda.driver, cupy.cuda.driver)):
        for name in vars(here):
            assert hasattr(there, name), name
    graph = importlib.import_module("cupy.cuda.graph").Graph
    raw = cp.RawModule(code="")
    for mine, real in [
        (cp.zeros(1), cupy.ndarray),
        (cp.cuda.Device(), cupy.cuda.Device),
        (cp.cuda.Stream(), cupy.cuda.Stream.null),
        (raw, cupy.RawModule),
    ]:
        for name in dir(mine):
            if not name.startswith("_"):
                assert hasattr(real, name), f"{real}.{name}"
    assert hasattr(graph, "launch")
    assert hasattr(cupy.RawKernel, "max_dynamic_shared_size_bytes")
