"""Share of the physical limit: bytes a second of the entropic solver's primitives over those of a plain stream.

    python -m benchmarks.bandwidth [--out FILE.json] [--threads 1 2] [--sizes 256 512 1024 2048 4096]

Each primitive is called as the solver calls it, on one problem of size n x n. The bytes that it must move: `sweep`, `newton` and
`cg` read K; `plan` reads and writes it; `kernel` reads L, G, T, T0 and writes L, T0, T; `gradient` reads A, M, T, T0, L and
writes A. The stream is measured in the same process and size: a sum of one array for primitives that read one (what a memory bus
or a cache can deliver to a read), and for the others a loop that reads and writes as many arrays, without arithmetic to speak
of. Best of many, in turn, because a busy machine only adds time. Share 1 means that the arithmetic costs nothing; `plan` works in
place and can be above 1. Every thread
count has a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIZES = (256, 512, 1024, 2048, 4096)
TARGET = 0.15  # seconds for each measurement of one primitive


def _streams() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Sum of one array; out[k] <- sum of reads over several arrays. Both over rows in parallel."""
    from numba import njit, prange

    fast = {"nsz", "arcp", "contract", "reassoc"}

    @njit(parallel=True, fastmath=fast)
    def read(A):  # type: ignore[no-untyped-def]
        n, m = A.shape
        sums = np.zeros(n, A.dtype)
        for i in prange(n):
            s = A.dtype.type(0)
            for j in range(m):
                s += A[i, j]
            sums[i] = s
        return sums.sum()

    @njit(parallel=True, fastmath=fast)
    def move(R, W):  # type: ignore[no-untyped-def]
        """R (r, n, m) arrays are read, W (w, n, m) written."""
        r, n, m = R.shape
        w = W.shape[0]
        for i in prange(n):
            for k in range(w):
                out = W[k, i]
                first = R[k % r, i]
                for j in range(m):
                    out[j] = first[j]
            for k in range(w, r):
                s = R.dtype.type(0)
                for j in range(m):
                    s += R[k, i, j]
                W[0, i, 0] += s * R.dtype.type(1e-30)

    return read, move


def measure(n: int, dtype: Any) -> list[dict[str, Any]]:
    """Every primitive at one size and precision, in this process, with the threads that Numba has."""
    from fpgwot._backends._protocol import Scaling
    from fpgwot._dispatch import load_backend

    be: Any = load_backend("numba")
    read, move = _streams()
    rng = np.random.default_rng(0)
    size, one, on = np.array([[n, n]]), np.ones(1), np.ones(1, bool)
    p = np.full((1, n), 1 / n)
    s = Scaling(np, dtype, size, p, p, np.array([0.8]), np.array([0.05]), (np.inf, np.inf), (np.zeros(1), np.zeros(1)))
    M, L, G, T0 = (rng.random((1, n, n)).astype(dtype) for _ in range(4))
    K = (T0 / n**2).astype(dtype)
    T = K.copy()
    A = G.copy()
    zero, none = np.zeros((1, n)), np.zeros(1, bool)
    R, W = rng.random((5, n, n)).astype(dtype), np.zeros((3, n, n), dtype)
    byte = n * n * np.dtype(dtype).itemsize
    be.sweep(K, s, on)
    be.newton(K, s, on)
    begun = s.cols.copy(), s.vals.copy()

    def first_step() -> None:
        """Always the first: a system that is solved is not read again."""
        s.cols[:], s.vals[:] = begun
        be.cg(K, s, 0.0, on)

    calls: dict[str, tuple[Callable[[], Any], int, str]] = {
        "stream 1 read": (lambda: read(R[0]), 1, ""),
        "stream 1 read, 1 write": (lambda: move(R[:1], W[:1]), 2, ""),
        "stream 4 reads, 3 writes": (lambda: move(R[:4], W), 7, ""),
        "stream 5 reads, 1 write": (lambda: move(R, W[:1]), 6, ""),
        "sweep": (lambda: be.sweep(K, s, on), 1, "stream 1 read"),
        "newton": (lambda: be.newton(K, s, on), 1, "stream 1 read"),
        "cg": (first_step, 1, "stream 1 read"),
        "plan": (lambda: be.plan(T, s, on), 2, "stream 1 read, 1 write"),
        "gradient": (lambda: be.gradient(A, M, None, T0, T0, L, s, zero, zero, one, one, none, on), 6, "stream 5 reads, 1 write"),
        "kernel": (lambda: be.kernel(L, G, T, T0, s, 0.5 * one, none, on), 7, "stream 4 reads, 3 writes"),
    }
    best = _best_in_turn({name: call for name, (call, _, _) in calls.items()})
    rows = []
    for name, (_, arrays, stream) in calls.items():
        rate = arrays * byte / best[name]
        row = {"n": n, "dtype": np.dtype(dtype).name, "primitive": name, "seconds": best[name], "bytes_per_second": rate}
        if stream:
            row |= {"stream": stream, "share": rate / (calls[stream][1] * byte / best[stream])}
        rows.append(row)
    return rows


def _best_in_turn(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Least seconds; with one thread processor time, which a busy machine does not stretch."""
    from numba import get_num_threads

    from fpgwot._backends.numba_cpu import both_forms

    clock = time.process_time if get_num_threads() == 1 else time.perf_counter
    best = {}
    for name, call in calls.items():  # compile; and let the kernels find out which of their forms is faster
        with both_forms():
            for _ in range(4):
                call()
        start = clock()
        call()
        best[name] = clock() - start
    for _ in range(10):
        for name, call in calls.items():
            for _ in range(max(2, min(200, int(TARGET / 10 / best[name])))):
                start = clock()
                call()
                best[name] = min(best[name], clock() - start)
    return best


def run(full: bool, threads: tuple[int, ...] = (1, 2), sizes: tuple[int, ...] | None = None) -> dict[str, Any]:
    """One child process for each number of threads."""
    rows: list[dict[str, Any]] = []
    sizes = sizes or (SIZES if full else (512, 2048))
    for count in threads:
        if count > (os.cpu_count() or 1):
            print(f"bandwidth: {count} threads left out, the machine has {os.cpu_count()} cores")
            continue
        environment = {**os.environ, **dict.fromkeys(("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"), str(count))}
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.bandwidth", "--child", "--sizes", *map(str, sizes)],
            capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[1], check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"the measurement with {count} threads failed:\n{done.stderr[-2000:]}")
        rows += [{"threads": count, **row} for row in json.loads(done.stdout)]
        for r in rows:
            if r["threads"] == count and "share" in r:
                print(
                    f"{count} threads  n {r['n']:5d}  {r['dtype']}  {r['primitive']:9s} {r['bytes_per_second'] / 1e9:6.1f} GB/s, "
                    f"{r['share']:.2f} of {r['stream']}",
                    flush=True,
                )
    return {"rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/bandwidth.json"))
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--sizes", type=int, nargs="*", default=list(SIZES))
    parser.add_argument("--child", action="store_true", help="measure here and print JSON; the parent process uses it")
    args = parser.parse_args()
    if args.child:
        print(json.dumps([row for n in args.sizes for dtype in (np.float32, np.float64) for row in measure(n, dtype)]))
        return
    from .measure import save

    save(args.out, run(True, tuple(args.threads), tuple(args.sizes)))


if __name__ == "__main__":
    main()
