"""`solve_batch`: many small problems of different sizes as one padded batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import _dispatch
from ._finish import trimmed
from ._solvers._loop import Progress
from .api import solve
from .result import Result
from .structure import Structure


@_dispatch.on_callers_stream
def solve_batch(
    problems: Sequence[dict[str, Any]],
    *,
    alpha: Any = None,
    loss: str = "square",
    m: Any = None,
    tau: Any = None,
    tv: Any = None,
    sink: Any = None,
    reg: Any = 0.0,
    reg_rel: Any = None,
    smoothness: Any = 0.0,
    normalize: str | None = None,
    method: str = "auto",
    init: str | None = None,
    n_init: int = 1,
    random_state: Any = None,
    tol: float | None = None,
    max_iter: int | None = None,
    backend: str = "auto",
    callback: Callable[[Progress], Any] | None = None,
    verbose: bool = False,
    on_fail: str = "warn",
) -> list[Result]:
    """Solve problems of unequal sizes together; one `Result` for each.

    Parameters
    ----------
    problems : sequence of dicts
        The arguments M, C1, C2, p, q, mask of `solve` for each problem, and m, alpha, reg, reg_rel where they differ.
    alpha, loss, m, ..., on_fail
        As in `solve`, the same for all problems.

    Notes
    -----
    Shorter problems are padded with points of weight 0, which the kernels skip. All outer steps run in lockstep, problems that
    are done are masked. Errors are those of `solve`.

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot import solve_batch
    >>> rng = np.random.default_rng(0)
    >>> pair = [dict(M=rng.random((4, 5))), dict(M=rng.random((6, 3)))]
    >>> [r.plan.shape for r in solve_batch(pair, reg=0.1)]
    [(4, 5), (6, 3)]
    """
    if not problems:
        return []
    arrays, scalars = ("M", "C1", "C2", "p", "q", "mask"), ("m", "alpha", "reg", "reg_rel")
    names = set().union(*problems)
    if names - {*arrays, *scalars}:
        raise TypeError(f"unknown keys {sorted(names - {*arrays, *scalars})} in a problem; it takes {[*arrays, *scalars]}")
    common = {"m": m, "alpha": alpha, "reg": reg or None, "reg_rel": reg_rel}
    twice = sorted(name for name in names if common.get(name) is not None)
    if twice:
        raise TypeError(f"{twice} given both in a problem and for all: give each in one place")
    for name in names:
        if any((x.get(name) is None) != (problems[0].get(name) is None) for x in problems):
            raise ValueError(f"{name} is given in some problems of the batch and missing in others: all or none")
    if any(isinstance(x.get(name), Structure) for x in problems for name in ("C1", "C2")):
        raise TypeError("solve_batch pads its structures and takes arrays only: pass C.to_dense()[0] for an operator C")
    be, device, take, give = _dispatch.resolve([x.get(name) for x in problems for name in arrays], backend)
    sizes = [_problem_size({k: take(v) for k, v in x.items()}) for x in problems]
    n, k = max(s[0] for s in sizes), max(s[1] for s in sizes)
    stacked: dict[str, Any] = {}
    for name, shape in {"M": (n, k), "C1": (n, n), "C2": (k, k), "mask": (n, k)}.items():
        if problems[0].get(name) is not None:
            stacked[name] = _pad(
                [y if hasattr(y, "dtype") else np.asarray(y) for y in (take(x[name]) for x in problems)], shape, be
            )
    for name, side, width in (("p", 0, n), ("q", 1, k)):
        given = [x.get(name) for x in problems]
        weights = [
            np.full(s[side], 1 / s[side]) if w is None else np.asarray(be.host(take(w)), float)
            for w, s in zip(given, sizes, strict=True)
        ]
        padded = _pad(weights, (width,), be)
        stacked[name] = padded if all(isinstance(x, np.ndarray) for x in stacked.values()) else be.xp.asarray(padded)
    for name in scalars:
        if problems[0].get(name) is not None:
            stacked[name] = np.array([x[name] for x in problems])
    result = solve(
        **{**common, "reg": reg, **stacked},
        loss=loss, tau=tau, tv=tv, sink=sink, smoothness=smoothness, normalize=normalize, method=method, init=init,
        n_init=n_init, random_state=random_state, tol=tol, max_iter=max_iter, backend=backend, callback=callback,
        verbose=verbose, on_fail=on_fail,
    )  # fmt: skip
    return [trimmed(result[b], *sizes[b], give) for b in range(len(problems))]


def _problem_size(x: dict[str, Any]) -> tuple[int, int]:
    if x.get("M") is not None:
        n, k = x["M"].shape if hasattr(x["M"], "shape") else np.shape(x["M"])
        return n, k
    if x.get("C1") is None or x.get("C2") is None:
        raise ValueError("each problem needs M, or C1 and C2, or all three")
    return len(x["C1"]), len(x["C2"])


def _pad(arrays: list[Any], shape: tuple[int, ...], be: Any) -> Any:
    xp = np if all(isinstance(a, np.ndarray) for a in arrays) else be.xp
    out = xp.zeros((len(arrays), *shape), np.result_type(*(a.dtype for a in arrays)))
    for b, a in enumerate(arrays):
        if a.ndim != len(shape):
            raise ValueError(f"problem {b} of the batch: expected an array with {len(shape)} axes, got shape {a.shape}")
        index: Any = (b, *(slice(k) for k in a.shape))
        out[index] = a
    return out
