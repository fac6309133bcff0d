"""Finds the same neurons in the brains of two worms of different age, from their wiring and a coarse cell type.

    python examples/celegans.py [--first 1] [--second 8] [--starts 32]

Features: how strongly a cell is connected to and from each cell type. Structure: who has a synapse onto whom, yes or no; counts
do not compare, since the adult has six times as many. The mass is the share of cells that both worms have. The exact solver
starts from annealed plans, which have looked over the coarse shape of the problem first, and the lowest objective is kept.
Cells are shuffled before; the names serve for the score only. The nervous system is almost its own mirror image, so the score
up to left and right stands beside it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fpgwot import Result, solve

DATA = Path(__file__).parent / "data" / "celegans" / "witvliet8.npz"
STARTS = 32  # with few the lowest objective depends on the order of the cells


class Setting(NamedTuple):
    """What a problem is made of; the defaults were chosen by benchmarks/celegans_table.py on pairs that it does not report."""

    types: str = "both"  # cell "type", "class", or "both" together
    directed: bool = True  # synapse from whom to whom, or between whom
    other: float = 0.5  # price of matching cells of different types, relative to the largest feature cost
    alpha: float = 0.7  # weight of the wiring


CHOSEN = Setting()


class Problem(NamedTuple):
    """Feature cost, two structures, weights, mass, and the names in the order of rows and columns."""

    M: np.ndarray
    C1: np.ndarray
    C2: np.ndarray
    p: np.ndarray
    q: np.ndarray
    m: float
    names1: np.ndarray
    names2: np.ndarray


def load(first: int, second: int, setting: Setting = CHOSEN, seed: int = 0) -> Problem:
    """The problem of two of the eight worms (1 to 8), rows and columns in random order."""
    data, rng = np.load(DATA, allow_pickle=False), np.random.default_rng(seed)
    labels = {"type": data["cell_type"], "class": data["classification"]}
    labels["both"] = np.char.add(np.char.add(labels["type"], "/"), labels["class"])
    worms = []
    for worm in (first - 1, second - 1):
        cells = rng.permutation(np.flatnonzero(data["present"][worm]))
        wiring = data["chemical"][worm][np.ix_(cells, cells)].astype(float)
        worms.append((data["names"][cells], labels[setting.types][cells], wiring))
    (names1, types1, W1), (names2, types2, W2) = worms
    kinds = np.unique(np.concatenate((types1, types2)))
    F1, F2 = features(W1, types1, kinds), features(W2, types2, kinds)
    M = ((F1[:, None] - F2[None]) ** 2).sum(2)
    M = M / M.max() + setting.other * (types1[:, None] != types2[None])
    C1, C2 = ((W if setting.directed else W + W.T) > 0 for W in (W1, W2))
    size = max(len(names1), len(names2))
    p, q = np.full(len(names1), 1 / size), np.full(len(names2), 1 / size)
    shared = len(np.intersect1d(names1, names2)) / size
    mass = min(shared, float(p.sum()), float(q.sum()))  # POT takes a mass above by 1e-16 for infeasible
    return Problem(M, C1.astype(float), C2.astype(float), p, q, mass, names1, names2)


def features(wiring: np.ndarray, types: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Log synapses to and from each cell type, minus the mean of the worm: an older worm has more of all."""
    of_type = (types[:, None] == kinds).astype(float)
    F = np.log1p(np.concatenate((wiring @ of_type, wiring.T @ of_type), axis=1))
    return np.asarray(F - F.mean(0))


def match(x: Problem, alpha: float = CHOSEN.alpha, starts: int = STARTS) -> Result:
    """The exact plan of the lowest objective from that many annealed starts."""
    return solve(*x[:5], m=x.m, alpha=alpha, init="annealed", n_init=starts, random_state=0)


def sides_merged(names: np.ndarray) -> np.ndarray:
    """Names without their L or R."""
    return np.array([x[:-1] if len(x) > 2 and x[-1] in "LR" else x for x in names])


def score(plan: np.ndarray, x: Problem) -> tuple[float, float]:
    """Share of the matched mass between cells of one name, and of one name up to left and right."""
    exact = float(plan[x.names1[:, None] == x.names2[None]].sum()) / x.m
    return exact, float(plan[sides_merged(x.names1)[:, None] == sides_merged(x.names2)[None]].sum()) / x.m


def main() -> None:
    """Match two worms and say how well it went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=1, help="younger worm, 1 to 8")
    parser.add_argument("--second", type=int, default=8, help="older worm, 1 to 8")
    parser.add_argument("--starts", type=int, default=STARTS, help="annealed starts")
    options = parser.parse_args()
    x = load(options.first, options.second)
    start = time.perf_counter()
    result = match(x, starts=options.starts)
    seconds = time.perf_counter() - start
    right, up_to_side = score(result.plan, x)
    print(f"{len(x.names1)} and {len(x.names2)} cells, {result.mass / x.p[0]:.0f} matched in {seconds:.2f} s")
    print(f"right: {right:.1%}, up to left and right: {up_to_side:.1%}; objective {result.value:.5f}, {result.status.text}")
    wrong = [(x.names1[i], x.names2[j]) for i, j, *_ in result.matches() if x.names1[i] != x.names2[j]]
    print("first mismatches: " + ", ".join(f"{a} with {b}" for a, b in wrong[:8]))


if __name__ == "__main__":
    main()
