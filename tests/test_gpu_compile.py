"""Every CUDA kernel through NVIDIA's compiler, down to machine code: it compiles, spills nothing, keeps to its registers.

Three architectures by default, one of each compiler back end; `-m architectures` compiles for all. No driver is needed.
"""

from __future__ import annotations

import multiprocessing
import os
import re
from concurrent.futures import ProcessPoolExecutor

import pytest
from emulator import nvrtc

from fpgwot._backends.cupy_gpu import STATIC, _source

pytestmark = pytest.mark.skipif(
    nvrtc.library() is None, reason="the wheel nvidia-cuda-nvrtc is not installed: kernels are not compiled for a GPU"
)
DEFAULT = ("75", "90", "120")
JOBS = [(arch, file) for file in _source.KERNELS for arch in nvrtc.ARCHITECTURES]
STATIC_SHARED = 48 * 1024


def compiled(arch: str, file: str) -> dict[str, nvrtc.Usage]:
    return nvrtc.compile(_source.code(file), list(_source.expressions(file)), arch)


@pytest.fixture(scope="module")
def report(request):
    """What the compiler says of a job: all at once, or one by one where xdist shares the tests out."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        yield lambda job: compiled(*job)
        return
    calls = [x.callspec.params for x in request.session.items if getattr(x, "callspec", None)]
    wanted = {x["job"] for x in calls if "job" in x and is_wanted(request.config, x["job"])}
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        found = {job: pool.submit(compiled, *job) for job in JOBS if job in wanted}
        yield lambda job: found[job].result()


def is_wanted(config, job: tuple[str, str]) -> bool:
    return "architectures" in config.getoption("-m") or job[0] in DEFAULT


@pytest.mark.architectures
@pytest.mark.parametrize("job", JOBS, ids=["-".join(x) for x in JOBS])
def test_kernels_compile_without_spills_within_their_registers(job, report, request):
    if not is_wanted(request.config, job):
        pytest.skip("compiled with -m architectures only")
    file, usage = job[1], report(job)
    assert set(usage) == set(_source.expressions(file))
    wrong = []
    for name, ceiling in _source.expressions(file).items():
        x = usage[name]
        if x.spilled or x.stack or x.registers > ceiling or x.shared > (STATIC if file == "small.cu" else STATIC_SHARED):
            wrong.append(f"{name}: {x}, ceiling {ceiling}")
    assert not wrong, "\n".join(wrong)


def test_the_compiler_names_file_and_line():
    with pytest.raises(nvrtc.CompileError, match=r"sweep\.cu\(12\): error: identifier"):
        nvrtc.compile('#line 11 "sweep.cu"\nextern "C" __global__ void f(float* x) {\n  y = 1;\n}')


def test_spills_and_registers_are_seen():
    """The gate can fail: a kernel that needs more registers than its launch bounds allow."""
    code = """
    extern "C" __global__ void __launch_bounds__(1024) f(float* x) {
      float a[96];
      for (int k = 0; k < 96; k++) a[k] = x[threadIdx.x + 1024 * k];
      __syncthreads();
      for (int r = 0; r < 4; r++)
        for (int k = 0; k < 96; k++) a[k] = a[k] * a[(k + 31) % 96] + a[(k + 7 * r) % 96];
      for (int k = 0; k < 96; k++) x[threadIdx.x + 1024 * k] = a[k];
    }"""
    usage = nvrtc.compile(code)["f"]
    assert usage.registers <= 64
    assert usage.spilled > 0


def test_the_source_keeps_to_what_both_compilers_know():
    """No toolkit headers, no 32-bit sums of pointers, no atomics on floating-point numbers."""
    text = "".join(_source.code(file) for file in _source.KERNELS)
    assert not re.search(r"#\s*include|cooperative_groups|__half|asm\s*(volatile)?\s*\(", text)
    for kind in re.findall(r"atomic\w+\(\s*\(?(float|double)", text):
        pytest.fail(f"an atomic on {kind}")
