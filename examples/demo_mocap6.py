"""Aligns six real exercise routines that differ in the order and the choice of their steps.

    python examples/demo_mocap6.py

Each of the 15 pairs is aligned in six ways; the score is the share of the matched mass that joins frames of the same
exercise. The labels are used for the score only, and one setting serves all pairs. Writes a picture to out/.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fpgwot import solve

DATA = Path(__file__).parent / "data" / "mocap6" / "dataset.npz"
WINDOW = 11  # frames, about one second
ALPHA = 0.1  # weight of the temporal structure
REACH = 0.1  # of the Laplace structure, as a share of the routine's length
SHOWN = (2, 0)  # the pair in the picture: permuted, with a step done twice; it is also the one with the highest score


class Routine(NamedTuple):
    """One recording: features (n, 24) and the exercise of each frame (n,)."""

    features: np.ndarray
    steps: np.ndarray


class Problem(NamedTuple):
    """What the solver gets: feature cost (n, m), temporal structures (n, n) and (m, m), uniform weights."""

    M: np.ndarray
    C1: np.ndarray
    C2: np.ndarray
    p: np.ndarray
    q: np.ndarray


def load() -> tuple[list[Routine], dict[int, str]]:
    """The six routines and the names of the exercises. Features: mean and spread of each joint angle over one second."""
    with np.load(DATA, allow_pickle=False) as data:
        X, z, bounds = data["X"], data["TrueZ"], data["doc_range"]
        names = {k + 1: name.decode() for k, name in enumerate(data["true_state_names"])}
    X = (X - X.mean(0)) / X.std(0)
    half = WINDOW // 2
    features = []
    for start, stop in pairwise(bounds):
        padded = np.pad(X[start:stop], ((half, half), (0, 0)), mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW, axis=0)
        features.append(np.hstack([windows.mean(-1), windows.std(-1)]))
    everything = np.vstack(features)
    scaled = (everything - everything.mean(0)) / everything.std(0)
    return [Routine(scaled[a:b], z[a:b]) for a, b in pairwise(bounds)], names


def distances(X: np.ndarray, Y: np.ndarray, metric: str) -> np.ndarray:
    """Distances between the frames of two routines."""
    if metric == "cosine":
        X, Y = (Z / np.linalg.norm(Z, axis=1, keepdims=True) for Z in (X, Y))
    M = np.maximum((X**2).sum(1)[:, None] + (Y**2).sum(1)[None] - 2 * X @ Y.T, 0)
    return {"sqeuclidean": M, "euclidean": np.sqrt(M), "cosine": M / 2}[metric]


def laplace(n: int) -> np.ndarray:
    """1 - exp(-|i - k| / (REACH n)): frames are near one another within a step and equally far beyond."""
    k = np.arange(n)
    return 1 - np.exp(-np.abs(k[:, None] - k[None]) / (REACH * n))


def problem(a: Routine, b: Routine, metric: str) -> Problem:
    """What the solver gets for one pair."""
    n, m = len(a.steps), len(b.steps)
    M = distances(a.features, b.features, metric)
    return Problem(M, laplace(n), laplace(m), np.full(n, 1 / n), np.full(m, 1 / m))


# ---------------------------------------------------------------------------------------------------------------- methods
def linear_time(P: Problem) -> np.ndarray:
    """Frame i at the same share of the routine as frame j: the monotone plan of two uniform weights."""
    a, b = (np.concatenate(([0], np.cumsum(w))) for w in (P.p, P.q))
    overlap = np.minimum(a[1:, None], b[None, 1:]) - np.maximum(a[:-1, None], b[None, :-1])
    return np.maximum(overlap, 0)


def keep_cheapest(T: np.ndarray, M: np.ndarray, mass: float) -> np.ndarray:
    """Control: of a full plan, only the entries of lowest cost, up to the mass. No partial transport is solved."""
    order = np.argsort(M, axis=None, kind="stable")
    entries = T.ravel()[order]
    before = np.cumsum(entries) - entries
    kept = np.zeros(T.size)
    kept[order] = np.clip(mass - before, 0, entries)
    return kept.reshape(T.shape)


def methods(mass: float, reg: float) -> dict[str, Callable[[Problem], np.ndarray]]:
    """Name -> function from a problem to its plan."""

    common = {"reg": reg, "normalize": "mean"}  # costs on a common scale: alpha and reg mean the same for every pair

    def kot(P: Problem) -> np.ndarray:
        return solve(P.M, p=P.p, q=P.q, **common).plan

    return {
        "linear time": linear_time,
        "KOT": kot,
        "FGW": lambda P: solve(*P, alpha=ALPHA, **common).plan,
        "KOT, cheapest": lambda P: keep_cheapest(kot(P), P.M, mass),
        "partial KOT": lambda P: solve(P.M, p=P.p, q=P.q, m=mass, **common).plan,
        "partial FGW": lambda P: solve(*P, alpha=ALPHA, m=mass, **common).plan,
    }


def agreement(T: np.ndarray, a: Routine, b: Routine) -> float:
    """Share of the matched mass that joins frames of the same exercise."""
    return float(T[a.steps[:, None] == b.steps[None]].sum() / T.sum())


def compare(
    routines: list[Routine], mass: float, metric: str, reg: float
) -> tuple[list[tuple[int, int]], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The 15 pairs, and for each method its score and its seconds on each of them."""
    pairs = [(i, j) for i in range(len(routines)) for j in range(i)]
    score: dict[str, list[float]] = {name: [] for name in methods(mass, reg)}
    seconds: dict[str, list[float]] = {name: [] for name in score}
    for i, j in pairs:
        P = problem(routines[i], routines[j], metric)
        for name, method in methods(mass, reg).items():
            start = time.perf_counter()
            T = method(P)
            seconds[name].append(time.perf_counter() - start)
            score[name].append(agreement(T, routines[i], routines[j]))
    return pairs, {k: np.array(v) for k, v in score.items()}, {k: np.array(v) for k, v in seconds.items()}


