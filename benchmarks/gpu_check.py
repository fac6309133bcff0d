"""Everything that only a GPU can prove, in one run of less than ten minutes:

    python benchmarks/gpu_check.py --budget 540 --out DIR

It measures the ceilings of the card (copy, matrix product) and the time of each pass against them, runs `pytest -m gpu`, solves
whole problems here and with the Numba backend in the same process, a thousand small problems at once, the scaling iteration
against torch, compiles every kernel, and runs CUDA's memory checker where it is installed. It needs CuPy, NumPy, SciPy, Numba,
POT and pytest, and torch for the comparison; it installs nothing. `gpu_check.json` is written after each part, so that a run
that is cut off still says what it found; a part that fails is recorded and the next one is run. The hash of the kernel sources in
it says which kernels a number belongs to.

`--standin` runs the same script on the emulator of the tests, with tiny sizes: it shows that the script works, its times mean
nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

import gpu_loops  # noqa: E402
from problems import problem_t  # noqa: E402

from fpgwot import LaplaceKernel, PowerDistance, solve  # noqa: E402
from fpgwot import __version__ as VERSION  # noqa: E402
from fpgwot._backends import _protocol as ix  # noqa: E402
from fpgwot._backends.cupy_gpu import Gpu, _source, backend  # noqa: E402

SIZES = {"passes": (512, 2048, 8192), "structures": (2048, 8192), "solves": (512, 2048), "copy": 2**28, "gemm": 8192}
SIZES |= {"batch": (1000, 32), "torch": (2048, 8192), "repeats": 20}
SIZES |= {"small": ((1, 32), (1000, 16), (1000, 32), (1000, 64), (300, 128), (132, 181)), "graph": (512, 2048, 8192)}
TINY = {
    "passes": (40,),
    "structures": (40,),
    "solves": (33,),
    "copy": 2**10,
    "gemm": 32,
    "batch": (2, 8),
    "torch": (40,),
    "small": ((1, 8), (3, 16)),
    "graph": (40,),
    "repeats": 2,
}
# Parts, and the seconds below which they are left out
PARTS = {"where": 0, "ceilings": 5, "passes": 30, "structures": 20, "tests": 60, "solves": 60, "small": 40, "graph": 15}
PARTS |= {"batch": 30, "torch": 20}
PARTS |= {"compile": 60, "sanitizer": 20}
CRASH = """
import numpy as np, test_backends as parity
from fpgwot._backends.cupy_gpu import Gpu, backend
from test_gpu_kernels import STEPS, OnDevice, check
for name in STEPS:
    check(parity.STEPS[name], "partial", np.float32, OnDevice(backend()))
