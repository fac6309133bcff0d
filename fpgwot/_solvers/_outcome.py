"""What every solver hands back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..result import Status


@dataclass
class Outcome:
    """Solution of a batch, in the units of `Problem`: every entry has one item for each problem."""

    plan: Any
    gradient: Any
    potentials: tuple[Any, Any, Any]
    terms: dict[str, np.ndarray]  # linear, quad, reg, marginal: they add up to F
    stationarity: np.ndarray
    status: list[Status]
    n_iter: np.ndarray
    n_passes: np.ndarray
    n_gradients: np.ndarray
    history: list[np.ndarray]

    def take(self, index: np.ndarray, xp: Any) -> Outcome:
        """The solutions of some of the problems; `xp` is the library of the arrays."""
        at = xp.asarray(index)
        return Outcome(
            self.plan[at],
            self.gradient[at],
            tuple(x[at] for x in self.potentials),  # type: ignore[arg-type]
            {k: v[index] for k, v in self.terms.items()},
            self.stationarity[index],
            [self.status[b] for b in index],
            self.n_iter[index],
            self.n_passes[index],
            self.n_gradients[index],
            [self.history[b] for b in index],
        )
