"""The project's goals of speed, each measured side by side with its peer in one process: ratio reached beside ratio wanted.

Peers run with their own defaults (see `methods/`); POT's partial exact solver gets numItermax = 1e7. A row reaches its goal if
the ratio does and our objective is no worse (relative 1e-4; 1e-3 against float32 peers) at a feasible plan.

Some peers stop far from the marginals by default. These are also compared at equal accuracy, both ways: with our tolerance as
loose as it may be for a plan that is no worse than theirs in objective and marginals, and with their settings as tight as it
takes to meet the marginals to what ours must.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import fpgwot

from .measure import ERRORS, FEASIBLE, interleaved, judge
from .problems import Problem, graph_problem, problem_t, random_problem, segmentation_problem

BATCH, SMALL = 128, 32
ASOT_STEPS = (25, 50, 100, 200, 400)
OTT_THRESHOLDS = ((1e-4, 1e-3), (1e-5, 1e-3), (1e-5, 1e-5), (1e-6, 1e-6))  # inner, outer
LOOSE = (1e-1, 1e-2, 1e-3, 1e-4)  # tolerances of ours that are tried at a peer's accuracy
FEASIBLE_OURS = 1e-4  # violation that ours may have: what the package promises in float32


def compare(
    work: str,
    z: Problem | list[Problem],
    peer: str,
    goal: float,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    budget: float,
    note: str = "",
    looser: Callable[[float], Callable[[], Any]] | None = None,
    tighter: dict[str, Callable[[], Any]] | None = None,
) -> dict[str, Any]:
    """One row: both times, ratio, objectives and violations (of a batch: mean objective, worst violations).

    `looser` gives our call for a tolerance, `tighter` the peer's calls by setting, the loosest first; see the module.
    """
    slack = 1e-3 if peer.startswith(("OTT", "ASOT")) else 1e-4
    calls = {"ours": ours, "peer": theirs}
    equal = _at_equal_accuracy(z, theirs, slack, looser, tighter)
    calls |= {name: call for name, (_, call) in equal.items()}
    done = interleaved(calls, repeats=7, budget=budget, compiles="ours", least=0.01, settle=1.0)
    row: dict[str, Any] = {"work": work, "peer": peer, "goal": goal, "note": note}
    if any("error" in out for out in done.values()):
        return row | {"error": "; ".join(f"{k}: {out['error']}" for k, out in done.items() if "error" in out)}
    found = {name: _judged(z, out["plan"]) for name, out in done.items()}
    for name, out in done.items():
        row |= {f"{k}_{name}": x for k, x in found[name].items()}
        row |= {f"seconds_{name}": out["seconds"], f"runs_{name}": max(1, len(out["times"]))}
    row |= {f"setting_{name}": setting for name, (setting, _) in equal.items()}
    row["ratio"] = row["seconds_peer"] / row["seconds_ours"]
    row["ratio_theirs"] = row["seconds_peer"] / row["seconds_loose"] if "loose" in equal else None
    row["ratio_ours"] = row["seconds_tight"] / row["seconds_ours"] if "tight" in equal else None
    worse = _is_worse(found["ours"], found["peer"], slack)
    fair = row["violation_peer"] <= FEASIBLE
    feasible = row["violation_ours"] <= FEASIBLE_OURS
    row["objective"] = (
        "infeasible" if not feasible else "peer infeasible" if worse and not fair else "worse" if worse else "no worse"
    )
    is_fair = row["objective"] in ("no worse", "peer infeasible")
    row["reached"] = bool(row["ratio"] >= goal and is_fair)
    is_fair_there = "tight" in equal and not _is_worse(found["ours"], found["tight"], slack)
    at_equal = max(row["ratio_theirs"] or 0, row["ratio_ours"] if is_fair_there else 0)
    row["reached_at_equal_accuracy"] = bool(is_fair and at_equal >= goal)
    return row


def _judged(z: Problem | list[Problem], plan: Any) -> dict[str, float]:
    """Mean objective, worst violation of a marginal or of the mass."""
    found = [judge(x, T) for x, T in zip(z, plan, strict=True)] if isinstance(z, list) else [judge(z, plan)]
    worst = max(max(f["violation"], f["mass_error"]) if f["value"] == f["value"] else np.inf for f in found)
    return {"value": float(np.mean([f["value"] for f in found])), "violation": float(worst)}


def _at_equal_accuracy(
    z: Any, theirs: Callable[[], Any], slack: float, looser: Any, tighter: dict[str, Callable[[], Any]] | None
) -> dict[str, tuple[str, Callable[[], Any]]]:
    """ "loose", our fastest call no worse than the peer's plan, and "tight", the peer's loosest that is as feasible as ours."""
    equal: dict[str, tuple[str, Callable[[], Any]]] = {}
    peer = None if looser is None else _tried(z, theirs)
    if looser is not None and peer is not None:
        calls = {f"tol {tol:g}": looser(tol) for tol in LOOSE}
        fit = {
            setting: call for setting, call in calls.items()
            if (mine := _tried(z, call)) and mine["violation"] <= peer["violation"] and not _is_worse(mine, peer, slack)
        }  # fmt: skip
        if fit:
            seconds = {k: out["seconds"] for k, out in interleaved(fit, repeats=5, budget=5, least=0.01, settle=1.0).items()}
            best = min(seconds, key=lambda k: seconds[k])
            equal["loose"] = best, fit[best]
    for setting, call in (tighter or {}).items():
        if (found := _tried(z, call)) and found["violation"] <= FEASIBLE_OURS:
            equal["tight"] = setting, call
            break
    return equal


def _tried(z: Any, call: Callable[[], Any]) -> dict[str, float] | None:
    """The judgement of a call's plan; None where it raises, which its row reports."""
    try:
        return _judged(z, call())
    except ERRORS:
        return None


