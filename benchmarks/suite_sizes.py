"""Is a function slower than POT's at any size from 16 up? `fpgwot.solve` against POT, and the drop-in module if it exists."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from .measure import growth, interleaved, judge, verdicts
from .problems import Problem, problem_t, structure_problem

SHORT, FULL = (16, 32, 64, 128), (16, 32, 64, 128, 256, 512, 1024, 2048)


def tasks(n: int) -> dict[str, Problem]:
    """Every function that both have, on problem T (GW: warped time)."""
    z = problem_t(n)
    out = {}
    for kind, base in (("KOT", z.linear()), ("GW", structure_problem(n)), ("FGW", z)):
        for reg in (0.0, 0.05):
            how = "exact" if reg == 0 else f"reg {reg:g}"
            out[f"{kind}, {how}"] = base.but(reg=reg)
            out[f"partial {kind}, m .8, {how}"] = base.but(reg=reg, m=0.8)
    return out


def drop_in(z: Problem) -> Callable[[], Any] | None:
    """The function of `fpgwot.gromov` with POT's name for a problem with structures."""
    try:
        from fpgwot import gromov  # type: ignore[attr-defined]
    except ImportError:
        return None
    if z.kind == "linear":
        return None
    stem = "fused_gromov_wasserstein" if z.kind == "fgw" else "gromov_wasserstein"
    name = ("entropic_" if z.reg > 0 else "") + ("partial_" if z.m is not None else "") + stem
    function = getattr(gromov, name, None)
    if function is None:
        return None
    arrays = (z.C1, z.C2, z.p, z.q) if z.kind == "gw" else (z.M, z.C1, z.C2, z.p, z.q)
    keywords: dict[str, Any] = {} if z.kind == "gw" else {"alpha": z.alpha}
    if z.m is not None:
        keywords |= {"m": z.m}
    if z.reg > 0:
        keywords |= {"reg" if z.m is not None else "epsilon": z.reg}
    return lambda: function(*arrays, **keywords)


def run(full: bool, deadline: float, sizes: tuple[int, ...] | None = None) -> dict[str, Any]:
    """One record for each task and size: our time, the drop-in's, POT's, and the ratio."""
    from .methods.ours import solver
    from .methods.pot import call

    begin, limit = time.perf_counter(), 90.0 if full else 3.0
    last: dict[str, float] = {}
    rows, skipped = [], []
    for n in sizes or (FULL if full else SHORT):
        for task, z in tasks(n).items():
            if time.perf_counter() - begin > deadline:
                skipped.append(f"{task}, n {n}: the time of this run is used")
                continue
            calls: dict[str, Callable[[], Any]] = {"fpgwot": solver(z)}
            theirs, ours = call(z), drop_in(z)
            if ours is not None:
                calls["drop-in"] = ours
            if growth(n) * last.get(task, 0.0) <= limit and theirs is not None:
                calls["POT"] = theirs
            else:
                if last.get(task) != np.inf:
                    skipped.append(f"POT, {task}, from n {n} on: more than {limit:.0f} s expected")
                last[task] = np.inf
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                done = interleaved(calls, repeats=15 if n <= 64 else 7 if n <= 256 else 3, budget=limit / 3, least=0.01)
            group = []
            for name, out in done.items():
                if "error" in out:
                    skipped.append(f"{name}, {task}, n {n}: {out['error']}")
                    continue
                group.append({"task": task, "n": n, "method": name, "seconds": out["seconds"]} | judge(z, out["plan"]))
            verdicts(group)
            rows += group
            time_of = {r["method"]: r["seconds"] for r in group}
            last[task] = time_of.get("POT", np.inf)
            if "POT" in time_of:
                ratios = "  ".join(f"{k} {time_of['POT'] / v:8.2f}" for k, v in time_of.items() if k != "POT")
                print(f"{task:30s} n {n:5d}  POT {1e3 * time_of['POT']:10.2f} ms   ratio of {ratios}", flush=True)
    return {"rows": rows, "skipped": skipped, "slower": slower(rows)}


def slower(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Cells in which we are slower than POT."""
    pot = {(r["task"], r["n"]): r["seconds"] for r in rows if r["method"] == "POT"}
    return [
        {"task": r["task"], "n": r["n"], "method": r["method"], "ratio": pot[r["task"], r["n"]] / r["seconds"]}
        for r in rows
        if r["method"] != "POT" and (r["task"], r["n"]) in pot and pot[r["task"], r["n"]] < r["seconds"]
    ]
