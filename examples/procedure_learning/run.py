"""Procedure learning from unlabelled recordings of one task: embeddings, alignments, key-steps and their order.

    python examples/procedure_learning/run.py [--data mocap6] [--family "partial FGW"] [--out FOLDER] ...

Writes config.json, metrics.json, keysteps.json (labels and order), embeddings.npz, checkpoint.pt and pictures; prints a table.
docs/procedure_learning.md says what to expect.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pictures
from config import Config, parse
from data import NAMES, load
from evaluate import PROBE, controls, curves, evaluate, scored
from plans import Batch, solve_plans
from train import embed, settings_of, train

from fpgwot.keystep_metrics import keystep_scores
from fpgwot.keysteps import find_keysteps
from fpgwot.step_order import confirmed_mass, precedence, rank

COLUMNS = ("probe P", "probe R", "own P", "own mass", "neighbours", "probe AUC unmatched", "joint F1 (cut)", "joint IoU (cut)")
COLUMNS += ("EgoProceL F1", "order by time", "rank")


def main(config: Config) -> dict[str, dict[str, float]]:
    """Train, score, draw."""
    began = time.perf_counter()
    if config.data not in NAMES:
        raise SystemExit(f"unknown data {config.data!r}; choose one of {NAMES}")
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    config.save(folder / "config.json")
    recordings = load(config.data, Path(config.path) if config.path else None, config.seed)
    has_labels = any(r.steps.any() for r in recordings)
    if not (has_labels or config.steps):
        raise SystemExit("the recordings have no labels: say how many key-steps the task has, --steps N")
    learnt_from = [r for r in recordings if r.group == 0]
    trained = train(learnt_from, config, folder=folder)

    background = None if config.background == "auto" else config.background == "yes"
    on = scored(recordings, config.frames, config.steps, background)
    Z = embed(trained.model, on.inputs)
    plans = dict(zip(on.pairs, solve_plans(Batch.of(Z, on.pairs, "cosine"), PROBE), strict=True))
    np.savez(folder / "embeddings.npz", **{r.name: z for r, z in zip(on.recordings, Z, strict=True)})
    found = find_keysteps(list(Z), on.clusters, random_state=config.seed)
    order = rank(precedence(found.labels, on.clusters, confirmed_mass(found.labels, plans)))
    labels = {r.name: x.tolist() for r, x in zip(on.recordings, found.labels, strict=True)}
    (folder / "keysteps.json").write_text(json.dumps({"order by time": found.order, "order by plans": order, "labels": labels}))
    pictures.history(trained.history, folder / "training.png")
    rows: dict[str, dict[str, float]] = {}
    if has_labels:
        rows = controls(on)
        rows[f"trained, {config.family}"] = evaluate(Z, on, "cosine", trained.family, config.seed)
        table(rows)
        palette = pictures.colours(max(int(r.steps.max()) for r in on.recordings))
        matching = keystep_scores(found.labels, [r.steps for r in on.recordings]).matching
        pictures.plan_maps(on.features, Z, on, palette, folder / "plans.png")
        pictures.over_time(Z, on, palette, folder / "embeddings.png")
        pictures.bars(found.labels, matching, on, palette, folder / "keysteps.png")
        pictures.mass_curves(curves(on.features, on, "euclidean"), curves(Z, on, "cosine"), folder / "masses.png")
    seconds = {**trained.seconds, "everything": time.perf_counter() - began}
    report = {"rows": rows, "plan": settings_of(trained.family), "seconds": seconds, "collapsed": trained.collapsed}
    (folder / "metrics.json").write_text(json.dumps(report, indent=1) + "\n")
    print(
        f"solver {seconds['solve']:.1f} s of {seconds['all']:.1f} s training, {seconds['everything']:.0f} s in all; see {folder}/"
    )
    return rows


def table(rows: dict[str, dict[str, float]]) -> None:
    """One line a row; a dot where a score does not apply."""
    print(f"{'':32}" + "".join(f"{name.replace('joint ', ''):>21}"[-13:] for name in COLUMNS))
    for name, row in rows.items():
        print(f"{name:32}" + "".join(f"{row[c]:13.2f}" if c in row and np.isfinite(row[c]) else f"{'.':>13}" for c in COLUMNS))


if __name__ == "__main__":
    main(parse())
