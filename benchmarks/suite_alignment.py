"""Real and simulated procedures: Kantorovich transport, exact and entropic, against FPGW and R-FPGWOT on the same problems.

Costs are scaled to mean one. Recordings of mocap6 (15 pairs) match half of the mass, as `make demo` does; simulated ones the true
mass, with the settings that `matching_table.py` chose on other seeds. Scored: time, objective of the own problem, marginal
violation, mass, cost <M,T> per unit of mass, and the share of matched mass between frames of one step. The control keeps the
cheapest mass of KOT's plan: partial methods should be read against it, since matching less is easier.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

import fpgwot
from fpgwot import temporal
from fpgwot.datasets import STATISTICS, make_procedures

from .measure import agreement, interleaved, judge
from .problems import Problem, mocap_routines

REACH, REG, RHO = 0.1, 0.005, 0.3
SETTINGS = {"mocap6": {"alpha": 0.1, "rho": 0.0}, "simulated": {"alpha": 0.1, "rho": RHO}}


def _pair(
    name: str, X: np.ndarray, Y: np.ndarray, labels: Any, metric_power: int, scale: float, mass: float
) -> tuple[Problem, float]:
    M = np.maximum((X**2).sum(1)[:, None] + (Y**2).sum(1)[None] - 2 * X @ Y.T, 0) ** (metric_power / 2)
    n, k = M.shape
    C1, C2 = temporal.laplace_structure(n, scale), temporal.laplace_structure(k, scale)
    return Problem(name, M, C1, C2, np.full(n, 1 / n), np.full(k, 1 / k), 0.1, labels=labels).normalized(), mass


def pairs(full: bool) -> list[tuple[str, Problem, float]]:
    """(data set, problem, mass)."""
    routines = mocap_routines()
    chosen = list(itertools.combinations(range(6), 2))[:: 1 if full else 5]
    out = []
    for i, j in chosen:
        (X, a), (Y, b) = routines[j], routines[i]
        out.append(("mocap6", *_pair(f"mocap6 {i}-{j}", X, Y, (a, b), 2, REACH, 0.5)))
    for seed in range(20 if full else 2):
        data = make_procedures(2, length=100, random_state=seed, **dict(STATISTICS["web"]))
        labels = (data.labels[0], data.labels[1])
        out.append(("simulated", *_pair(f"simulated web {seed}", *data.sequences, labels, 1, 0.05, data.true_mass(0, 1))))
    return out


def methods(z: Problem, mass: float, rho: float) -> dict[str, tuple[Problem, Callable[[], Any]]]:
    """Name -> (the problem that it solves, the call that returns its plan)."""
    n, k = z.shape
    reference = np.exp(-rho / REG * temporal.diagonal_cost(n, k)) / (n * k)
    problems = {
        "KOT, exact": z.linear(),
        "KOT, entropic": z.linear().but(reg=REG),
        "partial KOT, exact": z.linear().but(m=mass),
        "FPGW, exact": z.but(m=mass),
        "FPGW, entropic": z.but(m=mass, reg=REG),
        "R-FPGWOT": z.but(m=mass, reg=REG, reference=reference),
    }

    def call(x: Problem) -> Callable[[], Any]:
        return lambda: fpgwot.solve(x.M, x.C1, x.C2, x.p, x.q, **x.options, on_fail="ignore").plan

    out = {name: (x, call(x)) for name, x in problems.items()}
    try:
        import ot
    except ImportError:
        return out
    out["KOT, exact (POT)"] = problems["KOT, exact"], lambda: ot.emd(z.p, z.q, z.M, numItermax=10**7)
    out["KOT, entropic (POT)"] = problems["KOT, entropic"], lambda: ot.sinkhorn(z.p, z.q, z.M, REG, warn=False)
    return out


def cheapest(T: np.ndarray, M: np.ndarray, mass: float) -> np.ndarray:
    """The entries of a plan in order of cost up to a mass, the last one in part."""
    order = np.argsort(M, axis=None, kind="stable")
    kept = np.zeros(T.size)
    kept[order] = np.maximum(np.diff(np.minimum(np.cumsum(T.ravel()[order]), mass), prepend=0.0), 0)
    return kept.reshape(T.shape)


def run(full: bool) -> dict[str, Any]:
    """One record for each pair and method."""
    rows = []
    for data, z, mass in pairs(full):
        setting = SETTINGS[data]
        z = z.but(alpha=setting["alpha"])
        todo = methods(z, mass, setting["rho"])
        done = interleaved({name: call for name, (_, call) in todo.items()}, repeats=3, budget=10)
        for name, out in done.items():
            if "error" in out:
                rows.append({"data": data, "pair": z.name, "method": name, "error": out["error"]})
                continue
            row = {"data": data, "pair": z.name, "method": name, "seconds": out["seconds"]}
            rows.append(row | _scores(z, todo[name][0], np.asarray(out["plan"])))
        kept = cheapest(np.asarray(done["KOT, exact"]["plan"]), z.M, mass)
        control = {"data": data, "pair": z.name, "method": "KOT, exact, cheapest kept (control)", "seconds": None}
        rows.append(control | _scores(z, z.linear().but(m=mass), kept))
    for r in means(rows):
        print(
            f"{r['data']:10s} {r['method']:36s} {1e3 * (r['seconds'] or 0):8.2f} ms  agreement {r['agreement']:.3f}  "
            f"violation {r['violation']:.0e}"
        )
    return {"rows": rows, "means": means(rows)}


def _scores(z: Problem, own: Problem, T: np.ndarray) -> dict[str, float]:
    found = judge(own, T)
    cost = float(np.sum(z.M * T) / T.sum()) if T.sum() > 0 else float("nan")
    fused = judge(z, T)["value"] / max(found["mass"], 1e-300) if np.isfinite(found["value"]) else float("nan")
    return found | {"cost": cost, "fused": fused, "agreement": agreement(z, T)}


def means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over the pairs of a data set (times: medians)."""
    out = []
    for data in dict.fromkeys(r["data"] for r in rows):
        for name in dict.fromkeys(r["method"] for r in rows):
            some = [r for r in rows if r["data"] == data and r["method"] == name and "error" not in r]
            if not some:
                continue
            row: dict[str, Any] = {"data": data, "method": name, "pairs": len(some)}
            timed = [r["seconds"] for r in some if r["seconds"] is not None]
            row["seconds"] = float(np.median(timed)) if timed else None
            keys = ("value", "mass", "cost", "fused", "agreement")
            out.append(
                row | {k: float(np.mean([r[k] for r in some])) for k in keys} | {"violation": max(r["violation"] for r in some)}
            )
    return out