def _is_worse(mine: dict[str, float], other: dict[str, float], slack: float) -> bool:
    return mine["value"] > other["value"] + slack * max(abs(other["value"]), 1e-3)


def _ours(z: Problem, dtype: type = np.float64, tol: float | None = None) -> Callable[[], Any]:
    from .methods.ours import solver

    return solver(z, dtype, tol=tol)


def _once_made(make: Callable[[], Callable[[], Any]]) -> Callable[[], Any]:
    """A call that is made (compiled) when it is first needed."""
    made: list[Callable[[], Any]] = []

    def call() -> Any:
        if not made:
            made.append(make())
        return made[0]()

    return call


def _versus_pot(work: str, z: Problem, goal: float, budget: float, note: str = "") -> Callable[[], dict[str, Any]]:
    def row() -> dict[str, Any]:
        from .methods.pot import call

        theirs = call(z)
        if theirs is None:
            raise NotImplementedError(f"POT has no function for {z.name}")
        return compare(work, z, "POT", goal, _ours(z), theirs, budget, note)

    return row


def _drop_in(work: str, z: Problem, goal: float, budget: float) -> Callable[[], dict[str, Any]]:
    def row() -> dict[str, Any]:
        import ot

        from fpgwot import gromov  # type: ignore[attr-defined]

        keywords = {"epsilon": z.reg, "alpha": z.alpha}
        arrays = (z.M, z.C1, z.C2, z.p, z.q)
        ours, theirs = (
            (lambda f=f: f(*arrays, **keywords))
            for f in (gromov.entropic_fused_gromov_wasserstein, ot.gromov.entropic_fused_gromov_wasserstein)
        )
        return compare(work, z, "POT", goal, ours, theirs, budget, "the drop-in function")

    return row


def _versus_ott(n: int, budget: float, both_ways: bool) -> Callable[[], dict[str, Any]]:
    def row() -> dict[str, Any]:
        from .methods.ott import solver

        z = problem_t(n).but(reg=0.05)
        tight = {f"thresholds {a:g}, {b:g}": _once_made(lambda a=a, b=b: solver(z, a, b)) for a, b in OTT_THRESHOLDS}
        equal = (lambda tol: _ours(z, np.float32, tol), tight) if both_ways else ()
        work = f"FGW, T, n {n}, reg .05, float32"
        return compare(work, z, "OTT", 20, _ours(z, np.float32), solver(z), budget, "after compilation", *equal)

    return row


def _asot(n: int, k: int, budget: float, both_ways: bool) -> Callable[[], dict[str, Any]]:
    def row() -> dict[str, Any]:
        from .methods.asot import solver

        z = segmentation_problem(n, k)
        theirs = {steps: solver([z], steps) for steps in ASOT_STEPS}
        tight = {f"{steps} steps": lambda call=call: call()[0] for steps, call in theirs.items() if steps > 25}
        equal = (lambda tol: _ours(z, np.float32, tol), tight) if both_ways else ()
        work, note = f"ASOT's problem, {n} x {k}", "25 steps of the published iteration, float32"
        return compare(work, z, "ASOT", 20, _ours(z, np.float32), lambda: theirs[25]()[0], budget, note, *equal)

    return row


