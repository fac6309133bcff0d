"""Scores of an embedding, or of the input features: alignment of pairs, key-steps, order. Labels are read here."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from data import Recording
from model import effective_rank, spread
from plans import FAMILIES, Batch, Family, dtw, solve_plans, with_mass

from fpgwot.keystep_metrics import keystep_scores, order_accuracy, uniform_chunks
from fpgwot.keysteps import cluster_count, find_keysteps, unmatched_share
from fpgwot.metrics import keep_cheapest, matching_scores, neighbour_agreement, no_partner_auc
from fpgwot.step_order import confirmed_mass, precedence, rank

MOST_PAIRS = 40  # scored pairs, a random choice (the same for every method) where there are more
PROBE = FAMILIES["partial FGW"]  # one and the same plan on every embedding, so that precisions are at equal mass
CURVES = ("partial KOT", "partial FGW", "partial FGW, segments")
MASSES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass
class Scored:
    """What is scored: the recordings, each with as many frames, and the pairs of them."""

    recordings: list[Recording]
    pairs: list[tuple[int, int]]
    steps: int
    background: bool

    @property
    def features(self) -> np.ndarray:
        """(recordings, frames, d)."""
        return np.stack([r.features for r in self.recordings])

    @property
    def inputs(self) -> np.ndarray:
        """What the embedder sees: the features, or images (recordings, frames, channels, height, width)."""
        return np.stack([r.inputs for r in self.recordings])

    @property
    def clusters(self) -> int:
        """K, by the rule of `fpgwot.keysteps`."""
        return cluster_count(self.steps, self.background)


def scored(recordings: list[Recording], frames: int, steps: int = 0, background: bool | None = None) -> Scored:
    """Recordings of group 1 (all, where there is one group only), resampled, and pairs of them."""
    group = [r for r in recordings if r.group == 1] or recordings
    pairs = list(combinations(range(len(group)), 2))
    if len(pairs) > MOST_PAIRS:
        pairs = [pairs[k] for k in np.sort(np.random.default_rng(0).choice(len(pairs), MOST_PAIRS, replace=False))]
    labels = np.unique(np.concatenate([r.steps for r in group]))
    has_background = bool((labels == 0).any()) if background is None else background
    return Scored([r.resampled(frames) for r in group], pairs, steps or int((labels != 0).sum()), has_background)


def evaluate(Z: np.ndarray, on: Scored, metric: str, family: Family | None = None, seed: int = 0) -> dict[str, float]:
    """All scores of embedded recordings Z (recordings, frames, dim); `family` adds those of its own plan."""
    batch = Batch.of(Z, on.pairs, metric)
    M, plans = batch.M, solve_plans(batch, PROBE)
    out = {f"probe {k}": v for k, v in pair_scores(plans, M, on).items()}
    out["neighbours"] = float(np.mean([neighbour_agreement(c, *labels(on, p)) for c, p in zip(M, on.pairs, strict=True)]))
    if family is not None:
        out |= {f"own {k}": v for k, v in pair_scores(solve_plans(batch, family), M, on).items()}
    by_pair = dict(zip(on.pairs, plans, strict=True))
    out |= keystep_results(Z, on, by_pair, seed)
    flat = Z.reshape(-1, Z.shape[2])
    out |= {"rank": effective_rank(flat), "spread": spread(flat)}
    return out


def labels(on: Scored, pair: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """True steps of both recordings."""
    return on.recordings[pair[0]].steps, on.recordings[pair[1]].steps


def pair_scores(plans: np.ndarray, M: np.ndarray, on: Scored) -> dict[str, float]:
    """Means over the scored pairs: precision, recall, F, mass, and both AUCs of "no partner"."""
    rows = []
    for T, c, pair in zip(plans, M, on.pairs, strict=True):
        s, a = matching_scores(T, labels(on, pair)), no_partner_auc(T, c, labels(on, pair))
        rows.append((s.precision, s.recall, s.f1, s.mass, a.unmatched, a.cost))
    with np.errstate(invalid="ignore"):
        return dict(zip(("P", "R", "F", "mass", "AUC unmatched", "AUC cost"), mean_of_known(np.array(rows)), strict=True))


def mean_of_known(rows: np.ndarray) -> list[float]:
    """Mean of each column over the entries that are not NaN; NaN where there are none."""
    return [float(c[~np.isnan(c)].mean()) if (~np.isnan(c)).any() else float("nan") for c in rows.T]


def keystep_results(Z: np.ndarray, on: Scored, plans: dict[tuple[int, int], np.ndarray], seed: int) -> dict[str, float]:
    """Scores of the key-steps."""
    truth = [r.steps for r in on.recordings]
    found = {d: find_keysteps(list(Z), on.clusters, decoder=d, random_state=seed) for d in ("nearest", "cut", "transport")}
    out = {}
    for name, keysteps in found.items():
        s = keystep_scores(keysteps.labels, truth)
        out |= {f"joint F1 ({name})": s.f1, f"joint IoU ({name})": s.iou}
    cut = found["cut"]
    matching = keystep_scores(cut.labels, truth).matching
    out["order by time"] = order_accuracy(cut.order, truth, matching)
    voted = rank(precedence(cut.labels, on.clusters, confirmed_mass(cut.labels, plans)))
    out["order by plans"] = order_accuracy(voted, truth, matching)
    own = [find_keysteps([z], min(on.clusters, len(z)), random_state=seed).labels[0] for z in Z]
    out["EgoProceL F1"] = keystep_scores(own, truth, protocol="egoprocel", n_clusters=on.clusters).f1
    if on.background:  # the alternative to more clusters: half of the frames, those that partners leave unmatched, are dropped
        share = unmatched_share(plans, [len(z) for z in Z])
        known = [np.where(np.isnan(s), np.nanmean(np.concatenate(share)), s) for s in share]
        dropped = find_keysteps(list(Z), on.steps, unmatched=known, drop=0.5, random_state=seed)
        out["joint F1 (half dropped)"] = keystep_scores(dropped.labels, truth).f1
    return out


def controls(on: Scored) -> dict[str, dict[str, float]]:
    """Rows that no training went into: they show what a score is worth."""
    truth, lengths = [r.steps for r in on.recordings], [len(r.steps) for r in on.recordings]
    out: dict[str, dict[str, float]] = {}
    for name, k in (("uniform chunks", on.clusters), ("one cluster", 1)):
        guess = uniform_chunks(lengths, k)
        s = keystep_scores(guess, truth)
        row = {"joint F1 (cut)": s.f1, "joint IoU (cut)": s.iou, "order by time": order_accuracy(range(k), truth, s.matching)}
        row["EgoProceL F1"] = keystep_scores(guess, truth, protocol="egoprocel", n_clusters=on.clusters).f1
        row["EgoProceL F1, empty dropped"] = keystep_scores(guess, truth, protocol="egoprocel").f1
        out[name] = row
    batch = Batch.of(on.features, on.pairs, "euclidean")
    M = batch.M
    out["raw features"] = evaluate(on.features, on, "euclidean", FAMILIES["KOT"])
    out["DTW (raw features)"] = {f"own {k}": v for k, v in pair_scores(np.stack([dtw(c) for c in M]), M, on).items()}
    thinned = solve_plans(batch, FAMILIES["KOT thresholded"])
    out["KOT thresholded (raw features)"] = {f"own {k}": v for k, v in pair_scores(thinned, M, on).items()}
    return out


def curves(Z: np.ndarray, on: Scored, metric: str) -> dict[str, np.ndarray]:
    """Precision at each of MASSES, mean over pairs: partial FGW and partial KOT solved at each, the balanced plan thinned."""
    batch = Batch.of(Z, on.pairs, metric)
    full = solve_plans(batch, FAMILIES["KOT"])

    def precision(plans: Any) -> float:
        return float(np.mean([matching_scores(T, labels(on, p)).precision for T, p in zip(plans, on.pairs, strict=True)]))

    thinned = [precision([keep_cheapest(T, c, m) for T, c in zip(full, batch.M, strict=True)]) for m in MASSES]
    solved = {name: [precision(solve_plans(batch, with_mass(FAMILIES[name], m))) for m in MASSES] for name in CURVES}
    return {name: np.array(v) for name, v in {"KOT, cheapest kept": thinned, **solved}.items()}
