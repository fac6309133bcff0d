"""What every solver loop shares: reporting to the caller's callback."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Progress:
    """Handed to a callback after each outer iteration: arrays for a batch, numbers for one problem."""

    iteration: int
    objective: Any
    residual: Any
    elapsed: float


@dataclass(frozen=True)
class Below:
    """A callback that stops at a residual. The exact solver compares by itself: small problems then need no interpreter."""

    residual: float

    def __call__(self, now: Progress) -> bool:
        return bool(now.residual <= self.residual)


@dataclass
class Watch:
    """Calls the callback and the verbose printer; true when the caller asks to stop."""

    callback: Callable[[Progress], Any] | None = None
    verbose: bool = False
    is_batch: bool = False
    started: float = field(default_factory=time.perf_counter)

    @property
    def enough(self) -> float | None:
        """The residual to stop at, where nobody wants to see more of the run."""
        return self.callback.residual if isinstance(self.callback, Below) and not self.verbose else None

    def __call__(self, iteration: int, objective: Any, residual: Any) -> bool:
        if self.callback is None and not self.verbose:
            return False
        if not self.is_batch and hasattr(objective, "shape") and objective.shape:
            objective, residual = float(objective[0]), float(residual[0])
        info = Progress(iteration, objective, residual, time.perf_counter() - self.started)
        if self.verbose:
            sys.stderr.write(f"{iteration:5d}  objective {objective}  residual {residual}  {info.elapsed:.2f} s\n")
        return bool(self.callback(info)) if self.callback is not None else False