def _batch(peer: str, goal: float, budget: float, both_ways: bool, count: int = BATCH) -> Callable[[], dict[str, Any]]:
    def row() -> dict[str, Any]:
        from .methods import asot, pot

        theirs: Callable[[], Any]
        tighter: dict[str, Callable[[], Any]] = {}
        if peer == "ASOT":
            problems = [segmentation_problem(SMALL, 8, seed) for seed in range(count)]
            theirs, note = asot.solver(problems), "ASOT's own problem, 32 x 8, float32"
            tighter = {f"{steps} steps": asot.solver(problems, steps) for steps in ASOT_STEPS if steps > 25}
        else:
            problems = [problem_t(SMALL, seed).but(reg=0.05) for seed in range(count)]
            if peer == "POT loop":
                theirs, note = pot.loop(problems), "one call each"
            else:
                import torch

                theirs, note = pot.batch(problems, torch), "proximal: it descends on the problem without entropy"
                # 5,000 take minutes, and do not meet the marginals either
                tighter = {"500 inner steps": pot.batch(problems, torch, 500)}
        z, kind = problems[0], np.float32 if peer == "ASOT" else np.float64
        C1, C2 = (np.stack([getattr(x, k) for x in problems]).astype(kind) for k in ("C1", "C2"))
        M, p, q = (np.stack([getattr(x, k) for x in problems]).astype(kind) for k in ("M", "p", "q"))
        if peer == "ASOT":
            C1, C2 = C1[0], C2[0]  # shared
        options = {k: v for k, v in z.options.items() if v is not None}

        def ours(tol: float | None = None) -> Any:
            return fpgwot.solve(M, C1, C2, p, q, **options, tol=tol, on_fail="ignore").plan

        equal = (lambda tol: lambda: ours(tol), tighter) if both_ways else ()
        work = f"{count} problems of n {SMALL}, reg .05"
        return compare(work, problems, peer, goal, ours, theirs, budget, note, *equal)

    return row


