"""Alignment of recordings without training: every family with the same number of settings, tuned on other recordings.

    python benchmarks/alignment_table.py [--openpack PATH] [--only mocap6 ...] [--out benchmarks/results]

For each data set every setting of every family is run on the same pairs (64 frames a recording). A family is scored on a pair
with the setting that has the best mean F on pairs of *other* recordings: mocap6 by all 20 splits of the six recordings into
halves, the others by two groups of recordings, both ways. Without search, one setting for everything: "rule", with the order test
of examples/procedure_learning/plans.py, and the rows m="auto" and "null price" (`fpgwot.nulls`). Results of a (data set, setting)
are appended to a log and not run again, so the script can be stopped and extended.

The grids were fixed on simulated recordings of other seeds (1000 and up), on mocap6 with other background (seeds 100 and up; the
same six routines) and on OpenPack's first worker, before this table was made. Plans took at most 60 outer iterations.
The whole table takes about eight minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "procedure_learning"))
from data import Recording, load
from plans import FAMILIES, SEGMENTS, Batch, Family, dtw, for_fixed_order, order_is_fixed, solve_plans

from fpgwot.metrics import matching_scores, no_partner_auc

FRAMES = 64
NAMES = ("P", "R", "F", "mass", "AUC unmatched", "AUC cost")
MASSES, BELOW, PRICES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7), (0.55, 0.6, 0.65, 0.7, 0.75, 0.85), (0.7, 0.8, 0.9, 1.0, 1.1, 1.3)
RULE = replace(SEGMENTS, price=0.8)


def families() -> dict[str, list[Family]]:
    """The settings of each family: twelve where there is that much to set."""

    def grid(base: Family, **values: tuple[Any, ...]) -> list[Family]:
        return [replace(base, **dict(zip(values, v, strict=True))) for v in product(*values.values())]

    kot, fine = Family(), Family(reg=0.01)
    regs, rhos = (0.005, 0.01, 0.02, 0.05), (0.0, 0.3, 1.0)
    return {
        "KOT": grid(kot, reg=(0.002, *regs, 0.1)),
        "KOT, with or without prior": grid(kot, reg=regs, rho=rhos),
        "FGW, with or without prior": grid(kot, alpha=(0.1, 0.3), reg=(0.02, 0.05), rho=rhos),
        "KOT, cheapest kept (control)": grid(fine, keep=MASSES, rho=(0.0, 1.0)),
        "KOT, below a price kept (control)": grid(fine, keep_below=BELOW, rho=(0.0, 1.0)),
        "partial KOT": grid(fine, m=MASSES, rho=(0.0, 1.0)),
        "partial KOT, price": grid(fine, price=PRICES, rho=(0.0, 1.0)),
        "partial FGW": grid(kot, alpha=(0.1, 0.3), reg=(0.02, 0.05), m=(0.3, 0.5, 0.7)),
        "R-FPGWOT": grid(kot, alpha=(0.1, 0.3), rho=(0.3, 1.0), m=(0.3, 0.5, 0.7)),
        "partial FGW, segments, mass": grid(SEGMENTS, m=MASSES, rho=(0.0, 1.0)),
        "partial FGW, segments, price": grid(SEGMENTS, price=PRICES, rho=(0.0, 1.0)),
    }


@dataclass
class Set:
    """Recordings, the pairs of them that are run, and (tuning pairs, scored pairs) of each split."""

    recordings: list[Recording]
    pairs: list[tuple[int, int]]
    splits: list[tuple[list[int], list[int]]]


def data_set(name: str, openpack: Path | None) -> Set:
    """By name; `simulator .57`, `.2`, `0` are two draws of 16 recordings each."""
    if name.startswith("mocap6"):
        parts = [load("mocap6")] if name == "mocap6" else [load("mocap6bg", seed=s) for s in (0, 1)]
        recordings, pairs, origin = [r for part in parts for r in part], [], []
        for k, part in enumerate(parts):
            pairs += [(i + 6 * k, j + 6 * k) for i, j in combinations(range(len(part)), 2)]
        origin = [{i % 6, j % 6} for i, j in pairs]
        splits = []
        for half in combinations(range(6), 3):
            tune = [p for p, o in enumerate(origin) if o <= set(half)]
            splits.append((tune, [p for p, o in enumerate(origin) if not o & set(half)]))
        return Set(recordings, pairs, splits)
    rng = np.random.default_rng(0)
    if name == "openpack":
        parts, count = [load("openpack", openpack)], 16
    else:
        share, count = float(name.split()[1]), 8
        parts = [load("simulator", seed=s, n=16, **({} if share == 0.57 else {"background": share})) for s in (0, 1)]
    recordings, pairs, kind = [], [], []
    for part in parts:
        group, shift = np.array([r.group for r in part]), len(recordings)
        for a, b in ((0, 0), (1, 1), (0, 1)):
            every = [(i, j) for i, j in combinations(range(len(part)), 2) if sorted((group[i], group[j])) == [a, b]]
            for p in rng.choice(len(every), min(count, len(every)), replace=False):
                pairs.append((every[p][0] + shift, every[p][1] + shift))
                kind.append((a, b))
        recordings += part
    splits = [([p for p, q in enumerate(kind) if q == t], [p for p, q in enumerate(kind) if q != t]) for t in ((0, 0), (1, 1))]
    return Set(recordings, pairs, splits)


def scores(plans: np.ndarray, batch: Batch, on: Set, steps: list[np.ndarray]) -> np.ndarray:
    """(pairs, NAMES)."""
    rows = []
    for T, M, (i, j) in zip(plans, batch.M, on.pairs, strict=True):
        s, a = matching_scores(T, (steps[i], steps[j])), no_partner_auc(T, M, (steps[i], steps[j]))
        rows.append((s.precision, s.recall, s.f1, s.mass, a.unmatched, a.cost))
    return np.array(rows)


def changed(setting: Family) -> dict[str, Any]:
    """What a setting sets: the key of its results, which other fields may join later."""
    return {k: v for k, v in asdict(setting).items() if v != getattr(Family(), k)}


def run(name: str, on: Set, done: dict[str, Any], log: Path) -> tuple[dict[str, np.ndarray], bool]:
    """Scores of every setting, from the log where they are known; and what the order test says."""
    resampled = [r.resampled(FRAMES) for r in on.recordings]
    batch, steps = Batch.of(np.stack([r.features for r in resampled]), on.pairs, "euclidean"), [r.steps for r in resampled]
    fixed = order_is_fixed(Batch.of(np.stack([r.features for r in resampled]), on.pairs[:40], "euclidean"))
    wanted: dict[str, Any] = {
        "nearest neighbour": None, "DTW": None, "rule": for_fixed_order(RULE) if fixed else RULE,
        'R-FPGWOT, m="auto"': Family(alpha=0.1, rho=0.3, m="auto"), "OPEL, published": FAMILIES["OPEL, published"],
        "R-FPGWOT, null price": Family(alpha=0.1, rho=0.3, price="null"),
        "partial FGW, segments, null price": replace(SEGMENTS, price="null"),
    }  # fmt: skip
    wanted |= {f"{family}|{k}": setting for family, grid in families().items() for k, setting in enumerate(grid)}
    out = {}
    for label, setting in wanted.items():
        key = json.dumps([name, label, {} if setting is None else changed(setting)])
        if key not in done:
            if label == "nearest neighbour":
                plans = np.eye(FRAMES)[batch.M.argmin(2)] / FRAMES
            elif label == "DTW":
                plans = np.stack([dtw(M) for M in batch.M])
            else:
                plans = solve_plans(batch, setting)
            done[key] = scores(plans, batch, on, steps).round(5).tolist()
            with log.open("a") as lines:
                lines.write(json.dumps({"key": key, "scores": done[key]}) + "\n")
        out[label] = np.array(done[key], dtype=float)
    return out, fixed


def held_out(results: dict[str, np.ndarray], on: Set) -> tuple[dict[str, np.ndarray], dict[str, list[int]]]:
    """Scores (pairs, NAMES) of each family with settings tuned on other recordings, and the settings chosen."""
    table, chosen = {}, {}
    for family, grid in families().items():
        every = np.stack([results[f"{family}|{k}"] for k in range(len(grid))])  # (settings, pairs, names)
        total, count, picks = np.zeros(every.shape[1:]), np.zeros(every.shape[1:]), []
        for tune, test in on.splits:
            best = int(np.nanargmax(np.nanmean(every[:, tune, 2], axis=1)))
            picks.append(best)
            known = ~np.isnan(every[best, test])
            total[test] += np.where(known, every[best, test], 0)
            count[test] += known
        with np.errstate(invalid="ignore"):
            table[family], chosen[family] = total / count, picks
    for label in results:
        if "|" not in label:
            table[label] = results[label]
    return table, chosen


def difference(a: np.ndarray, b: np.ndarray, pairs: list[tuple[int, int]]) -> tuple[float, float, float]:
    """Mean difference over pairs, and its standard error: by the jackknife over recordings, and as if pairs were independent."""
    d = a - b
    known = ~np.isnan(d)
    used = sorted({r for p, k in zip(pairs, known, strict=True) if k for r in p})
    without = np.array([d[[k and r not in p for p, k in zip(pairs, known, strict=True)]].mean() for r in used])
    error = np.sqrt((len(used) - 1) * np.mean((without - without.mean()) ** 2))
    return float(d[known].mean()), float(error), float(d[known].std(ddof=1) / np.sqrt(known.sum()))


SETS = ("mocap6", "mocap6bg", "simulator 0", "simulator 0.2", "simulator 0.57", "openpack")
SHOWN = "partial FGW, segments, price"
CONTROLS = ("KOT, with or without prior", "KOT, cheapest kept (control)", "KOT, below a price kept (control)", "partial KOT")


def main() -> None:
    """Run what is missing, write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--openpack", type=Path)
    parser.add_argument("--only", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--log", type=Path, default=Path("out/alignment_runs.jsonl"))
    parser.add_argument("--run-only", action="store_true", help="fill the log, write no table: several of these can run at once")
    args = parser.parse_args()
    args.log.parent.mkdir(parents=True, exist_ok=True)
    log = args.log
    done = {}
    if log.exists():
        done = {row["key"]: row["scores"] for row in map(json.loads, log.read_text().splitlines())}
    report: dict[str, Any] = {}
    for name in args.only:
        if name == "openpack" and args.openpack is None:
            continue
        on = data_set(name, args.openpack)
        results, fixed = run(name, on, done, log)
        report[name] = summary(on, *held_out(results, on), fixed)
        print(name, "order fixed:", fixed, {k: round(v["F"], 3) for k, v in report[name]["families"].items()}, flush=True)
    if args.run_only:
        return
    (args.out / "alignment_table.json").write_text(json.dumps(report, indent=1) + "\n")
    (args.out / "alignment_table.md").write_text(text(report))


def summary(on: Set, table: dict[str, np.ndarray], chosen: dict[str, list[int]], fixed: bool) -> dict[str, Any]:
    """Means, errors and paired differences of one data set."""
    rows: dict[str, Any] = {}
    for family, values in table.items():
        row: dict[str, Any] = {
            n: float(np.nanmean(values[:, k])) for k, n in enumerate(NAMES) if not np.isnan(values[:, k]).all()
        }
        row["F error"] = difference(values[:, 2], np.zeros(len(values)), on.pairs)[1]
        row["against"] = {c: difference(values[:, 2], table[c][:, 2], on.pairs) for c in CONTROLS}
        row["settings"] = chosen.get(family, [])
        rows[family] = row
    alone = []
    for i, j in on.pairs:
        a, b = on.recordings[i].steps, on.recordings[j].steps
        alone.append(1 - (np.isin(a, b[b > 0]).mean() + np.isin(b, a[a > 0]).mean()) / 2)
    return {"families": rows, "pairs": len(on.pairs), "without partner": float(np.mean(alone)), "order fixed": bool(fixed)}


def text(report: dict[str, Any]) -> str:
    """The table in Markdown."""
    names = list(report)
    first = report[names[0]]["families"]

    def cells(get: Any) -> list[str]:
        return [f"| {family} | " + " | ".join(get(report[n]["families"][family]) for n in names) + " |" for family in first]

    head = ["| | " + " | ".join(names) + " |", "| --- " * (len(names) + 1) + "|"]
    lines = [
        "# Alignment without training, held-out pairs, equal search",
        "",
        *[x.strip() for x in (__doc__ or "").split("\n")[4:]],
    ]
    lines += ["P / F of matched mass, ± standard error of F (jackknife over recordings).", "", *head]
    lines += cells(lambda r: f"{r['P']:.2f} / {r['F']:.3f} ± {r['F error']:.3f}")
    share = " | ".join(f"{report[n]['without partner']:.2f}" for n in names)
    test = " | ".join("fixed" if report[n]["order fixed"] else "varies" for n in names)
    lines += [f"| *frames without partner* | {share} |", f"| *order, by the test* | {test} |"]
    for control in CONTROLS:
        lines += [
            "",
            f"Difference in F to **{control}**, mean ± standard error over recordings (over pairs, which share recordings):",
            "",
            *head,
        ]
        lines += cells(lambda r, c=control: f"{r['against'][c][0]:+.3f} ± {r['against'][c][1]:.3f} ({r['against'][c][2]:.3f})")
    lines += ["", 'AUC of "no partner", by unmatched mass / by expected cost:', "", *head]
    lines += cells(lambda r: f"{r['AUC unmatched']:.2f} / {r['AUC cost']:.2f}" if "AUC cost" in r else ".")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
