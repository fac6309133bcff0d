"""The methods that are compared: one small file for each package, all behind one class."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..problems import Problem

FILES = ("ours", "pot", "ott", "fugw", "asot")


@dataclass(frozen=True)
class Method:
    """How one package solves one class of problems.

    `prepare(problem)` converts the arrays, outside the clock, and returns the call whose time counts; the call returns the plan
    as a NumPy array, so work that a library leaves running is waited for. `solves` says which problems are meant for it. `note`
    says how it stops and what it does differently; `slow` methods run with --full only, and no method above its `largest` n.
    """

    name: str
    package: str
    solves: Callable[[Problem], bool]
    prepare: Callable[[Problem], Callable[[], np.ndarray]]
    note: str
    largest: int = 1 << 20
    slow: bool = False


def available() -> tuple[list[Method], dict[str, str]]:
    """Every method that can run here, and for each missing package the reason."""
    found: list[Method] = []
    missing: dict[str, str] = {}
    for name in FILES:
        try:
            module: Any = importlib.import_module(f".{name}", __package__)
        except (ImportError, OSError) as error:  # OSError: a shared library of the package is missing
            missing[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        methods, without = module.methods()
        found += methods
        missing |= without
    return found, missing