def rows(full: bool) -> list[Callable[[], dict[str, Any]]]:
    """The rows that have a peer; the short list leaves out what takes a peer more than a few seconds, and equal accuracy."""
    pair: list[Callable[[], dict[str, Any]]] = []
    if full:
        z = problem_t(512).but(m=0.8, reg=0.05)
        pair.append(_versus_pot("entropic partial FGW, T, n 512, m .8, reg .05", z, 2000, 1, "POT ignores M here; run once"))
    else:
        z = problem_t(64).but(m=0.8, reg=0.05)
        pair.append(
            _versus_pot("entropic partial FGW, T, n 64, m .8, reg .05", z, 2000, 1, "POT ignores M here; the goal is for n 512")
        )
    limit = 60 if full else 4
    for n, goal in ((512, 25), (2048, 100)) if full else ((256, 25),):
        z = problem_t(n).but(reg=0.05)
        pair.append(_versus_pot(f"entropic FGW, T, dense arrays, n {n}, reg .05", z, goal, limit))
        pair.append(_drop_in(f"entropic FGW, T, drop-in, n {n}, reg .05", z, goal, limit))
    n = 512 if full else 128
    pair.append(_versus_pot(f"entropic FGW, random graphs, n {n}, reg .05", graph_problem(n).but(reg=0.05), 5, limit))
    pair.append(_versus_pot(f"entropic FGW, random dense C, n {n}, reg .05", random_problem(n).but(reg=0.05), 5, limit))
    sizes = ((16, 1.5), (32, 1.5), (64, 1.5), (128, 1.5), (512, 10)) + (((1024, 25), (2048, 50)) if full else ())
    for n, goal in sizes:
        pair.append(_versus_pot(f"exact partial FGW, T, n {n}, m .8", problem_t(n).but(m=0.8), goal, limit))
    pair.append(_batch("POT loop", 200, 30 if full else 1, both_ways=False, count=BATCH if full else BATCH // 16))
    pair += [_batch(peer, goal, 30 if full else 4, both_ways=full) for peer, goal in (("ot.batch torch", 30), ("ASOT", 5))]
    pair += [_versus_ott(n, 30 if full else 4, both_ways=full) for n in ((512, 2048) if full else (128,))]
    pair.append(_asot(*((1024, 1024) if full else (256, 256)), budget=40 if full else 4, both_ways=full))
    return pair


def gradient_growth() -> dict[str, Any]:
    """Time of one gradient with temporal operators at n = 1024 and 4096, through the solver's own `Problem`."""
    from fpgwot._dispatch import load_backend
    from fpgwot._validate import make_problem
    from fpgwot.structure import PowerDistance

    be = load_backend("numba")
    calls = {}
    for n in (1024, 4096):
        M, C = np.random.default_rng(n).random((n, n)), PowerDistance(n, scale=1 / n)
        kept: dict[str, Any] = dict.fromkeys(("m", "tau", "reg_rel", "reference", "normalize", "mask"))
        z = make_problem(be, M, C, C, None, None, alpha=0.3, loss="square", reg=0.05, **kept).problem
        T, s, on = z.product_plan(), z.allocate(), np.ones(1, bool)
        G, work, T0, L = (np.zeros_like(T) for _ in range(4))
        calls[str(n)] = lambda z=z, T=T, G=G, work=work, T0=T0, L=L, s=s, on=on: z.gradient(
            T, *2 * (T.sum(2), T.sum(1)), G, work, T0, L, s, np.zeros(1, bool), on
        )
    for call in [*calls.values()] * 3:  # both forms of every kernel: compiling one would be taken for the time of a size
        call()
    done = interleaved(calls, repeats=9, budget=60)
    return _single(
        "one temporal gradient, n 1024 -> 4096", "growth", done["4096"]["seconds"] / done["1024"]["seconds"], 16 * 1.15
    )


def passes(full: bool) -> list[dict[str, Any]]:
    """Passes + 3 gradients at certificate 1e-7 on T, m .8, as the goal counts them: factors apart.

    The goal is what the prototype took (172 + 3 x 12 and 2 factors; 535 + 3 x 21 and 5). `n_passes` has factors in it, priced.
    """
    out = []
    for n, reg, goal in ((512, 0.01, 220), (512, 0.003, 600)) + (((2048, 0.003, None),) if full else ()):
        z = problem_t(n).but(m=0.8, reg=reg, reference=1.0)
        with _factors() as prices:
            r = fpgwot.solve(z.M, z.C1, z.C2, z.p, z.q, **z.options, on_fail="ignore")
        reads = r.n_passes - sum(prices)
        units = reads + 3 * r.n_gradients
        row = _single(f"passes + 3 gradients, T, n {n}, m .8, reg {reg}", "W", units, goal)
        apart = f"{len(prices)} factors at {sum(prices)} passes in all"
        row["note"] = f"{reads} + 3 x {r.n_gradients}; {apart}; {r.status.name}"
        row["reached"] = bool(r.converged and (goal is None or units <= goal))
        out.append(row)
    return out


@contextlib.contextmanager
def _factors() -> Iterator[list[int]]:
    """What each factor bought in the meantime counts for in `n_passes` (one problem at a time)."""
    from fpgwot._backends import inner, numba_cpu

    prices: list[int] = []

    def factor(*args: Any) -> Any:
        built = numba_cpu.factor(*args)
        prices.extend(inner.PRICE + int(columns) // inner.COLUMNS for columns in built if columns > 0)
        return built

    kept = numba_cpu._interpreted
    numba_cpu._interpreted = inner.interpreted(numba_cpu, factor=factor)
    try:
        yield prices
    finally:
        numba_cpu._interpreted = kept


def _single(work: str, what: str, value: float, goal: float | None) -> dict[str, Any]:
    reached = bool(goal is None or value <= goal)
    return {"work": work, "peer": None, "what": what, "value": float(value), "goal": goal, "reached": reached, "note": ""}


COLD = {  # what a fresh process runs: imports, then one solve of a random problem of 64 x 64
    "fpgwot, entropic": "import fpgwot; fpgwot.solve(M, C, C, alpha=.3, m=.8, reg=.05)",
    "fpgwot, exact": "import fpgwot; fpgwot.solve(M, C, C, alpha=.3, m=.8)",
    "POT, entropic": "import ot; ot.gromov.entropic_fused_gromov_wasserstein(M, C, C, alpha=.3, epsilon=.05)",
    "POT, exact": "import ot; ot.gromov.partial_fused_gromov_wasserstein(M, C, C, alpha=.3, m=.8)",
    "OTT, entropic": "from benchmarks.methods.ott import solver; solver(Problem('', M, C, C, w, w, .3, reg=.05))()",
    "fugw, entropic": "from benchmarks.methods.fugw import solver; solver(Problem('', M, C, C, w, w, .3, reg=.05))()",
}
START = """
import time; start = time.perf_counter()
import numpy as np
x = np.arange(64); C = abs(x[:, None] - x) / 64; M = np.random.default_rng(0).random((64, 64)); w = np.full(64, 1 / 64)
{before}
{call}
print(time.perf_counter() - start)
"""


def first_calls(full: bool) -> list[dict[str, Any]]:
    """Import and first solve in a fresh process; ours with and without compiled kernels on disk.

    POT's optional libraries are switched off through its own variables: it would import jax and torch where they are installed.
    """
    lean = {f"POT_BACKEND_DISABLE_{x}": "1" for x in ("PYTORCH", "JAX", "CUPY", "TENSORFLOW")}
    out = []

    def once(call: str, **environment: str) -> float:
        before = "from benchmarks.problems import Problem" if "Problem(" in call else ""
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", START.format(before=before, call=call)],
            capture_output=True, text=True, check=True, env={**os.environ, **lean, **environment}, cwd=Path(__file__).parents[1],
        )  # fmt: skip
        return float(done.stdout.split()[-1])

    for name, call in COLD.items():
        package = name.partition(",")[0]
        if package != "fpgwot" and find_spec({"POT": "ot", "OTT": "ott", "fugw": "fugw"}[package]) is None:
            continue
        own = package == "fpgwot"
        empty = []
        with tempfile.TemporaryDirectory() as folder:
            cache = {}
            for k in range(3 if full and own else 0):  # compiling takes 15 s or 20, whatever else the machine does
                cache = {"NUMBA_CACHE_DIR": f"{folder}/{k}"}
                empty.append(once(call, **cache))
            times = [once(call, **cache) for _ in range(3 if full else 1)]
        if own and full:
            out.append(_single(f"first call in a fresh process: {name}, nothing cached", "seconds", float(np.median(empty)), 20))
        kept = ", kernels cached" if own else ""
        out.append(
            _single(f"first call in a fresh process: {name}{kept}", "seconds", float(np.median(times)), 1.5 if own else None)
        )
    return out


def run(full: bool, deadline: float) -> dict[str, Any]:
    """Every row; what cannot run says why."""
    begin, out, skipped = time.perf_counter(), [], []
    for row in rows(full):
        if time.perf_counter() - begin > deadline:
            skipped.append("the time of this run is used")
            break
        try:
            out.append(row())
        except (ImportError, OSError, NotImplementedError) as error:
            skipped.append(f"{type(error).__name__}: {error}".splitlines()[0])
            continue
        print(line(out[-1]), flush=True)
    for more in (passes(full), [gradient_growth()], first_calls(full)):
        out += more
        for r in more:
            print(line(r), flush=True)
    return {"rows": out, "skipped": skipped}


EQUAL = (("ratio_theirs", "at the peer's accuracy", "setting_loose"), ("ratio_ours", "at ours", "setting_tight"))


def line(r: dict[str, Any]) -> str:
    """A row as text."""
    if "error" in r:
        return f"{r['work']:55s} {r['error']}"
    verdict = "reached" if r["reached"] else "NOT reached"
    if r.get("reached_at_equal_accuracy") and not r["reached"]:
        verdict = "reached at equal accuracy"
    if r["peer"] is None:
        return f"{r['work']:55s} {r['what']} {r['value']:.4g} (goal {r['goal']}) {verdict} {r['note']}"
    return (
        f"{r['work']:55s} {r['peer']:15s} {1e3 * r['seconds_ours']:9.2f} ms against {1e3 * r['seconds_peer']:10.2f} ms: "
        f"{r['ratio']:8.1f} (goal {r['goal']:g}) {verdict}; objective {r['objective']}"
        + "".join(f"; {how} {r[key]:.1f} ({r[name]})" for key, how, name in EQUAL if r[key] is not None)
    )