def paired(pairs: list[tuple[int, int]], score: dict[str, np.ndarray], better: str, than: str) -> tuple[float, float, int]:
    """Mean difference over the pairs, its standard error, number of pairs won.

    Pairs share routines, so they are not independent: the error is the jackknife that leaves out one routine at a time.
    """
    d = score[better] - score[than]
    routines = sorted({r for pair in pairs for r in pair})
    without = np.array([d[[r not in pair for pair in pairs]].mean() for r in routines])
    error = np.sqrt((len(routines) - 1) * np.mean((without - without.mean()) ** 2))
    return float(d.mean()), float(error), int((d > 0).sum())


# ---------------------------------------------------------------------------------------------------------------- output
def print_table(pairs: list[tuple[int, int]], score: dict[str, np.ndarray], seconds: dict[str, np.ndarray]) -> None:
    """One line a pair, then mean, standard deviation and time."""
    print("pair   " + "".join(f"{name:>15}" for name in score))
    for k, (i, j) in enumerate(pairs):
        print(f"{i + 1} - {j + 1}  " + "".join(f"{values[k]:>15.2f}" for values in score.values()))
    for what, row in (
        ("mean", [f"{v.mean():.3f}" for v in score.values()]),
        ("sd", [f"{v.std(ddof=1):.3f}" for v in score.values()]),
        ("ms", [f"{1000 * v.mean():.0f}" for v in seconds.values()]),
    ):
        print(f"{what:<7}" + "".join(f"{cell:>15}" for cell in row))


def picture(routines: list[Routine], names: dict[int, str], mass: float, metric: str, reg: float, folder: Path) -> Path:
    """Transport map of one pair above the same plan as lines, with the true steps."""
    import matplotlib.pyplot as plt

    from fpgwot import plot

    i, j = SHOWN
    a, b = routines[i], routines[j]
    P = problem(a, b, metric)
    result = solve(*P, alpha=ALPHA, m=mass, reg=reg, normalize="mean")
    figure, axes = plt.subplots(2, 1, figsize=(8.2, 10.6), height_ratios=[2.6, 1], gridspec_kw={"hspace": 0.16})
    name_a, name_b = f"routine {i + 1}", f"routine {j + 1}"
    plot.plan(result, axes[0], labels_a=a.steps, labels_b=b.steps, step_names=names, name_a=name_a, name_b=name_b)
    plot.lines(result, axes[1], labels_a=a.steps, labels_b=b.steps, name_a=name_a, name_b=name_b, title="", legend=False)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mocap6.png"
    figure.savefig(path, dpi=150, bbox_inches="tight", facecolor="white")
    plt.close(figure)
    return path


def main() -> None:
    """Prints the table and writes the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mass", type=float, default=0.5, help="share of each routine that partial plans match (0.5)")
    parser.add_argument("--metric", choices=["sqeuclidean", "euclidean", "cosine"], default="sqeuclidean")
    parser.add_argument("--reg", type=float, default=0.0, help="entropy weight, relative to the mean cost (0: exact plans)")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of the picture")
    args = parser.parse_args()

    start = time.perf_counter()
    routines, names = load()
    print(f"six routines of {', '.join(str(len(r.steps)) for r in routines)} frames; partial plans match mass {args.mass:g}")
    first = problem(routines[2], routines[1], args.metric)
    for method in methods(args.mass, args.reg).values():
        method(first)  # compiles, so that the times below are the solver's
    print(f"ready after {time.perf_counter() - start:.1f} s (first call: kernels are compiled and cached)\n")

    print("share of the matched mass between frames of the same exercise")
    pairs, score, seconds = compare(routines, args.mass, args.metric, args.reg)
    print_table(pairs, score, seconds)
    print()
    for than in ("partial KOT", "KOT, cheapest"):
        mean, error, wins = paired(pairs, score, "partial FGW", than)
        print(f"partial FGW against {than}: {mean:+.3f} +- {error:.3f}, better on {wins} of {len(pairs)} pairs")
    print(f"\npicture: {picture(routines, names, args.mass, args.metric, args.reg, args.out)}")
    print(f"total: {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
