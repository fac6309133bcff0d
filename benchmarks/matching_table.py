"""Matching of simulated procedures: KOT, FGW, partial FGW and R-FPGWOT, and a balanced plan with its cheapest mass kept.

    python benchmarks/matching_table.py [--out FOLDER] [--length 100] [--seeds 20] [--choice-seeds 10]

Each seed is one pair of recordings from `fpgwot.datasets.make_procedures` with the statistics of web videos (background .57,
repeats .39, order agreement .88). Cost: Euclidean distance of features; structure: temporal Laplace kernel; normalize="mean", so
reg, alpha and rho are in units of the mean cost. Each method has one setting for all seeds: the best mean F1 on other seeds
than those reported. The control "KOT, cheapest true mass kept" takes the balanced plan of KOT and keeps its cheapest entries.
The grid of reg was extended downwards once, after a first run on the same 20 seeds with reg .02 and .05 for the methods with
structure (its choice lay on the edge; there partial FGW had F1 .316, R-FPGWOT .334, the control .330, as it has now).
`m="auto"` and `fpgwot.nulls.null_price` choose the mass from the pair alone.
Scores: `fpgwot.metrics.matching_scores` against `Procedures.correspondence`, and against step labels alone.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import json
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fpgwot
from fpgwot import presets, temporal
from fpgwot.datasets import STATISTICS, make_procedures
from fpgwot.metrics import matching_scores
from fpgwot.nulls import null_price

FIRST_CHOICE_SEED = 1000  # the settings are chosen on seeds from here on, the table is made of seeds 0, 1, ...
WEB: dict[str, Any] = dict(STATISTICS["web"])
REG, ALPHA, SCALE, RHO = (0.005, 0.01, 0.02, 0.05), (0.1, 0.2, 0.3), (0.05,), (0.1, 0.3)
TOL = 1e-5  # L1 distance of a plan from its fixed point, relative to its mass: far below what the scores can see


class Pair(NamedTuple):
    """One problem and its truth."""

    M: np.ndarray
    correct: np.ndarray
    labels: tuple[np.ndarray, np.ndarray]
    mass: float


def pair(seed: int, length: int) -> Pair:
    data = make_procedures(2, length=length, random_state=seed, **WEB)
    X, Y = data.sequences
    M = np.sqrt(np.maximum((X**2).sum(1)[:, None] + (Y**2).sum(1) - 2 * X @ Y.T, 0))
    return Pair(M, data.correspondence(0, 1), (data.labels[0], data.labels[1]), data.true_mass(0, 1))


def cheapest(T: np.ndarray, M: np.ndarray, m: float) -> np.ndarray:
    """The entries of the plan in order of cost up to mass m, the last one in part."""
    order = np.argsort(M, axis=None, kind="stable")
    kept = np.diff(np.minimum(np.cumsum(T.ravel()[order]), m), prepend=0.0)
    out = np.zeros(T.size)
    out[order] = np.maximum(kept, 0)
    return out.reshape(T.shape)


def structured(z: Pair, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return z.M, temporal.laplace_structure(z.M.shape[0], scale), temporal.laplace_structure(z.M.shape[1], scale)


def solved(*args: Any, **keywords: Any) -> tuple[np.ndarray, bool]:
    result = fpgwot.solve(*args, on_fail="ignore", tol=TOL, **keywords)
    return result.plan, result.converged


def kot(z: Pair, reg: float) -> tuple[np.ndarray, bool]:
    return solved(z.M, normalize="mean", **presets.kot(reg))


def kot_kept(z: Pair, reg: float) -> tuple[np.ndarray, bool]:
    T, done = kot(z, reg)
    return cheapest(T, z.M, z.mass), done


def fgw(z: Pair, reg: float, alpha: float, scale: float) -> tuple[np.ndarray, bool]:
    return solved(*structured(z, scale), normalize="mean", **presets.fgw(alpha, reg))


def fpgw(z: Pair, reg: float, alpha: float, scale: float) -> tuple[np.ndarray, bool]:
    return solved(*structured(z, scale), normalize="mean", **presets.fpgw(z.mass, alpha, reg))


def r_fpgw(z: Pair, reg: float, alpha: float, scale: float, rho: float) -> tuple[np.ndarray, bool]:
    return solved(*structured(z, scale), **presets.r_fpgw(z.mass, alpha=alpha, reg=reg, rho=rho, shape=z.M.shape))


def r_fpgw_auto(z: Pair, reg: float, alpha: float, scale: float, rho: float) -> tuple[np.ndarray, bool]:
    return solved(*structured(z, scale), **presets.r_fpgw("auto", alpha=alpha, reg=reg, rho=rho, shape=z.M.shape))


def r_fpgw_null(z: Pair, reg: float, alpha: float, scale: float, rho: float) -> tuple[np.ndarray, bool]:
    options = presets.r_fpgw("auto", alpha=alpha, reg=reg, rho=rho, shape=z.M.shape)
    same = {k: v for k, v in options.items() if k != "m"}
    arrays = structured(z, scale)
    return solved(*arrays, **same, sink=null_price(*arrays, **same, random_state=0))


Method = Callable[..., tuple[np.ndarray, bool]]
KOT_REG = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
METHODS: dict[str, tuple[Method, dict[str, tuple[float, ...]]]] = {
    "KOT": (kot, {"reg": KOT_REG}),
    "KOT, cheapest true mass kept (control)": (kot_kept, {"reg": KOT_REG}),
    "FGW": (fgw, {"reg": REG, "alpha": ALPHA, "scale": SCALE}),
    "partial FGW, true mass": (fpgw, {"reg": REG, "alpha": ALPHA, "scale": SCALE}),
    "R-FPGWOT, true mass": (r_fpgw, {"reg": REG, "alpha": ALPHA, "scale": SCALE, "rho": RHO}),
    'R-FPGWOT, m="auto"': (r_fpgw_auto, {}),
    "R-FPGWOT, null price": (r_fpgw_null, {}),
}
# the mass alone differs
SAME_SETTING = {'R-FPGWOT, m="auto"': "R-FPGWOT, true mass", "R-FPGWOT, null price": "R-FPGWOT, true mass"}


def settings(grid: dict[str, tuple[float, ...]]) -> Iterator[dict[str, float]]:
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def scores(method: Method, pairs: list[Pair], setting: dict[str, float]) -> dict[str, list[float]]:
    rows = []
    for z in pairs:
        T, done = method(z, **setting)
        frame, step = matching_scores(T, z.correct), matching_scores(T, z.labels)
        rows.append(
            {
                "f1": frame.f1, "precision": frame.precision, "recall": frame.recall, "mass": frame.mass,
                "f1_steps": step.f1, "converged": float(done),
            }
        )  # fmt: skip
    return {k: [r[k] for r in rows] for k in rows[0]}


def has_auto_mass() -> bool:
    M = np.array([[0.0, 1.0], [1.0, 0.0]])
    try:
        fpgwot.solve(M, m="auto", reg=0.1, on_fail="ignore")
    except (NotImplementedError, ValueError):
        return False
    return True


def run(length: int, n_seeds: int, n_choice: int) -> dict[str, Any]:
    chosen_on = [pair(FIRST_CHOICE_SEED + s, length) for s in range(n_choice)]
    reported = [pair(s, length) for s in range(n_seeds)]
    missing = [] if has_auto_mass() else list(SAME_SETTING)
    out: dict[str, Any] = {"methods": {}, "missing": missing}
    for name, (method, grid) in METHODS.items():
        if name in missing:
            continue
        start = time.perf_counter()
        if name in SAME_SETTING:
            best, searched = out["methods"][SAME_SETTING[name]]["setting"], 0
        else:
            trials = [(float(np.mean(scores(method, chosen_on, s)["f1"])), s) for s in settings(grid)]
            best, searched = max(trials, key=lambda t: t[0])[1], len(trials)
        cells = scores(method, reported, best)
        out["methods"][name] = {"setting": best, "searched": searched, "scores": cells, "seconds": time.perf_counter() - start}
    mass = [z.mass for z in reported]
    sides = [(z.correct.any(1).mean(), z.correct.any(0).mean()) for z in reported]
    recall = [np.mean([m / s for s in side]) for m, side in zip(mass, sides, strict=True)]
    out["truth"] = {
        "mass": mass,
        "partner_share": [float(np.mean(s)) for s in sides],
        "f1_of_a_perfect_plan_of_true_mass": [float(2 * r / (1 + r)) for r in recall],
        "background": float(np.mean([np.mean(x == 0) for z in reported for x in z.labels])),
    }
    out["set-up"] = {
        "length": length,
        "statistics": WEB,
        "noise": inspect.signature(make_procedures).parameters["noise"].default,
        "seeds": [0, n_seeds - 1],
        "choice_seeds": [FIRST_CHOICE_SEED, FIRST_CHOICE_SEED + n_choice - 1],
        "grids": {"reg": REG, "reg of KOT": KOT_REG, "alpha": ALPHA, "scale": SCALE, "rho": RHO},
        "version": fpgwot.__version__,
        "python": platform.python_version(),
    }
    return out


def table(out: dict[str, Any]) -> str:
    setup, truth, done = out["set-up"], out["truth"], out["methods"]
    control = np.array(done["KOT, cheapest true mass kept (control)"]["scores"]["f1"])
    first, last = setup["seeds"]
    lines = [
        "# Matching of simulated procedures",
        "",
        f"{last - first + 1} pairs (seeds {first}-{last}) of {setup['length']} frames: background .57, repeats .39, order "
        f"agreement .88, noise {setup['noise']}. Mean ± sd over seeds. Settings: best mean F1 on seeds "
        f"{setup['choice_seeds'][0]}-{setup['choice_seeds'][1]}, one for all seeds; in units of the mean cost.",
        "",
        f"Realised: background {truth['background']:.2f}; {np.mean(truth['partner_share']):.2f} of the frames have a partner; "
        f"true mass {np.mean(truth['mass']):.2f} ± {np.std(truth['mass'], ddof=1):.2f}. A perfect plan of the true mass has F1 "
        f"{np.mean(truth['f1_of_a_perfect_plan_of_true_mass']):.2f}: steps of unequal length cannot be matched in full.",
        "",
        "The searches are of unequal size (column `tried`), and the grid of reg was extended downwards once, after a first run "
        "on the same seeds (see the script): read differences to the control of about two standard errors with that in mind.",
        "",
        "| method | F1 | F1 minus control (wins) | precision | recall | mass | F1 of step labels | setting (tried) | converged |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in done.items():
        s = {k: np.array(v) for k, v in row["scores"].items()}
        cell = {k: f"{v.mean():.3f} ± {v.std(ddof=1):.3f}" for k, v in s.items()}
        gain = s["f1"] - control
        setting = ", ".join(f"{k} {v:g}" for k, v in row["setting"].items())
        searched = row["searched"] or "as above"
        against = "-" if name.endswith("(control)") else f"{gain.mean():+.3f} ± {gain.std(ddof=1):.3f} ({int((gain > 0).sum())})"
        lines.append(
            f"| {name} | {cell['f1']} | {against} | {cell['precision']} | {cell['recall']} | {s['mass'].mean():.2f} | "
            f"{cell['f1_steps']} | {setting} ({searched}) | {int(s['converged'].sum())}/{len(gain)} |"
        )
    lines += [f'| {name} | this version has no m="auto" | | | | | | | |' for name in out["missing"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--length", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--choice-seeds", type=int, default=10)
    args = parser.parse_args()
    out = run(args.length, args.seeds, args.choice_seeds)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "matching_table.json").write_text(json.dumps(out, indent=1) + "\n")
    text = table(out)
    (args.out / "matching_table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
