"""`accelerate()`: POT's Gromov-Wasserstein functions replaced by ours in code that one does not own, and put back.

A name that was bound before, `from ot.gromov import gromov_wasserstein`, is an entry of the dictionary of some module: all
modules are looked through for the functions themselves, POT's own among them (its barycentres then run on our solvers).
"""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from . import gromov
from .gromov import old_names

# Functions that are swapped. Not: `entropic_semirelaxed_*` and `solve_gromov_batch`, whose steps are POT's and cost more through
# `solve` on small problems; POT's helpers, which are plain formulas.
NAMES = (
    "gromov_wasserstein",
    "gromov_wasserstein2",
    "fused_gromov_wasserstein",
    "fused_gromov_wasserstein2",
    "entropic_gromov_wasserstein",
    "entropic_gromov_wasserstein2",
    "entropic_fused_gromov_wasserstein",
    "entropic_fused_gromov_wasserstein2",
    "partial_gromov_wasserstein",
    "partial_gromov_wasserstein2",
    "partial_fused_gromov_wasserstein",
    "partial_fused_gromov_wasserstein2",
    "entropic_partial_gromov_wasserstein",
    "entropic_partial_gromov_wasserstein2",
    "entropic_partial_fused_gromov_wasserstein",
    "entropic_partial_fused_gromov_wasserstein2",
    "semirelaxed_gromov_wasserstein",
    "semirelaxed_gromov_wasserstein2",
    "semirelaxed_fused_gromov_wasserstein",
    "semirelaxed_fused_gromov_wasserstein2",
    "solve_gromov",
    "partial.partial_gromov_wasserstein",  # deprecated, still the most used
    "partial.partial_gromov_wasserstein2",
    "partial.entropic_partial_gromov_wasserstein",
    "partial.entropic_partial_gromov_wasserstein2",
)
OLD = "partial."  # functions of ot.partial


@dataclass
class Calls:
    """What happened to the calls of one function: answered here, handed to POT (and why), seconds spent here."""

    ours: int = 0
    pot: int = 0
    seconds: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)


class accelerate:
    """Swap POT's Gromov-Wasserstein functions for fpgwot's: a context manager, a decorator, or `python -m fpgwot script.py`.

    Parameters
    ----------
    names : iterable of str, optional
        Functions to swap; all of `accelerate.NAMES` by default. "partial.f" is the deprecated `ot.partial.f`.
    fallback : bool
        Hand what is not covered (NotImplementedError) to POT. False: let the error through.

    Attributes
    ----------
    calls : dict of name to `Calls`
        How often each function was answered here and by POT, with the reasons; filled while active.

    Raises
    ------
    ValueError
        A name that cannot be swapped.

    Notes
    -----
    Calls with arrays that are neither NumPy's nor torch's, with options that are not covered, and with keywords that POT would
    swallow without effect: the first two go to POT; the last raise a TypeError, since the caller believes that they do something.
    Undone exactly: every name is bound to the object it was bound to, in the modules where it was found. Names bound while it is
    active keep working afterwards and go to POT then. Not seen: functions held in containers, closures, default arguments and
    `functools.partial` objects that were made before.

    Examples
    --------
    >>> import numpy as np, ot, fpgwot
    >>> x = np.array([0.0, 1.0, 3.0])
    >>> C = abs(x[:, None] - x)
    >>> with fpgwot.accelerate() as fast:
    ...     T = ot.gromov.gromov_wasserstein(C, C)
    >>> fast.calls["gromov_wasserstein"].ours
    1
    """

    NAMES = NAMES

    def __init__(self, names: Iterable[str] | None = None, *, fallback: bool = True) -> None:
        self.names = tuple(NAMES if names is None else names)
        unknown = [x for x in self.names if x not in (*gromov.__all__, *NAMES)]
        if unknown:
            raise ValueError(f"{unknown} cannot be swapped; choose from {NAMES}")
        self.fallback = fallback
        self.calls: dict[str, Calls] = {}
        self._bound: list[tuple[dict[str, Any], str, Any, Any]] = []
        self._lock = threading.RLock()
        self._depth = 0

    def __enter__(self) -> accelerate:
        with self._lock:
            self._depth += 1
            if self._depth == 1:  # entered again, from a recursion or another thread: it is on already
                self._swap()
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                self._undo()

    def _swap(self) -> None:
        import ot

        swaps: dict[int, tuple[Any, Any]] = {}
        for name in self.names:
            home = ot if name == "solve_gromov" else ot.batch if name == "solve_gromov_batch" else ot.gromov
            theirs = getattr(ot.partial if name.startswith(OLD) else home, name.removeprefix(OLD))
            swaps[id(theirs)] = theirs, self._swapped(name, theirs)
        for module_name, module in list(sys.modules.items()):
            if module_name.partition(".")[0] == __package__:  # our own code means what it says
                continue
            space = getattr(module, "__dict__", None)
            if not isinstance(space, dict):
                continue
            for key, value in list(space.items()):
                found = swaps.get(id(value))
                if found is not None and found[0] is value:
                    self._bound.append((space, key, value, found[1]))
                    space[key] = found[1]

    def _undo(self) -> None:
        for space, key, theirs, ours in reversed(self._bound):
            if space.get(key) is ours:  # rebound by somebody else meanwhile: theirs to keep
                space[key] = theirs
        self._bound.clear()

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorate a function: its calls run accelerated; counts add up in `calls`."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return call

    @property
    def text(self) -> str:
        """One line per function that was called."""
        lines = []
        for name, x in sorted(self.calls.items()):
            why = f" ({'; '.join(x.reasons)})" if x.reasons else ""
            lines.append(f"{name}: {x.ours} calls here in {x.seconds:.3g} s, {x.pot} by POT{why}")
        return "\n".join(lines) or "no call of a function that can be swapped"

    def _swapped(self, name: str, theirs: Callable[..., Any]) -> Callable[..., Any]:
        ours = getattr(old_names if name.startswith(OLD) else gromov, name.removeprefix(OLD))

        @functools.wraps(theirs)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._depth == 0:  # a name that was bound while it was on
                return theirs(*args, **kwargs)
            start = time.perf_counter()
            reason = _not_ours((*args, *kwargs.values()))
            if reason is None:
                try:
                    result = ours(*args, **kwargs)
                except NotImplementedError as error:
                    if not self.fallback:
                        raise
                    reason = str(error)
                else:
                    with self._lock:
                        count = self.calls.setdefault(name, Calls())
                        count.ours, count.seconds = count.ours + 1, count.seconds + time.perf_counter() - start
                    return result
            with self._lock:
                count = self.calls.setdefault(name, Calls())
                count.pot += 1
                count.reasons[reason] = count.reasons.get(reason, 0) + 1
            return theirs(*args, **kwargs)

        return call


def _not_ours(values: Iterable[Any]) -> str | None:
    """Why a call's arrays go to POT."""
    for x in values:
        root = type(x).__module__.partition(".")[0]
        if root in ("jax", "jaxlib", "tensorflow"):
            return f"{root} arrays"
    return None
