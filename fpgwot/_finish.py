"""The last stop of a call: from the solver's units, order and padding back to the caller's, as a `Result`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ._dispatch import unchanged
from ._solvers._outcome import Outcome
from ._validate import Prepared
from ._version import __version__
from .result import ConvergenceError, ConvergenceWarning, MassPath, Residuals, Result, Status

FEASIBLE = {8: 1e-6, 4: 1e-4}  # largest relative violation of a marginal in a converged result, by bytes of the dtype


def result_of(
    prep: Prepared, out: Outcome, method: str, device: str, give: Callable[[Any], Any], starts: Any, seed: Any
) -> Result:
    """The result of a call; the values are those of the plan it holds, `converged` only where its certificate holds."""
    problem, s, (_, n, k), xp = prep.problem, prep.scale, prep.full, prep.problem.be.xp
    dtype, rows, cols = problem.dtype, prep.rows, prep.cols
    scaled = out.plan if (s == 1).all() else out.plan * xp.asarray(s.astype(dtype))[:, None, None]
    plan = _spread(prep, scaled, (rows, cols), (n, k), 0.0)
    gradient = out.gradient
    if (s != 1).any() and (problem.eps > 0).any():  # the reference plan is Q/s inside
        gradient = gradient - xp.asarray((problem.eps * np.log(s)).astype(dtype))[:, None, None]
    gradient = _spread(prep, gradient, (rows, cols), (n, k), np.inf)
    f = _spread(prep, out.potentials[0], (rows,), (n,), -np.inf, side=0)
    g = _spread(prep, out.potentials[1], (cols,), (k,), -np.inf, side=1)
    a, c = plan.sum(2, dtype=float), plan.sum(1, dtype=float)
    host_a, host_c = problem.be.host(a), problem.be.host(c)
    mass = host_a.sum(1)
    marginal, mass_error = _violations(prep, host_a, host_c, mass)
    terms = {key: value * s for key, value in out.terms.items()}
    feasible = marginal <= FEASIBLE[dtype.itemsize]
    status = [Status.STALLED if x is Status.CONVERGED and not ok else x for x, ok in zip(out.status, feasible, strict=True)]
    result = Result(
        plan=plan,
        value=terms["linear"] + terms["quad"] + terms["reg"] + terms["marginal"],
        value_linear=terms["linear"],
        value_quad=terms["quad"],
        value_reg=terms["reg"],
        value_marginal=terms["marginal"],
        mass=mass,
        marginal_a=a,
        marginal_b=c,
        potentials=(f, g, out.potentials[2]),
        gradient=gradient,
        residuals=Residuals(marginal, mass_error, out.stationarity),
        status=status,
        converged=np.array([x is Status.CONVERGED for x in status]),
        n_iter=out.n_iter,
        n_passes=out.n_passes,
        n_gradients=out.n_gradients,
        history=out.history,
        method=method,
        backend=problem.be.name,
        device=device,
        weights=(prep.p, prep.q),
        starts=starts,
        provenance={"version": __version__, "backend": problem.be.name, "dtype": dtype.name, "seed": seed},
    )
    return _given(result if prep.is_batch else result[0], give)


def trimmed(result: Result, n: int, k: int, give: Callable[[Any], Any]) -> Result:
    """A result without its padding: the first n rows and k columns."""
    (f, g, h), (p, q) = result.potentials, result.weights
    cut = replace(
        result,
        plan=result.plan[:n, :k].copy(),
        gradient=result.gradient[:n, :k].copy(),
        marginal_a=result.marginal_a[:n],
        marginal_b=result.marginal_b[:k],
        potentials=(f[:n], g[:k], h),
        weights=(p[:n], q[:k]),
    )
    return _given(cut, give)


def complain(result: Result, on_fail: str) -> None:
    """Warn (or raise) where the certificate does not hold."""
    if on_fail == "ignore" or np.all(result.converged):
        return
    if result.is_batch:
        bad = np.flatnonzero(~np.asarray(result.converged))
        text = f"{len(bad)} of {len(result)} problems did not converge, the first is {bad[0]}: {result.status[bad[0]].text}"
    else:
        r = result.residuals
        text = f"{result.status.text} (stationarity {r.stationarity:.1e}, marginal {r.marginal:.1e})"
    if on_fail == "raise":
        raise ConvergenceError(text)
    warnings.warn(text, ConvergenceWarning, stacklevel=_callers_level())


def doubt(paths: list[MassPath], on_fail: str) -> None:
    """Warn where m="auto" had nothing to choose by."""
    bad = [b for b, path in enumerate(paths) if not path.is_clear]
    if bad and on_fail != "ignore":
        which = "" if len(paths) == 1 else f"{len(bad)} of {len(paths)} problems, the first is {bad[0]}: "
        warnings.warn(f'm="auto": {which}{paths[bad[0]].text}', UserWarning, stacklevel=_callers_level())


def _callers_level() -> int:
    """Stack level of the first frame outside this package, as seen from `complain`."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        level, frame = level + 1, frame.f_back
    return level


def _given(result: Result, give: Callable[[Any], Any]) -> Result:
    """Arrays of the caller's kind."""
    if give is unchanged:
        return result
    f, g, h = result.potentials
    return replace(
        result,
        plan=give(result.plan),
        gradient=give(result.gradient),
        marginal_a=give(result.marginal_a),
        marginal_b=give(result.marginal_b),
        potentials=(give(f), give(g), h),
    )


def _spread(prep: Prepared, x: Any, orders: tuple[Any, ...], shape: tuple[int, ...], fill: float, side: int = 0) -> Any:
    """Entries of the points in use at their places in the caller's order; `fill` at the points without weight."""
    size = prep.problem.size[:, side : side + len(shape)]
    if all(o is None for o in orders) and x.shape[1:] == shape and all(row == [*shape] for row in size.tolist()):
        return x
    xp = prep.problem.be.xp
    full = xp.full((len(x), *shape), fill, x.dtype)
    for b, lengths in enumerate(size):
        index = [xp.asarray(np.arange(k) if o is None else o[b][:k]) for o, k in zip(orders, lengths, strict=True)]
        at = (index[0][:, None], index[1]) if len(index) == 2 else (index[0],)
        full[b][at] = x[b][tuple(slice(int(k)) for k in lengths)]
    return full


def _violations(prep: Prepared, a: np.ndarray, c: np.ndarray, mass: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Largest marginal violation relative to the weight of its point, and the error of a fixed mass."""
    problem, worst = prep.problem, np.zeros(len(mass))
    for side, (x, w) in enumerate(((a, prep.p), (c, prep.q))):
        if np.isinf(problem.marginals.tau[side]):
            ratio = (x - w) / np.where(w > 0, w, 1)  # a point without weight has an empty row
            worst = np.maximum(worst, ratio.max(1))
            if (exact := problem.cap[:, side] != 0).any():
                worst = np.where(exact, np.maximum(worst, -ratio.min(1)), worst)
    target = problem.mass * prep.scale  # NaN where no mass is fixed
    return worst, np.where(np.isnan(target), 0.0, np.abs(mass - target) / target)