import test_gpu_graph as graphs, test_gpu_small as small
small.check("partial", np.float32, OnDevice(Gpu(backend().cp)), exact=False)
graphs.check("partial", np.float32, OnDevice(Gpu(backend().cp, small=0)), exact=False)
"""


class Check:
    """One run: the backend, the sizes, the clock, and what has been found."""

    def __init__(self, gpu: Gpu, sizes: dict[str, Any], budget: float, out: Path) -> None:
        self.gpu, self.cp, self.sizes, self.out = gpu, gpu.cp, sizes, out
        self.end = time.perf_counter() + budget
        self.found: dict[str, Any] = {}
        self.bandwidth = float("nan")  # of a copy, once it is measured

    def part(self, name: str, run: Callable[[], Any], least: float) -> None:
        """Run a part if `least` seconds are left; keep what it returns or how it failed."""
        left, start = self.end - time.perf_counter(), time.perf_counter()
        if left < least:
            self.found[name] = f"skipped: {left:.0f} s left of the budget, {least:.0f} needed"
        else:
            try:
                self.found[name] = run()
            except Exception:  # noqa: BLE001  (device time is dear: one part that fails must not cost the others)
                self.found[name] = {"failed": traceback.format_exc()}
            self.found.setdefault("seconds", {})[name] = round(time.perf_counter() - start, 2)
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "gpu_check.json").write_text(json.dumps(self.found, indent=1, default=float))
        print(name, json.dumps(self.found[name], default=float)[:2000], flush=True)

    def time(self, call: Callable[[], Any], repeats: int | None = None) -> float:
        """Seconds of a call, the middle of three series that are queued without waiting: what a busy stream sees."""
        repeats, series = repeats or self.sizes["repeats"], []
        call()
        for _ in range(3):
            self.wait()
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            self.wait()
            series.append((time.perf_counter() - start) / repeats)
        return float(np.median(series))

    def wait(self) -> None:
        """Until the device has done what was asked of it."""
        self.cp.cuda.get_current_stream().synchronize()

    # ----------------------------------------------------------------------------------------------------------------- parts

    def where(self) -> dict[str, Any]:
        """Card, driver, versions, commit, hash of the kernels."""
        runtime, device = self.cp.cuda.runtime, self.cp.cuda.Device()
        card = runtime.getDeviceProperties(device.id)
        git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
        return {
            "card": card["name"].decode(),
            "multiprocessors": device.attributes["MultiProcessorCount"],
            "compute_capability": device.compute_capability,
            "driver": runtime.driverGetVersion(),
            "runtime": runtime.runtimeGetVersion(),
            "cupy": getattr(self.cp, "__version__", "stand-in"),
            "fpgwot": VERSION,
            "commit": git.stdout.strip() or os.environ.get("COMMIT", "unknown"),
            "kernels": _source.fingerprint(),
            "python": platform.python_version(),
            "cores": os.cpu_count(),
        }

    def compile(self) -> dict[str, Any]:
        """Every kernel for this card: registers, spilled bytes, seconds."""
        kernels, start = {}, time.perf_counter()
        for file in _source.KERNELS:
            for real in _source.REALS:
                for expression in _source.expressions(file, real):
                    kernel = self.gpu._kernel(file, expression, real)
                    kernels[expression] = [
                        getattr(kernel, x, None) for x in ("num_regs", "local_size_bytes", "shared_size_bytes")
                    ]
        spilled = [name for name, (_, local, _) in kernels.items() if local]
        return {"seconds": time.perf_counter() - start, "spilled": spilled, "registers_local_shared": kernels}

    def tests(self) -> dict[str, Any]:
        """`pytest -m gpu`: parity with the NumPy reference in both types, bitwise repeatability, whole solves, DLPack."""
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-m",
            "gpu",
            "-p",
            "no:cacheprovider",
            "--tb=short",
            "tests/test_gpu_device.py",
        ]
        left = max(self.end - time.perf_counter() - 120, 30)
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=left, check=False)
        except subprocess.TimeoutExpired as error:
            return {"timeout": left, "text": str(error.stdout)[-4000:]}
        (self.out / "pytest.txt").write_text(done.stdout + done.stderr)
        counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)}
        return {"returncode": done.returncode, **counts, "tail": done.stdout[-3000:]}

    def ceilings(self) -> dict[str, float]:
        """Copy bandwidth (read + write) and float32 matrix product of this card."""
        cp, n = self.cp, self.sizes["gemm"]
        x = cp.ones(self.sizes["copy"], np.float32)
        y = cp.empty_like(x)
        copy = self.time(lambda: cp.multiply(x, np.float32(1), out=y))
        A = cp.ones((n, n), np.float32)
        B = cp.empty_like(A)
        product = self.time(lambda: cp.matmul(A, A, out=B), 3)
        self.bandwidth = 2 * x.nbytes / copy
        return {"copy_GB_s": self.bandwidth / 1e9, "gemm_float32_TFLOP_s": 2 * n**3 / product / 1e12}

    def state(self, n: int, dtype: Any, B: int = 1) -> tuple[ix.Scaling, dict[str, Any]]:
        """A batch of partial problems in the middle of their iteration."""
        cp, rng = self.cp, np.random.default_rng(0)
        p, sizes = cp.ones((B, n)) / n, np.tile(np.array([[n, n]]), (B, 1))
        inf, zero = np.full(B, np.inf), np.zeros(B)
        s = ix.Scaling(cp, dtype, sizes, p, p, np.full(B, 0.8), np.full(B, 0.05), (inf, inf), (zero, zero), factors=False)
        base = cp.asarray(rng.random((B, n, 1)).astype(dtype)) * cp.asarray(rng.random((B, 1, n)).astype(dtype))
        x = {name: base + dtype(0.1) for name in ("K", "L", "G", "T", "T0", "A", "M")}
        for name in ("T", "T0"):
            x[name] *= dtype(1.0 / n**2)
        return s, x

    def passes(self) -> list[dict[str, Any]]:
        """Each primitive against the time that its reads and writes take at copy bandwidth."""
        gpu, rows = self.gpu, []
        on, one, none = np.ones(1, bool), np.ones(1), np.zeros(1, bool)
        for n, dtype in [*((n, np.float32) for n in self.sizes["passes"]), (self.sizes["passes"][-1], np.float64)]:
            s, x = self.state(n, dtype)
            r = self.cp.zeros((1, n))
            steps: dict[str, tuple[int, Callable[[], Any]]] = {
                "sweep": (1, lambda s=s, x=x: gpu.sweep(x["K"], s, on)),
                "newton": (1, lambda s=s, x=x: gpu.newton(x["K"], s, on)),
                "cg": (1, lambda s=s, x=x: gpu.cg(x["K"], s, 0.1, on)),
                "kernel": (7, lambda s=s, x=x: gpu.kernel(x["L"], x["G"], x["T"], x["T0"], s, 0.5 * one, none, on)),
                "plan": (2, lambda s=s, x=x: gpu.plan(x["K"], s, on)),
                "column_logsums": (1, lambda s=s, x=x: gpu.column_logsums(x["L"], s, on)),
                "gradient": (
                    6,
                    lambda s=s, x=x, r=r: gpu.gradient(
                        x["A"], x["M"], None, x["T"], x["T0"], x["L"], s, r, r, one, 0 * one, none, on
                    ),
                ),
                "anderson": (0, lambda s=s: gpu.anderson(s, none, on)),
            }
            for name, (units, call) in steps.items():
                seconds = self.time(call)
                ideal = units * x["K"].nbytes / self.bandwidth
                rows.append(
                    {"pass": name, "n": n, "dtype": np.dtype(dtype).name, "us": 1e6 * seconds, "roofline_us": 1e6 * ideal}
                )
                rows[-1]["share_of_copy_bandwidth"] = ideal / seconds
        return rows

    def structures(self) -> list[dict[str, Any]]:
        """Temporal products along both axes (read twice and written once) and the dense one."""
        rows = []
        for n in self.sizes["structures"]:
            X = self.cp.ones((1, n, n), np.float32)
            out = self.cp.empty_like(X)
            C = self.cp.ones((n, n), np.float32)
            kinds = {"power": PowerDistance(n, scale=1 / n), "laplace": LaplaceKernel(n, 0.05 * n)}
            for name, operator in kinds.items():
                for axis in (0, 1):
                    seconds = self.time(lambda D=operator, a=axis, X=X, out=out: D._product(self.gpu, X, a, False, out))
                    rows.append({"product": name, "axis": axis, "n": n, "us": 1e6 * seconds})
                    rows[-1]["roofline_us"] = 1e6 * 3 * X.nbytes / self.bandwidth
            rows.append(
                {"product": "dense", "n": n, "us": 1e6 * self.time(lambda X=X, C=C, out=out: self.gpu.matmul(C, X, out), 3)}
            )
        return rows

    @staticmethod
    def problem(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Cost and structure of the project's model problem."""
        made = problem_t(n, seed)
        M, C = made.M, made.C1
        return M.astype(np.float32), C.astype(np.float32)

    def solves(self) -> list[dict[str, Any]]:
        """Whole solves, partial (m 0.8): this card against the Numba backend on the cores of this machine."""
        rows = []
        for n in self.sizes["solves"]:
            for reg in (0.05, 0.01):
                M, C = self.problem(n)
                arrays = [self.cp.asarray(x) for x in (M, C, C)]
                row: dict[str, Any] = {"n": n, "reg": reg, "cores": os.cpu_count()}
                for name, given, be in (("gpu", arrays, self.gpu), ("numba", [M, C, C], "numba")):
                    solve(*given, m=0.8, reg=reg, max_iter=2, on_fail="ignore", backend=be)  # compiles
                    self.wait()
                    start = time.perf_counter()
                    res = solve(*given, m=0.8, reg=reg, on_fail="ignore", backend=be)
                    self.wait()
                    row[name] = {"seconds": time.perf_counter() - start, "value": float(res.value), "passes": int(res.n_passes)}
                    row[name] |= {"converged": bool(res.converged), "stationarity": float(res.residuals.stationarity)}
                rows.append(row | {"times_faster": row["numba"]["seconds"] / row["gpu"]["seconds"]})
        return rows

    def small(self) -> list[dict[str, Any]]:
        """The inner solve in one launch."""
        return gpu_loops.small(self)

    def graph(self) -> list[dict[str, Any]]:
        """The inner solve of large problems by graphs."""
        return gpu_loops.graphs(self)

    def batch(self) -> dict[str, Any]:
        """Many small problems in one call."""
        B, n = self.sizes["batch"]
        M = np.stack([self.problem(n, seed)[0] for seed in range(B)])
        C = np.broadcast_to(self.problem(n)[1], (B, n, n)).copy()
        row: dict[str, Any] = {"problems": B, "n": n}
        for name, be in (("gpu", self.gpu), ("numba", "numba")):
            given = [self.cp.asarray(x) for x in (M, C, C)] if name == "gpu" else [M, C, C]
            solve(*given, m=0.8, reg=0.05, max_iter=2, on_fail="ignore", backend=be)
            start = time.perf_counter()
            res = solve(*given, m=0.8, reg=0.05, on_fail="ignore", backend=be)
            row[name] = {"seconds": time.perf_counter() - start, "converged": int(np.sum(res.converged))}
        return row

    def torch(self) -> list[dict[str, Any]] | str:
        """One scaling iteration: ours, log domain in torch (two log-sum-exp), two matrix-vector products in torch."""
        try:
            import torch
        except ImportError:
            return "skipped: torch is not installed"
        if not torch.cuda.is_available():
            return "skipped: this torch has no CUDA"
        rows = []
        for n in self.sizes["torch"]:
            s, x = self.state(n, np.float32)

            def ours(s: ix.Scaling = s, K: Any = x["K"]) -> None:
                s.used[:] = 0
                self.gpu.anderson(s, np.zeros(1, bool), np.ones(1, bool))
                self.gpu.sweep(K, s, np.ones(1, bool))

            S = torch.rand(n, n, device="cuda")
            log_p = torch.full((n,), -float(np.log(n)), device="cuda")
            f, g = torch.zeros(n, device="cuda"), torch.zeros(n, device="cuda")

            def log_domain(S: Any = S, f: Any = f, g: Any = g, log_p: Any = log_p) -> None:
                f.copy_(log_p - torch.logsumexp(S + g, 1))
                g.copy_(log_p - torch.logsumexp(S + f[:, None], 0))

            u, v, p = torch.ones(n, device="cuda"), torch.ones(n, device="cuda"), torch.full((n,), 1 / n, device="cuda")

            def products(K: Any = S, u: Any = u, v: Any = v, p: Any = p) -> None:
                torch.div(p, K @ v, out=u)
                torch.div(p, u @ K, out=v)

            row: dict[str, Any] = {"n": n, "ours_us": 1e6 * self.time(ours)}
            for name, call in (("torch_log_domain_us", log_domain), ("torch_products_us", products)):
                call()
                torch.cuda.synchronize()
                start = time.perf_counter()
                for _ in range(self.sizes["repeats"]):
                    call()
                torch.cuda.synchronize()
                row[name] = 1e6 * (time.perf_counter() - start) / self.sizes["repeats"]
            rows.append(row)
        return rows

    def sanitizer(self) -> dict[str, Any] | str:
        """CUDA's own memory and race checker over every primitive, where it is installed."""
        tool = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
        if tool is None:
            return "skipped: compute-sanitizer is not installed"
        found, environment = {}, os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
        for kind in ("memcheck", "racecheck"):
            command = [tool, "--tool", kind, "--error-exitcode", "9", sys.executable, "-c", CRASH]
            left = max((self.end - time.perf_counter()) / 2, 10)
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=left, env=environment, check=False)
                found[kind] = {"returncode": done.returncode, "tail": (done.stdout + done.stderr)[-1500:]}
            except subprocess.TimeoutExpired:
                found[kind] = {"timeout": left}
        return found


def main(arguments: list[str] | None = None) -> int:
    """Run all parts; 0 where none failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=540.0, help="seconds for everything")
    parser.add_argument("--out", type=Path, default=Path("out/gpu"), help="folder of gpu_check.json and pytest.txt")
    parser.add_argument(
        "--standin", action="store_true", help="no GPU: the emulator of the tests, tiny sizes, times mean nothing"
    )
    parser.add_argument("--parts", default=",".join(PARTS), help="which, in this order; default all")
    options = parser.parse_args(arguments)
    if options.standin:
        from emulator.standin import Standin

        gpu, sizes = Gpu(Standin()), TINY
    else:
        gpu, sizes = backend(), SIZES
    check = Check(gpu, sizes, options.budget, options.out)
    for name in options.parts.split(","):
        check.part(name, getattr(check, name), 0 if options.standin else PARTS[name])
    failed = [name for name, x in check.found.items() if isinstance(x, dict) and ("failed" in x or x.get("returncode"))]
    print("failed parts:", ", ".join(failed) or "none")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
