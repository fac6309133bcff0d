"""The parts of `gpu_check.py` that time the inner solve: small problems in one launch, graphs for large ones."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from fpgwot import solve
from fpgwot._backends import _protocol as ix
from fpgwot._backends import inner
from fpgwot._backends.cupy_gpu import Gpu, graph


class Counted(Gpu):
    """The backend, which counts its launches; one of a graph is one."""

    def __init__(self, cp: Any, **options: Any) -> None:
        super().__init__(cp, **options)
        self.launches = self.graphs = 0

    def _launch(self, *args: Any, **options: Any) -> None:
        self.launches += 1
        super()._launch(*args, **options)

    def _captured(self, *args: Any) -> Any:
        before = self.launches
        captured = super()._captured(*args)
        self.launches = before  # what is recorded on the way is not launched
        return captured

    def _play(self, captured: Any) -> None:
        self.launches += 1
        self.graphs += 1
        super()._play(captured)


def small(check: Any) -> list[dict[str, Any]]:
    """Batches of small problems: an inner solve in one launch against pass by pass, then whole solves; launches counted."""
    rows = []
    for B, n in check.sizes["small"]:
        for dtype in (np.float32, np.float64):
            row: dict[str, Any] = {"problems": B, "n": n, "dtype": np.dtype(dtype).name}
            gpu = Counted(check.cp)
            for gpu.threads_per_line in (1, 4):  # beside the 2 of the package
                row[f"us_{gpu.threads_per_line}_threads_a_line"] = inner_solve(check, gpu, B, n, dtype)["us"]
            for name, gpu in (("one_launch", Counted(check.cp)), ("passes", Counted(check.cp, small=0))):
                row[name] = inner_solve(check, gpu, B, n, dtype)
            rows.append(row | {"times_faster": row["passes"]["us"] / row["one_launch"]["us"]})
    for B, n in check.sizes["small"]:
        M = np.stack([check.problem(n, seed)[0] for seed in range(min(B, 8))])[np.arange(B) % 8 % min(B, 8)]
        C = np.broadcast_to(check.problem(n)[1], (B, n, n)).copy()
        row = {"problems": B, "n": n, "whole": True}
        for name, gpu in (("one_launch", Counted(check.cp)), ("passes", Counted(check.cp, small=0))):
            arrays = [check.cp.asarray(x) for x in (M, C, C)]
            solve(*arrays, m=0.8, reg=0.05, max_iter=2, on_fail="ignore", backend=gpu)
            gpu.launches = gpu.graphs = 0
            check.wait()
            start = time.perf_counter()
            res = solve(*arrays, m=0.8, reg=0.05, on_fail="ignore", backend=gpu)
            check.wait()
            seconds, steps = time.perf_counter() - start, int(np.max(res.n_iter))
            row[name] = {"ms": 1e3 * seconds, "steps": steps, "launches": gpu.launches, "graphs": gpu.graphs}
            row[name] |= {"launches_per_step": gpu.launches / steps, "converged": int(np.sum(res.converged))}
        rows.append(row | {"times_faster": row["passes"]["ms"] / row["one_launch"]["ms"]})
    return rows


def inner_solve(check: Any, gpu: Counted, B: int, n: int, dtype: Any) -> dict[str, Any]:
    """One call of `ascend` on a batch, from the same start each time: sweeps and Newton steps, no target."""
    s, x = check.state(n, dtype, B)
    on, spent = np.ones(B, bool), np.zeros(B)
    start = s.cols.copy(), s.rows.copy()

    def call() -> Any:
        s.cols[...], s.rows[...] = start
        return gpu.ascend(x["K"], s, np.full(B, -1.0), np.full(B, np.inf), 4, 1e-12, spent, on)

    passes = call()
    gpu.launches = gpu.graphs = 0
    call()
    launches, graphs = gpu.launches, gpu.graphs
    us = 1e6 * check.time(call, 3)
    return {
        "us": us,
        "passes": int(np.max(passes)),
        "launches": launches,
        "graphs": graphs,
        "us_per_pass": us / np.max(passes),
    }


def graphs(check: Any) -> list[dict[str, Any]]:
    """Ten conjugate gradient steps, and four mixed sweeps: by one graph with a read of the numbers, and by launches with a
    read after each."""
    rows, gpu, on = [], Counted(check.cp, small=0), np.ones(1, bool)
    for n in check.sizes["graph"]:
        s, x = check.state(n, np.float32)
        gpu.sweep(x["K"], s, on)
        gpu.newton(x["K"], s, on)

        def begin(s: ix.Scaling = s) -> None:
            s.vals[:, ix.DONE] = 0.0

        def captured(s: ix.Scaling = s, K: Any = x["K"]) -> None:
            begin(s)
            gpu._cg_graph(K, s, 0.0, on)
            gpu.host(s.vals)

        def launched(s: ix.Scaling = s, K: Any = x["K"]) -> None:
            for _ in range(graph.AT_ONCE):
                begin(s)
                gpu.cg(K, s, 0.0, on)
                gpu.host(s.vals)

        def idle(s: ix.Scaling = s, K: Any = x["K"]) -> None:
            s.vals[:, ix.DONE] = 1.0
            gpu._cg_graph(K, s, 0.0, on)
            gpu.host(s.vals)

        mixed = gpu._captured(graph.Mixed, x["K"], s, 1e-6)

        def mixes(mixed: Any = mixed, s: ix.Scaling = s, K: Any = x["K"]) -> None:
            mixed.run(K, s, np.array([[-1.0, np.inf]]), on)

        def mixes_launched(s: ix.Scaling = s, K: Any = x["K"]) -> None:
            gpu.sweep(K, s, on)
            s.used[:] = 0
            for _ in range(inner.SWEEPS):
                gpu.anderson(s, ~on, on)
                gpu.sweep(K, s, on)
                gpu.host(s.vals)

        row: dict[str, Any] = {"n": n, "steps": graph.AT_ONCE, "mixed_sweeps": inner.SWEEPS}
        calls = {"graph_us": captured, "launches_us": launched, "all_done_us": idle}
        calls |= {"mixed_graphs_us": mixes, "mixed_launches_us": mixes_launched}
        for name, call in calls.items():
            row[name] = 1e6 * check.time(call)
        rows.append(row | {"times_faster": row["launches_us"] / row["graph_us"]})
    return rows
