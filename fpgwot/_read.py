"""Sequences from files: .npy, .npz and .csv. Every error says what the file holds and what to do."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np


class ReadError(Exception):
    """A file that cannot be used; the text is meant for the user."""


def read_sequence(source: str, key: str | None) -> np.ndarray:
    """A (frames, features) array from .npy, .npz or .csv; `source` may name an array of an archive as file.npz:key."""
    path, inner = Path(source), key
    if not path.exists() and ".npz:" in source:
        name, inner = source.rsplit(":", 1)
        path = Path(name)
    if not path.is_file():
        raise ReadError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; expected a .npy, .npz or .csv file")
    suffix = path.suffix.lower()
    try:
        if suffix == ".npy":
            array = np.load(path, allow_pickle=False)
        elif suffix == ".npz":
            array = _from_archive(path, inner)
        elif suffix in {".csv", ".txt", ".tsv"}:
            array = _from_text(path)
        else:
            raise ReadError(f"{path}: unknown kind of file {suffix or 'without ending'!r}; use .npy, .npz or .csv")
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        # NumPy's own text advises to unpickle, which runs whatever code the file holds
        why = "damaged, not a NumPy file, or made of Python objects" if "pickle" in str(error) else error
        raise ReadError(f"{path}: cannot be read as {suffix[1:]}: {why}") from error
    return _as_sequence(array, path)


def _from_archive(path: Path, key: str | None) -> np.ndarray:
    with np.load(path, allow_pickle=False) as archive:
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ReadError(f"{path}: holds a single array, not an archive; give it the ending .npy")
        names = archive.files
        if key is None and len(names) != 1:
            raise ReadError(f"{path}: holds {len(names)} arrays ({', '.join(names)}); choose one as {path}:NAME or with --key")
        if key is not None and key not in names:
            raise ReadError(f"{path}: has no array {key!r}; it holds: {', '.join(names)}")
        return archive[names[0] if key is None else key]


def _from_text(path: Path) -> np.ndarray:
    """Numbers separated by commas, semicolons or blanks; lines with # are comments; a first line of names is skipped."""
    lines = path.read_text("utf-8-sig").splitlines()
    rows = [row for line in lines if (row := line.split("#")[0].replace(",", " ").replace(";", " ").split())]
    return _numbers(rows if rows and all(map(_is_number, rows[0])) else rows[1:])


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _numbers(rows: list[list[str]]) -> np.ndarray:
    if not rows:
        raise ValueError("it holds no line of numbers")
    widths = {len(row) for row in rows}
    if len(widths) > 1:
        raise ValueError(f"its lines have between {min(widths)} and {max(widths)} numbers")
    return np.array(rows, dtype=float)


def _as_sequence(array: np.ndarray, path: Path) -> np.ndarray:
    if array.dtype.kind not in "fiub":
        raise ReadError(f"{path}: has dtype {array.dtype}; expected numbers")
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or 0 in array.shape:
        raise ReadError(f"{path}: has shape {array.shape}; expected (frames, features), at least one of each")
    bad = np.flatnonzero(~np.isfinite(array).all(1))
    if len(bad):
        raise ReadError(
            f"{path}: NaN or infinity in {len(bad)} of {len(array)} frames (first: {bad[0]}); drop or fill them first"
        )
    return array
