"""How the benchmarks measure: interleaved clocks, an independent judge of plans, and what the machine was."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import rel_entr

from .problems import Problem

THREADS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PACKAGES = ("fpgwot", "numpy", "scipy", "numba", "POT", "torch", "jax", "ott-jax", "fugw")
ERRORS = (ValueError, TypeError, RuntimeError, ArithmeticError, NotImplementedError, np.linalg.LinAlgError)  # of a peer
FEASIBLE = 1e-3  # relative violation of a marginal or of the mass from which a plan is called infeasible
WORSE = 1e-3  # relative excess over the best feasible objective from which a plan is called worse

LULL = 0.1  # seconds
CLOCK: Callable[[], float] = time.perf_counter


def growth(n: int) -> float:
    """What a doubling to n may cost a slow method at most: small sizes are overhead, and POT's number of iterations varies."""
    return 1.5 if n <= 128 else 6.0


def use_clock(name: str) -> None:
    """ "wall", or "cpu": processor time, all threads added up. With one thread a busy machine hardly disturbs it."""
    global CLOCK
    CLOCK = {"wall": time.perf_counter, "cpu": time.process_time}[name]


def judge(z: Problem, T: Any) -> dict[str, float]:
    """Objective and feasibility of a plan, in plain NumPy from the definition, apart from every solver.

    F = (1-alpha) <M,T> + alpha E(T) + reg KL(T||Q) + tau (KL(T1||p) + KL(T'1||q)); `violation` is the worst error of a hard
    marginal (an excess where the mass is partial) over the weight of its point; `mass_error` is |sum T - m|/m.
    """
    T = np.asarray(T, float)
    if T.shape != z.shape:
        raise ValueError(f"{z.name}: a plan of shape {T.shape} for a problem of shape {z.shape}")
    negative = float(-min(T.min(), 0)) if np.isfinite(T).all() else np.nan
    if not negative <= 1e-9:
        return dict.fromkeys(("value", "violation", "mass", "mass_error"), float("nan"))
    T = np.maximum(T, 0)
    mu, nu, mass = T.sum(1), T.sum(0), float(T.sum())
    alpha = z.alpha if z.alpha is not None else 0.0 if z.C1 is None else 1.0 if z.M is None else 0.5
    value = 0.0 if z.M is None else (1 - alpha) * float(np.sum(z.M * T))
    if z.C1 is not None and z.C2 is not None:
        cross = float(np.sum((z.C1 @ T @ z.C2.T) * T))
        value += alpha * (mu @ z.C1**2 @ mu + nu @ z.C2**2 @ nu - 2 * cross if z.loss == "square" else cross)
    if z.reg > 0:
        Q = np.outer(z.p, z.q) if z.reference is None else np.broadcast_to(z.reference, T.shape)
        value += z.reg * float(np.sum(rel_entr(T, Q) - T + Q))
    taus = z.tau if isinstance(z.tau, tuple) else (z.tau, z.tau)
    violation = 0.0
    for tau, got, want in zip(taus, (mu, nu), (z.p, z.q), strict=True):
        if tau is not None and np.isfinite(tau):
            value += tau * float(np.sum(rel_entr(got, want) - got + want)) if tau > 0 else 0.0
        else:
            excess = got - want if z.m is not None else np.abs(got - want)
            violation = max(violation, float(np.max(excess / want)))
    mass_error = abs(mass - z.m) / z.m if z.m is not None else 0.0
    return {"value": float(value), "violation": max(violation, 0.0), "mass": mass, "mass_error": mass_error}


def agreement(z: Problem, T: Any) -> float:
    """Share of the matched mass that joins frames of one step; background (label 0) agrees with nothing."""
    if z.labels is None:
        return float("nan")
    a, b = z.labels
    T, right = np.asarray(T, float), (a[:, None] == b[None]) & (a != 0)[:, None]
    return float(T[right].sum() / T.sum()) if T.sum() > 0 else 0.0


def verdicts(rows: list[dict[str, Any]]) -> None:
    """Writes `verdict` into rows that solve one problem: "ok", "infeasible", "worse by ...", "no plan"."""
    good = [r["value"] for r in rows if max(r["violation"], r["mass_error"]) <= FEASIBLE]
    for r in rows:
        off = max(r["violation"], r["mass_error"])
        if not np.isfinite(r["value"]):
            r["verdict"] = "no plan"
        elif off > FEASIBLE:
            r["verdict"] = f"infeasible ({off:.0e})"
        else:
            excess = (r["value"] - min(good)) / max(abs(min(good)), 1e-12)
            r["excess"] = float(excess)
            r["verdict"] = "ok" if excess <= WORSE else f"worse by {excess:.1g}"


