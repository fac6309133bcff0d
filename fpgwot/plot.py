"""Pictures of a result: transport map, lines between the sequences, convergence. The only module that imports matplotlib."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from scipy.ndimage import grey_dilation

from .result import DROPPED_SHARE, _to_numpy

if TYPE_CHECKING:
    from .result import Result

__all__ = ["convergence", "formats", "lines", "plan", "save"]

Labels = Sequence[Hashable] | np.ndarray

INK = "#1b2a49"  # mass
WRONG = "#d1495b"  # mass between frames of different steps
DROPPED = "#ece9e4"  # frames left out
FAINT = "#9aa0ac"  # axes and small print
STEPS = (
    *("#5b8cc0", "#e0a458", "#6aa87a", "#b279a2", "#9bbf66", "#5fb0b7", "#a68a64", "#8d86c9"),
    *("#d7c14f", "#7f8c8d", "#e39ab0", "#4f7d5c", "#c58b3a", "#567a9e", "#c9a0dc", "#8f5d6b"),
)
MARKS = 200  # a cell is drawn no smaller than this part of the map, else single frames vanish in long sequences
CURVES = 160  # lines drawn between two sequences; more would be a grey mass


# --------------------------------------------------------------------------------------------------------------- pictures
def plan(
    result: Result,
    ax: Axes | None = None,
    *,
    labels_a: Labels | None = None,
    labels_b: Labels | None = None,
    step_names: Mapping[Any, str] | None = None,
    name_a: str = "a",
    name_b: str = "b",
    title: str | None = None,
    legend: bool = True,
    cmap: str | Colormap | None = None,
) -> Axes:
    """Transport map, with the share of its mass that each frame sends at the top and at the right; dropped frames are shaded.

    With the step labels of both sequences, step bars run along the axes, blocks of equal steps are tinted, and mass between
    different steps is red.

    Parameters
    ----------
    result : Result
        One problem; of a batch take `result[b]`. Plan of shape (n, m): rows are frames of a, columns are frames of b.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default. The bars and profiles lie just outside of it.
    labels_a, labels_b : sequences (n,), (m,), optional
        Step of each frame, any hashable.
    step_names : mapping, optional
        What the legend calls a label; `str(label)` by default.
    name_a, name_b : str
        Names of the sequences, for the axes.
    title : str, optional
        Mass and dropped frames are stated by default; "" for none.
    legend : bool
        Whether the colours are explained beside the picture.
    cmap : colour map, optional
        Colours of the mass, from none to most; without it ink, and red between different steps.

    Returns
    -------
    matplotlib Axes
    """
    T, p, q = _arrays(result)
    n, m = T.shape
    la, lb = _check_labels(labels_a, n, "labels_a"), _check_labels(labels_b, m, "labels_b")
    ax = _new_axes((7.4, 6.4)) if ax is None else ax
    share_a, share_b = (np.divide(s, w, out=np.zeros_like(w), where=w > 0) for s, w in ((T.sum(1), p), (T.sum(0), q)))
    out_a, out_b = share_a < DROPPED_SHARE, share_b < DROPPED_SHARE

    extent = (-0.5, m - 0.5, n - 0.5, -0.5)
    colours = _step_colours(la, lb)
    ax.imshow(_ground(out_a, out_b, la, lb, colours), extent=extent, aspect="auto", interpolation="nearest", zorder=0)
    wrong = None if la is None or lb is None else la[:, None] != lb[None, :]
    ax.imshow(_ink(T, p, q, wrong, cmap), extent=extent, aspect="auto", interpolation="antialiased", zorder=2)
    for labels, draw in ((la, ax.axhline), (lb, ax.axvline)):
        for edge in _edges(labels):
            draw(edge - 0.5, color="#b9bec9", lw=0.6, zorder=1)

    _profile(ax, share_b, out_b, along_x=True)
    _profile(ax, share_a, out_a, along_x=False)
    for labels, along_x in ((la, False), (lb, True)):
        if labels is not None:
            _bar(ax, labels, colours, along_x)
    _tidy(ax)
    ax.tick_params(axis="y", pad=2 if la is None else 15)
    ax.tick_params(axis="x", pad=2 if lb is None else 15)
    ax.set(xlim=extent[:2], ylim=extent[2:], xlabel=f"frame of {name_b}", ylabel=f"frame of {name_a}")
    _title(ax, _caption(T, out_a, out_b, wrong) if title is None else title, y=1.145)
    if legend:
        _legend(ax, colours, step_names, wrong is not None and cmap is None, bool(out_a.any() or out_b.any()), x=1.15)
    return ax


def lines(
    result: Result,
    ax: Axes | None = None,
    *,
    labels_a: Labels | None = None,
    labels_b: Labels | None = None,
    step_names: Mapping[Any, str] | None = None,
    name_a: str = "a",
    name_b: str = "b",
    title: str | None = None,
    legend: bool = True,
) -> Axes:
    """Both sequences as bars, with a line from each matched frame to its partner; dropped frames are pale.

    Parameters
    ----------
    result : Result
        One problem; of a batch take `result[b]`.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.
    labels_a, labels_b : sequences (n,), (m,), optional
        Step of each frame: bars and lines take the step's colour, lines between different steps are red. Without labels
        the colour runs along the first sequence.
    step_names, name_a, name_b, title, legend
        As for `plan`.

    Returns
    -------
    matplotlib Axes
    """
    T, p, q = _arrays(result)
    n, m = T.shape
    la, lb = _check_labels(labels_a, n, "labels_a"), _check_labels(labels_b, m, "labels_b")
    ax = _new_axes((9.0, 3.4)) if ax is None else ax
    out_a, out_b = T.sum(1) < DROPPED_SHARE * p, T.sum(0) < DROPPED_SHARE * q
    colours = _step_colours(la, lb)
    wrong = None if la is None or lb is None else la[:, None] != lb[None, :]

    found = result.matches()
    order = np.argsort(found["i"])
    keep = order[np.unique(np.linspace(0, len(order) - 1, CURVES).astype(int))] if len(order) else order
    i, j, sure = found["i"][keep], found["j"][keep], found["confidence"][keep]
    run = mpl.colormaps["viridis"](np.arange(n) / max(n - 1, 1) * 0.9)[:, :3]
    near = run if la is None else np.array([to_rgb(colours[x]) for x in la.tolist()])
    rgb = near[i] if wrong is None else np.where(wrong[i, j][:, None], to_rgb(WRONG), near[i])
    t = np.linspace(0, 1, 40)
    bend = t * t * (3 - 2 * t)  # level at both ends, so that a line leaves its frame at a right angle to the bar
    curves = [np.column_stack([a + (b - a) * bend, 0.98 - 0.96 * t]) for a, b in zip(i, j, strict=True)]
    fade = 1.0 if wrong is None else np.where(wrong[i, j], 0.55, 1.0)  # what is wrong shall show, not shout
    strength = np.column_stack([rgb, (0.25 + 0.6 * sure) * fade])
    ax.add_collection(LineCollection(curves, colors=list(map(tuple, strength)), linewidths=1.0, capstyle="round", zorder=1))

    far = np.tile(to_rgb(FAINT), (m, 1)) if lb is None else np.array([to_rgb(colours[x]) for x in lb.tolist()])
    if lb is None:
        far[j] = rgb
        far = far[_nearest(j, m)] if len(j) else far
    for y, colour, out, name in ((1.0, near, out_a, name_a), (-0.1, far, out_b, name_b)):
        shown = np.where(out[:, None], 0.22 * colour + 0.78 * np.array(to_rgb(DROPPED)), colour)
        ax.imshow(shown[None], extent=(-0.5, len(shown) - 0.5, y, y + 0.1), aspect="auto", interpolation="nearest", zorder=2)
        ax.text(-0.012 * max(n, m), y + 0.05, name, ha="right", va="center", color=INK)
    ax.set(xlim=(-0.5, max(n, m) - 0.5), ylim=(-0.14, 1.14), yticks=[], xlabel="frame")
    _tidy(ax)
    _title(ax, _caption(T, out_a, out_b, wrong) if title is None else title, y=1.02)
    if legend:
        _legend(ax, colours, step_names, wrong is not None, False, x=1.01)
    return ax


def convergence(result: Result, ax: Axes | None = None) -> Axes:
    """Stationarity (logarithmic, left) and objective (right) after each outer iteration.

    Parameters
    ----------
    result : Result
        One problem; of a batch take `result[b]`.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes
        The axes of the stationarity.
    """
    history = np.asarray(result.history, dtype=float).reshape(-1, 2)
    history = history[np.isfinite(history).any(1)]
    ax = _new_axes((6.4, 3.6)) if ax is None else ax
    k = np.arange(1, len(history) + 1)
    right = ax.twinx()
    right.plot(k, history[:, 0], color=STEPS[1], lw=1.6)
    right.set_ylabel("objective", color=STEPS[1])
    ax.plot(k, np.where(history[:, 1] > 0, history[:, 1], np.nan), color=INK, lw=1.8, marker="o", ms=3)
    ax.set_yscale("log")
    ax.grid(axis="y", color="#eceef2", lw=0.8)
    ax.set(xlabel="outer iteration", ylabel="stationarity")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    for one in (ax, right):
        _tidy(one)
    ax.set_zorder(right.get_zorder() + 1)
    ax.patch.set_visible(False)
    _title(ax, result.status.text, y=1.02)
    return ax


def save(result: Result, path: str | PathLike[str], *, name_a: str = "a", name_b: str = "b", dpi: float = 160) -> None:
    """Write the transport map to a file, without a display and without touching pyplot's state.

    Parameters
    ----------
    result : Result
    path : path
        Its ending names the format, see `formats`.
    name_a, name_b : str
        Names of the sequences.
    dpi : float
        Dots per inch.
    """
    figure = Figure(figsize=(7.4, 6.4))
    FigureCanvasAgg(figure)
    plan(result, figure.add_subplot(), name_a=name_a, name_b=name_b)
    figure.savefig(path, dpi=dpi, bbox_inches="tight", facecolor="white")


def formats() -> set[str]:
    """File endings that `save` can write."""
    return set(FigureCanvasAgg(Figure()).get_supported_filetypes())


# ------------------------------------------------------------------------------------------------------------------ parts
def _arrays(result: Result) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if result.is_batch:
        raise TypeError(f"this result is a batch of {len(result)}: draw one problem of it, result[b]")
    T, p, q = (_to_numpy(x).astype(float) for x in (result.plan, *result.weights))
    return T, p, q


def _check_labels(labels: Labels | None, length: int, name: str) -> np.ndarray | None:
    if labels is None:
        return None
    array = np.asarray(labels)
    if array.shape != (length,):
        raise ValueError(f"{name} has shape {array.shape}; the plan needs one label for each of its {length} frames")
    return array


def _new_axes(size: tuple[float, float]) -> Axes:
    import matplotlib.pyplot as plt  # picks a window system, so only where the caller brings no axes

    return plt.subplots(figsize=size)[1]


def _edges(labels: np.ndarray | None) -> np.ndarray:
    return np.zeros(0, int) if labels is None else np.flatnonzero(labels[1:] != labels[:-1]) + 1


def _nearest(index: np.ndarray, length: int) -> np.ndarray:
    known = np.unique(index)
    return known[np.abs(known[None] - np.arange(length)[:, None]).argmin(1)]


def _step_colours(la: np.ndarray | None, lb: np.ndarray | None) -> dict[Any, str]:
    seen = [x for labels in (la, lb) if labels is not None for x in labels.tolist()]
    return {x: STEPS[k % len(STEPS)] for k, x in enumerate(dict.fromkeys(seen))}


def _ground(
    out_a: np.ndarray, out_b: np.ndarray, la: np.ndarray | None, lb: np.ndarray | None, colours: dict[Any, str]
) -> np.ndarray:
    """White, blocks of equal steps tinted, dropped rows and columns grey."""
    image = np.ones((len(out_a), len(out_b), 3))
    if la is not None and lb is not None:
        for label, colour in colours.items():
            image[np.ix_(la == label, lb == label)] = 0.66 + 0.34 * np.array(to_rgb(colour))
    dropped = out_a[:, None] | out_b[None]
    image[dropped] = 0.45 * image[dropped] + 0.55 * np.array(to_rgb(DROPPED))
    return image


def _ink(T: np.ndarray, p: np.ndarray, q: np.ndarray, wrong: np.ndarray | None, cmap: str | Colormap | None) -> np.ndarray:
    """The plan as an image with opacity: T_ij as a share of what the pair could carry, its root, so that thin mass shows."""
    size = max(1, round(max(T.shape) / MARKS))
    share = T / np.maximum(np.minimum(p[:, None], q[None]), 1e-300)
    positive = share[share > 1e-6]
    strength = np.sqrt(np.clip(share / (np.quantile(positive, 0.98) if len(positive) else 1.0), 0, 1))
    right, bad = (strength, np.zeros_like(strength)) if wrong is None else (strength * ~wrong, strength * wrong)
    right, bad = (grey_dilation(layer, size=(size, size)) for layer in (right, bad))
    alpha = np.maximum(right, bad)
    if cmap is not None:
        image = np.array(mpl.colormaps.get_cmap(cmap)(alpha))
        image[..., 3] = np.clip(3 * alpha, 0, 1)
        return image
    rgb = np.where((bad > right)[..., None], to_rgb(WRONG), to_rgb(INK))
    return np.dstack([rgb, alpha])


def _profile(ax: Axes, share: np.ndarray, out: np.ndarray, along_x: bool) -> None:
    """Share of its weight that each frame sends; dropped frames shaded as in the map."""
    side = ax.inset_axes((0, 1.015, 1, 0.1) if along_x else (1.015, 0, 0.1, 1))
    k = np.arange(len(share))
    edges, steps = np.repeat(np.arange(len(share) + 1) - 0.5, 2)[1:-1], np.repeat(share, 2)
    fill, shade = (side.fill_between, side.axvspan) if along_x else (side.fill_betweenx, side.axhspan)
    fill(edges, 0, steps, color=INK, alpha=0.75, lw=0)
    for run in np.split(k[out], np.flatnonzero(np.diff(k[out]) > 1) + 1):
        if len(run):
            shade(run[0] - 0.5, run[-1] + 0.5, color=DROPPED, lw=0, zorder=0)
    top = max(1.0, float(share.max(initial=0))) * 1.02
    if along_x:
        side.set(xlim=(-0.5, len(k) - 0.5), ylim=(0, top), xticks=[], yticks=[0, 1])
    else:
        side.set(ylim=(len(k) - 0.5, -0.5), xlim=(0, top), yticks=[], xticks=[0, 1])
    _tidy(side)
    side.tick_params(labelsize=7)


def _bar(ax: Axes, labels: np.ndarray, colours: dict[Any, str], along_x: bool) -> None:
    side = ax.inset_axes((0, -0.032, 1, 0.024) if along_x else (-0.032, 0, 0.024, 1))
    strip = np.array([to_rgb(colours[x]) for x in labels.tolist()])
    n = len(labels)
    if along_x:
        side.imshow(strip[None], extent=(-0.5, n - 0.5, 0, 1), aspect="auto", interpolation="nearest")
    else:
        side.imshow(strip[:, None], extent=(0, 1, n - 0.5, -0.5), aspect="auto", interpolation="nearest")
    side.set_axis_off()


def _tidy(ax: Axes) -> None:
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0, colors="#5d6472", labelsize=8)


def _title(ax: Axes, text: str, y: float) -> None:
    if text:
        ax.text(0, y, text, transform=ax.transAxes, ha="left", va="bottom", color=INK, fontsize=10)


def _caption(T: np.ndarray, out_a: np.ndarray, out_b: np.ndarray, wrong: np.ndarray | None) -> str:
    text = f"mass {T.sum():.2f}; dropped {out_a.sum()} of {len(out_a)} and {out_b.sum()} of {len(out_b)} frames"
    if wrong is None or not T.any():
        return text
    return f"{text}; {100 * (T * ~wrong).sum() / T.sum():.0f} % of the mass joins equal steps"


def _legend(ax: Axes, colours: dict[Any, str], names: Mapping[Any, str] | None, wrong: bool, dropped: bool, x: float) -> None:
    entries = [Patch(color=c, label=(names or {}).get(k, str(k))) for k, c in colours.items()]
    if wrong:
        entries.append(Patch(color=WRONG, label="different steps"))
    if dropped:
        entries.append(Patch(color=DROPPED, label="dropped"))
    if entries:
        ax.legend(
            handles=entries, loc="upper left", bbox_to_anchor=(x, 1.0), frameon=False, fontsize=8, handlelength=1, borderaxespad=0
        )


def mass_path(path: Any, ax: Axes | None = None) -> Axes:
    """Price of mass and objective along a mass path, with the mass that was taken and the knee.

    Parameters
    ----------
    path : MassPath
        `result.mass_path` of a solve with m="auto".
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
        That of the price; the objective has its own scale on the right.
    """
    own = ax is None
    ax = ax if ax is not None else _new_axes((5.6, 3.6))
    low, high = path.band
    taken = (", taken", "") if path.is_clear else ("", ", taken")
    ax.axvspan(low, high, color="0.92", lw=0)
    ax.step(path.masses, path.prices, where="pre", color="#1b2a4e", label="price dF/dm")
    ax.axvline(path.split, color="#c8553d", lw=1.5, label=f"split: {path.split:.3g}" + taken[0])
    ax.axvline(path.knee, color="0.4", lw=1, ls="--", label=f"knee: {path.knee:.3g}" + taken[1])
    ax.set_xlabel("matched mass")
    ax.set_ylabel("price of mass")
    right = ax.twinx()
    right.plot(path.masses, path.values, color="#6fa8a0", lw=1.5)
    right.set_ylabel("objective", color="#6fa8a0")
    ax.legend(frameon=False, loc="upper left")
    if own:
        ax.figure.tight_layout()  # type: ignore[union-attr]
    return ax
