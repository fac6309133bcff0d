"""Every method on problem T and ASOT's problem over sizes: time, objective, feasibility; time against objective reached."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .measure import growth, interleaved, judge, rounded, verdicts
from .methods import Method, available
from .problems import Problem, problem_t, segmentation_problem, structure_problem

TASKS: dict[str, Callable[[int], Problem]] = {
    "KOT, exact": lambda n: problem_t(n).linear(),
    "KOT, reg .05": lambda n: problem_t(n).linear().but(reg=0.05),
    "partial KOT, m .8, exact": lambda n: problem_t(n).linear().but(m=0.8),
    "partial KOT, m .8, reg .05": lambda n: problem_t(n).linear().but(m=0.8, reg=0.05),
    "GW, exact": structure_problem,
    "GW, reg .01": lambda n: structure_problem(n).but(reg=0.01),
    "FGW, exact": problem_t,
    "FGW, reg .05": lambda n: problem_t(n).but(reg=0.05),
    "FGW, reg .01": lambda n: problem_t(n).but(reg=0.01),
    "partial FGW, m .8, exact": lambda n: problem_t(n).but(m=0.8),
    "partial FGW, m .8, reg .05": lambda n: problem_t(n).but(m=0.8, reg=0.05),
    "unbalanced KOT, tau .1, reg .05": lambda n: problem_t(n).linear().but(tau=0.1, reg=0.05),
    "unbalanced FGW, tau .1, reg .05": lambda n: problem_t(n).but(tau=0.1, reg=0.05),
    "ASOT, n x 16": lambda n: segmentation_problem(n, 16),
}
SHORT, FULL = (32, 64, 128), (32, 64, 128, 256, 512, 1024, 2048)


def run(full: bool, deadline: float, methods: list[Method] | None = None, sizes: tuple[int, ...] | None = None) -> dict[str, Any]:
    """The records of all tasks; what was left out, and why, is in `skipped`."""
    found, missing = available()
    found = methods or found
    limit, begin = (60.0 if full else 1.5), time.perf_counter()
    rows: list[dict[str, Any]] = []
    skipped = [f"{name}: {why}" for name, why in missing.items()]
    for line in skipped:
        print(f"left out: {line}")
    last: dict[tuple[str, str], float] = {}
    for n in sizes or (FULL if full else SHORT):
        for task, make in TASKS.items():
            z = make(n)
            calls = {}
            for method in found:
                if last.get((task, method.name)) == np.inf:  # left out at a smaller size, with its reason
                    continue
                if not method.solves(z) or (method.slow and not full):
                    continue
                expected = growth(n) * last.get((task, method.name), 0.0)
                if n > method.largest or expected > limit or time.perf_counter() - begin > deadline:
                    why = f"at most n {method.largest}" if n > method.largest else f"{expected:.0f} s expected"
                    why = "the time of this run is used" if time.perf_counter() - begin > deadline else why
                    skipped.append(f"{method.name}, {task}, from n {n} on: {why}")
                    last[task, method.name] = np.inf
                    continue
                calls[method.name] = method.prepare(z)
            repeats = 7 if n <= 64 else 5 if n <= 256 else 3
            done = interleaved(calls, repeats=repeats if full else 3, budget=limit)
            group = []
            for name, out in done.items():
                if "error" in out:
                    skipped.append(f"{name}, {task}, n {n}: {out['error']}")
                    last[task, name] = np.inf
                    continue
                last[task, name] = out["seconds"]
                row = {"task": task, "n": n, "method": name, **{k: out[k] for k in ("seconds", "first", "times")}}
                group.append(row | judge(z, out["plan"]))
            verdicts(group)
            rows += group
            for r in group:
                print(
                    f"{task:32s} n {n:5d}  {r['method']:20s} {1e3 * r['seconds']:10.2f} ms  F {r['value']:.8g}  {r['verdict']}",
                    flush=True,
                )
    return {"rows": rows, "skipped": skipped, "notes": {m.name: m.note for m in found}}


def reach(n: int, repeats: int) -> dict[str, Any]:
    """Entropic FGW (reg .01) stopped early and late: time against how far the plan, made feasible, is above the optimum."""
    import fpgwot

    z = problem_t(n).but(reg=0.01)
    arrays = (z.M, z.C1, z.C2, z.p, z.q)
    best = fpgwot.solve(*arrays, **z.options, tol=1e-10, on_fail="ignore")
    calls: dict[str, Callable[[], Any]] = {}
    for k in (1, 2, 3, 4, 5, 7, 9):
        calls[f"fpgwot|{k}"] = lambda k=k: fpgwot.solve(*arrays, **z.options, tol=10.0**-k, on_fail="ignore").plan
    for name, add in (("POT", _pot), ("OTT", _ott), ("fugw", _fugw)):
        try:
            calls |= add(z)
        except (ImportError, OSError) as error:
            print(f"left out: {name}: {error}")
    floor = judge(z, rounded(z, best.plan))["value"]
    rows = []
    for key, out in interleaved(calls, repeats=repeats, budget=60, once_above=20).items():
        if "error" in out:
            continue
        name, _, level = key.partition("|")
        value = judge(z, rounded(z, out["plan"]))["value"]
        raw = judge(z, out["plan"])
        rows.append({"method": name, "level": level, "seconds": out["seconds"], "excess": value - floor, **raw})
    return {"n": n, "best": floor, "rows": rows}


def _pot(z: Problem) -> dict[str, Callable[[], Any]]:
    import ot

    def call(tol: float) -> Any:
        return ot.gromov.entropic_fused_gromov_wasserstein(z.M, z.C1, z.C2, z.p, z.q, epsilon=z.reg, alpha=z.alpha, tol=tol)

    return {f"POT|{k}": lambda k=k: call(10.0**-k) for k in (2, 3, 5, 7, 9)}


def _ott(z: Problem) -> dict[str, Callable[[], Any]]:
    from .methods import ott

    return {f"OTT|{k}": ott.solver(z, 10.0**-k, 10.0 ** -(k + 1)) for k in (2, 3, 4, 5)}


def _fugw(z: Problem) -> dict[str, Callable[[], Any]]:
    from .methods import fugw

    return {f"fugw|{k}": fugw.solver(z, blocks=k, inner=200) for k in (2, 5, 10)}