def interleaved(
    calls: dict[str, Callable[[], Any]],
    repeats: int = 5,
    budget: float = 20.0,
    once_above: float = 10.0,
    compiles: str = "",
    least: float = 0.0,
    settle: float = 0.0,
) -> dict[str, dict[str, Any]]:
    """First and later calls, timed in turn: {name: first, seconds (median), times, plan}.

    The first call of each (compilation, caches) is kept apart. Then rounds in which every method runs once, until `repeats`
    rounds are done or `budget` seconds are used; a method whose first call took more than `once_above` seconds runs no more,
    its first call is its time, unless it `compiles`. A call that raises becomes {"error": text}. Times are those of `CLOCK`;
    limits are wall time. What takes less than `least` seconds is called so often in a row that it takes that long: on a busy
    machine a single call of a millisecond is mostly chance. What takes less than `settle` seconds is called untimed for at
    least LULL seconds before each measurement: threads of the library that ran before spin on (OpenBLAS's for 30 ms).
    """
    out: dict[str, dict[str, Any]] = {}
    running: dict[str, int] = {}
    settles: set[str] = set()
    for name, call in calls.items():
        try:
            plan, seconds, wall = _timed(call)
        except ERRORS as error:
            out[name] = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
            continue
        out[name] = {"first": seconds, "times": [], "plan": plan}
        if wall <= once_above or name == compiles:
            running[name] = 1
    for name in running if least > 0 or settle > 0 else ():
        wall = _timed(calls[name])[2]
        running[name] = max(1, int(np.ceil(least / max(wall, 1e-6))))
        if wall < settle:
            settles.add(name)
    begin = time.perf_counter()
    for turn in range(repeats):
        if turn > 0 and time.perf_counter() - begin > budget:
            break
        for name, count in running.items():
            row = out[name]
            quiet = LULL if name in settles else 0.0
            while quiet > 0:
                quiet -= _timed(calls[name])[2]
            row["plan"], seconds, _ = _timed(calls[name], count)
            row["times"].append(seconds)
    for row in out.values():
        if "first" in row:
            row["seconds"] = float(np.median(row["times"])) if row["times"] else row["first"]
    return out


def _timed(call: Callable[[], Any], count: int = 1) -> tuple[Any, float, float]:
    """The last result of `count` calls, and the mean of their seconds by the clock and on the wall."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start, wall = CLOCK(), time.perf_counter()
        for _ in range(count):
            result = call()
        return result, (CLOCK() - start) / count, (time.perf_counter() - wall) / count


def rounded(z: Problem, T: np.ndarray) -> np.ndarray:
    """A feasible plan near T, balanced: rows, then columns are scaled down to their weights, the rest is added as a product."""
    T = np.maximum(np.asarray(T, float), 0)
    T = T * np.minimum(1, z.p / np.maximum(T.sum(1), 1e-300))[:, None]
    T = T * np.minimum(1, z.q / np.maximum(T.sum(0), 1e-300))[None]
    row, col = z.p - T.sum(1), z.q - T.sum(0)
    return T + np.outer(row, col) / max(row.sum(), 1e-300)


def machine() -> dict[str, Any]:
    """Versions, processor, threads and commit that belong to every number."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    import fpgwot

    root = Path(__file__).parents[1]
    git = ["git", "-C", str(root)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    dirty = subprocess.run(
        [*git, "status", "--porcelain", "fpgwot", "benchmarks/*.py"], capture_output=True, text=True, check=False
    )
    return {
        "python": platform.python_version(),
        "versions": versions | {"fpgwot": fpgwot.__version__},
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": {name: os.environ.get(name, "default") for name in THREADS},
        "clock": "cpu" if CLOCK is time.process_time else "wall",
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "commit": (commit.stdout.strip() or "unknown") + ("+" if dirty.stdout.strip() else ""),
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [x for x in info.read_text().splitlines() if x.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()


def save(path: Path, content: dict[str, Any]) -> None:
    """JSON with the machine beside the content; NaN and infinity become null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), **_plain(content)}, indent=1, allow_nan=False) + "\n")


def _plain(x: Any) -> Any:
    if isinstance(x, dict):
        return {str(k): _plain(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [_plain(v) for v in x]
    if isinstance(x, np.generic):
        x = x.item()
    return None if isinstance(x, float) and not np.isfinite(x) else x
