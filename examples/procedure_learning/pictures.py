"""Pictures of a run: plan before and after training, embeddings over time, key-steps against the truth, curves."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from evaluate import MASSES, PROBE, Scored
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from plans import Batch, solve_plans

GREY = (0.87, 0.87, 0.87, 1.0)  # background


def colours(steps: int) -> ListedColormap:
    """Grey for 0, then one colour a step."""
    return ListedColormap([GREY, *[plt.get_cmap("tab20")((2 * k) % 20 + (2 * k) // 20) for k in range(steps)]])


def bar(ax: Axes, steps: np.ndarray, palette: ListedColormap, vertical: bool = False) -> None:
    """Labels along time."""
    row = steps[:, None] if vertical else steps[None]
    ax.imshow(row, aspect="auto", cmap=palette, vmin=-0.5, vmax=palette.N - 0.5, interpolation="nearest")
    ax.set(xticks=[], yticks=[])


def plan_maps(before: np.ndarray, after: np.ndarray, on: Scored, palette: ListedColormap, path: Path) -> None:
    """The same pair before and after training: mass that joins frames of one step is blue, other mass red."""
    overlap = [np.intersect1d(*(np.unique(on.recordings[r].steps) for r in pair)).size for pair in on.pairs]
    i, j = pair = on.pairs[int(np.argmax(overlap))]
    a, b = on.recordings[i].steps, on.recordings[j].steps
    figure, axes = plt.subplots(2, 4, figsize=(11, 5.6), width_ratios=[1, 16, 1, 16], height_ratios=[16, 1], layout="constrained")
    for k, (name, Z, metric) in enumerate((("input features", before, "euclidean"), ("after training", after, "cosine"))):
        T = solve_plans(Batch(Z[[i]], Z[[j]], metric), PROBE)[0]
        same = (a[:, None] == b) & (a > 0)[:, None]
        ink = np.sqrt(np.minimum(T / T.max(), 1))[..., None]
        picture = 1 - ink * (1 - np.where(same[..., None], (0.12, 0.35, 0.7), (0.8, 0.2, 0.15)))
        main = axes[0, 2 * k + 1]
        main.imshow(picture, aspect="auto", interpolation="nearest")
        main.set(xticks=[], yticks=[])
        main.set_title(f"{name}: {T[same].sum() / T.sum():.0%} of the mass joins equal steps", fontsize=10)
        bar(axes[0, 2 * k], a, palette, vertical=True)
        bar(axes[1, 2 * k + 1], b, palette)
        axes[1, 2 * k].axis("off")
    axes[0, 0].set_ylabel(on.recordings[pair[0]].name)
    axes[1, 1].set_xlabel(on.recordings[pair[1]].name)
    save(figure, path)


def over_time(Z: np.ndarray, on: Scored, palette: ListedColormap, path: Path) -> None:
    """First principal component of the embedding over time, and the first two, coloured by the true step."""
    flat = Z.reshape(-1, Z.shape[2])
    axis = np.linalg.svd(flat - flat.mean(0), full_matrices=False)[2][:2]
    shown = range(min(4, len(Z)))
    figure = plt.figure(figsize=(11, 1.3 * len(shown) + 0.6), layout="constrained")
    spec = figure.add_gridspec(len(shown), 2, width_ratios=[1.6, 1])
    plane = figure.add_subplot(spec[:, 1])
    for k in shown:
        y, steps = (Z[k] - flat.mean(0)) @ axis.T, on.recordings[k].steps
        ax = figure.add_subplot(spec[k, 0])
        ax.plot(y[:, 0], color="0.8", lw=1, zorder=1)
        ax.scatter(np.arange(len(y)), y[:, 0], c=steps, cmap=palette, vmin=-0.5, vmax=palette.N - 0.5, s=14, zorder=2)
        ax.set(xticks=[], yticks=[])
        ax.set_ylabel(on.recordings[k].name, fontsize=8)
        plane.scatter(y[:, 0], y[:, 1], c=steps, cmap=palette, vmin=-0.5, vmax=palette.N - 0.5, s=10)
    plane.set(xticks=[], yticks=[], title="first two components, all of these")
    ax.set_xlabel("time; height: first component of the embedding, colour: true step", fontsize=9)
    save(figure, path)


def bars(found: list[np.ndarray], matching: dict[int, int], on: Scored, palette: ListedColormap, path: Path) -> None:
    """Key-steps found, above the truth, for all recordings; clusters wear the colour of the step they are matched to."""
    step_of = {cluster: step for step, cluster in matching.items()}
    shown = range(min(14, len(found)))
    figure, axes = plt.subplots(2 * len(shown), 1, figsize=(9, 0.5 * len(shown) + 0.5), squeeze=False, layout="constrained")
    for k in shown:
        bar(axes[2 * k, 0], np.array([step_of.get(int(c), 0) for c in found[k]]), palette)
        bar(axes[2 * k + 1, 0], on.recordings[k].steps, palette)
        axes[2 * k, 0].set_ylabel("found", rotation=0, ha="right", va="center", fontsize=7)
        axes[2 * k + 1, 0].set_ylabel("true", rotation=0, ha="right", va="center", fontsize=7)
    axes[0, 0].set_title("key-steps; grey: background (true), or a cluster that is matched to no step (found)", fontsize=9)
    save(figure, path)


def mass_curves(before: dict[str, np.ndarray], after: dict[str, np.ndarray], path: Path) -> None:
    """Precision against matched mass, on the input features and after training."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for ax, title, curves in zip(axes, ("input features", "after training"), (before, after), strict=True):
        for (name, precision), style in zip(curves.items(), ("--", "-", "-", "-"), strict=True):
            ax.plot(MASSES, precision, style, marker="o", ms=3, label=name)
        ax.set(title=title, xlabel="matched mass")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("precision")
    axes[0].legend(frameon=False, fontsize=9)
    save(figure, path)


def history(values: dict[str, list[float]], path: Path) -> None:
    """Loss, and what a collapse shows in: effective rank and spread."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 2.6), layout="constrained")
    titles = {"loss": "loss", "rank": "effective rank of the batch", "spread": "spread of the batch"}
    for ax, (name, label) in zip(axes, titles.items(), strict=True):
        ax.plot(values["iteration"], values[name])
        ax.set(xlabel="iteration", title=label)
        ax.grid(alpha=0.3)
    axes[1].set_ylim(0)
    axes[2].set_ylim(0, 1)
    save(figure, path)


def save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=110, facecolor="white")
    plt.close(figure)
