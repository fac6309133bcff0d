"""Recordings of one task: features, one step label per frame (0: background), and who recorded them.

`load("mocap6")`, `load("mocap6bg")`, `load("simulator")`, `load("openpack", path)`, `load("folder", path)`.
The labels are read for scores and pictures only, never in training.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from fpgwot.datasets import make_procedures

MOCAP6 = Path(__file__).parent.parent / "data" / "mocap6" / "dataset.npz"
FEATURES = ".features.npy"  # name.features.npy: frozen features of the images in name.npy
NAMES = ("mocap6", "mocap6bg", "simulator", "openpack", "folder")


@dataclass
class Recording:
    """One recording."""

    features: np.ndarray  # (frames, d)
    steps: np.ndarray  # (frames,), 0 is background
    group: int = 0  # who recorded it: training on group 0, scores on group 1
    name: str = ""
    images: np.ndarray | None = None  # (frames, channels, height, width), where the embedder sees images; it may stay on disk

    @property
    def inputs(self) -> np.ndarray:
        """What the embedder sees: images where there are any, else the features."""
        return self.features if self.images is None else self.images

    def at(self, frames: np.ndarray) -> Recording:
        """Some of the frames."""
        images = None if self.images is None else np.asarray(self.images[frames])
        return replace(self, features=self.features[frames], steps=self.steps[frames], images=images)

    def resampled(self, n: int) -> Recording:
        """n frames at equal distances."""
        return self.at(np.round(np.linspace(0, len(self.steps) - 1, n)).astype(int))


def load(name: str, path: Path | None = None, seed: int = 0, **options: float) -> list[Recording]:
    """The recordings of a data set. `seed` and options (`background=` ...) matter to mocap6bg and the simulator only."""
    if name == "mocap6":
        return mocap6()
    if name == "mocap6bg":
        return mocap6(background=0.4, seed=seed)
    if name == "simulator":
        return simulator(seed=seed, **options)
    if path is None:
        raise SystemExit(f"--data {name} needs --path: it is not part of this repository")
    return {"openpack": openpack, "folder": folder}[name](Path(path))


def windows(X: np.ndarray, width: int, hop: int = 1, change: bool = False) -> np.ndarray:
    """Mean and sd of each channel in a window around every hop-th frame; `change` adds the mean absolute difference."""
    padded = np.pad(X, ((width // 2, width - width // 2 - 1), (0, 0)), mode="edge")
    view = np.lib.stride_tricks.sliding_window_view(padded, width, axis=0)[::hop]
    parts = [view.mean(-1), view.std(-1)]
    if change:
        parts.append(np.abs(np.diff(view, axis=-1)).mean(-1))
    return np.hstack(parts)


def standardized(recordings: list[Recording], together: bool = False) -> list[Recording]:
    """Every feature with mean 0 and sd 1 over all recordings; `together`: one sd for all of them, so that small stays small."""
    everything = np.vstack([r.features for r in recordings])
    mean, sd = everything.mean(0), everything.std(0) + 1e-6
    sd = np.sqrt(np.mean(sd**2)) if together else sd
    return [replace(r, features=(r.features - mean) / sd) for r in recordings]


def mocap6(background: float = 0.0, seed: int = 0) -> list[Recording]:
    """Six exercise routines, every frame labelled, order permuted; features: mean and sd of the joint angles over one second.

    background > 0: so large a share of each recording becomes background, five segments of real motion spliced in, whose joint
    space has been rotated (another rotation for each recording, so no two recordings share it).
    """
    with np.load(MOCAP6, allow_pickle=False) as data:
        X, steps, bounds = data["X"], data["TrueZ"].astype(int), data["doc_range"]
    X = (X - X.mean(0)) / X.std(0)
    motion, labels = [X[a:b] for a, b in pairwise(bounds)], [steps[a:b] for a, b in pairwise(bounds)]
    rng = np.random.default_rng(seed)
    out = []
    for r, (x, z) in enumerate(zip(motion, labels, strict=True)):
        if background > 0:
            x, z = spliced(x, z, motion, background, rng)
        out.append(Recording(windows(x, 11), z, name=f"routine {r + 1}"))
    return standardized(out)


def spliced(
    x: np.ndarray, z: np.ndarray, motion: list[np.ndarray], share: float, rng: np.random.Generator, pieces: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """A recording with segments of others, seen in a rotated joint space, put in at random places with label 0."""
    rotation = np.linalg.qr(rng.standard_normal((x.shape[1], x.shape[1])))[0]
    lengths = np.maximum(5, (len(z) * share / (1 - share) * rng.dirichlet(np.full(pieces, 2.0))).astype(int))
    cuts = np.sort(rng.choice(np.arange(5, len(z) - 5), pieces, replace=False))
    xs, zs = [], []
    for a, b, length in zip([0, *cuts], [*cuts, len(z)], [*lengths, 0], strict=True):
        xs.append(x[a:b])
        zs.append(z[a:b])
        if length:
            source = motion[rng.integers(len(motion))]
            start = rng.integers(max(1, len(source) - length))
            xs.append(source[start : start + length] @ rotation)
            zs.append(np.zeros(len(xs[-1]), int))
    return np.concatenate(xs), np.concatenate(zs)


def simulator(seed: int = 0, n: int = 40, length: int = 200, **statistics: float) -> list[Recording]:
    """Simulated recordings with the statistics of web videos (background .57, repeats, order agreement .88) unless told."""
    made = make_procedures(n, length=length, random_state=seed, **statistics)  # type: ignore[arg-type]
    zipped = enumerate(zip(made.sequences, made.labels, strict=True))
    return standardized([Recording(x, z, int(i >= n // 2), f"simulated {i + 1}") for i, (x, z) in zipped])


def openpack(path: Path) -> list[Recording]:
    """34 recordings of a packing task by two workers, 24 IMU channels (CC BY-NC-SA 4.0; not distributed with this package).

    `path`: openpack_s0500_imu30hz.npz, or its folder. Features: mean, sd and mean absolute difference over one second, at 2 Hz,
    standardised within each recording (sensors sit differently every time).
    """
    file = path if path.suffix == ".npz" else path / "openpack_s0500_imu30hz.npz"
    with np.load(file, allow_pickle=False) as data:
        X, steps, lengths, user = data["X"], data["y"], data["lengths"], data["user"]
    ends = np.cumsum(lengths)
    out = []
    for a, b, who in zip(ends - lengths, ends, user, strict=True):
        features = windows(X[a:b].astype(float), 31, 15, change=True)
        recording = Recording(features, steps[a:b:15].astype(int), int(who != "U0209"), f"worker {who}")
        out += standardized([recording])
    return out


def folder(path: Path) -> list[Recording]:
    """name.npy for each recording, features (frames, d) or images (frames, height, width, channels) or (frames, channels, height,
    width), and beside it optional annotations: name.txt with one integer label per frame, or name.csv with EgoProceL's lines
    `start,end,step` in frames (end excluded; frames in no line are background).

    Of images the frozen features, from which the plans of the first half of training come, are `name.features.npy` (frames, d)
    where there is one for each recording, else `pooled` pixels.
    """
    files = [file for file in sorted(path.glob("*.npy")) if not file.name.endswith(FEATURES)]
    if not files:
        raise SystemExit(f"no .npy files in {path}")
    arrays = [np.load(file, allow_pickle=False, mmap_mode="r") for file in files]
    if all(x.ndim == 2 for x in arrays):
        recordings = [Recording(matrix(f), annotations(f, len(x)), name=f.stem) for f, x in zip(files, arrays, strict=True)]
        return standardized(recordings)
    images = [channels_first(x, file) for x, file in zip(arrays, files, strict=True)]
    if len({x.shape[1:] for x in images}) > 1:
        raise SystemExit(f"the images in {path} differ in size: {sorted({x.shape[1:] for x in images})}")
    extracted = [file.with_name(file.stem + FEATURES) for file in files]
    has_features = [file.exists() for file in extracted]
    if any(has_features) and not all(has_features):
        raise SystemExit(f"{path}: {sum(has_features)} of {len(files)} recordings have a file *{FEATURES}; all or none should")
    out = []
    for file, x, own in zip(files, images, extracted, strict=True):
        features = matrix(own) if all(has_features) else pooled(x)
        if len(features) != len(x) or not np.isfinite(features).all():
            raise SystemExit(f"{file}: {len(x)} frames and features of shape {features.shape}; both finite, one row a frame")
        out.append(Recording(features, annotations(file, len(x)), name=file.stem, images=x))
    return standardized(out, together=not all(has_features))


def matrix(file: Path) -> np.ndarray:
    """A finite array (frames, features) from a file."""
    X = np.load(file, allow_pickle=False).astype(float)
    if X.ndim != 2 or not np.isfinite(X).all():
        raise SystemExit(f"{file} must hold a finite array (frames, features), got shape {X.shape}")
    return X


def channels_first(x: np.ndarray, file: Path) -> np.ndarray:
    """Images (frames, channels, height, width), as a view. Channels are the axis of at most 4: second or last."""
    if x.ndim == 4 and 0 not in x.shape and (x.shape[1] <= 4) != (x.shape[3] <= 4):
        return x if x.shape[1] <= 4 else np.moveaxis(x, 3, 1)
    raise SystemExit(
        f"{file} must hold features (frames, d) or images (frames, height, width, channels) or (frames, channels, height, width) "
        f"with 1 to 4 channels and more than 4 pixels a side, the same kind in all files; got shape {x.shape}"
    )


def pooled(images: np.ndarray, cells: int = 8) -> np.ndarray:
    """Means of each channel over a grid of cells x cells, (frames, channels * cells^2): frozen features of images.

    They keep what is where, in coarse, and ignore noise and shifts below a cell. A random projection of the pixels keeps the
    distances of the pixels, noise and shifts included, and depends on a seed.
    """
    for axis in (2, 3):
        size = images.shape[axis]
        edges = np.linspace(0, size, min(cells, size) + 1).astype(int)
        sums = np.add.reduceat(images, edges[:-1], axis=axis, dtype=float)
        images = sums / np.diff(edges).reshape((-1, 1) if axis == 2 else (-1,))
    return images.reshape(len(images), -1)


def annotations(file: Path, frames: int) -> np.ndarray:
    """One label per frame from the file beside the features; all background where there is none."""
    if (text := file.with_suffix(".txt")).exists():
        steps = np.array([int(x) for x in text.read_text().split()])
        if len(steps) != frames:
            raise SystemExit(f"{text} has {len(steps)} labels for {frames} frames")
        return steps
    steps = np.zeros(frames, int)
    if (table := file.with_suffix(".csv")).exists():
        with table.open(newline="") as lines:
            for row in csv.reader(lines):
                if row and row[0].strip().replace(".", "", 1).isdigit():  # not a heading
                    start, end, step = (int(float(cell)) for cell in row[:3])
                    if not 0 <= start < end <= frames:
                        raise SystemExit(f"{table}: segment {start}-{end} is not within the {frames} frames of {file.name}")
                    steps[start:end] = step
    return steps
