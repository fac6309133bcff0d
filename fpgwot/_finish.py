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
    dtype, rows, cols, single = problem.dtype, prep.rows, prep.cols, not prep.is_batch
    plan, gradient, (f, g, h), terms = out.plan, out.gradient, out.potentials, out.terms
    if any(x != 1.0 for x in s.tolist()):
        plan = plan * xp.asarray(s.astype(dtype))[:, None, None]
        terms = {key: value * s for key, value in terms.items()}
        if (problem.eps > 0).any():  # the reference plan is Q/s inside
            gradient = gradient - xp.asarray((problem.eps * np.log(s)).astype(dtype))[:, None, None]
    if not prep.is_full:
        plan = _spread(prep, plan, (rows, cols), (n, k), 0.0)
        gradient = _spread(prep, gradient, (rows, cols), (n, k), np.inf)
        f = _spread(prep, f, (rows,), (n,), -np.inf, side=0)
        g = _spread(prep, g, (cols,), (k,), -np.inf, side=1)
    a, c = problem.be.plan_marginals(plan)
    host_a, host_c = problem.be.host(a), problem.be.host(c)
    mass = host_a.sum(1)
    marginal, mass_error = _violations(prep, host_a, host_c, mass)
    largest = FEASIBLE[dtype.itemsize]
    status = [
        Status.STALLED if x is Status.CONVERGED and not worst <= largest else x
        for x, worst in zip(out.status, marginal.tolist(), strict=True)
    ]
    converged = [x is Status.CONVERGED for x in status]

    def own(x: Any) -> Any:
        """All problems of a batch, or the one that there is."""
        return x[0] if single else x

    def number(x: np.ndarray) -> Any:
        return x.tolist()[0] if single else x

    result = Result(
        plan=own(plan),
        value=number(terms["linear"] + terms["quad"] + terms["reg"] + terms["marginal"]),
        value_linear=number(terms["linear"]),
        value_quad=number(terms["quad"]),
        value_reg=number(terms["reg"]),
        value_marginal=number(terms["marginal"]),
        mass=number(mass),
        marginal_a=own(a),
        marginal_b=own(c),
        potentials=(own(f), own(g), float(h[0]) if single else h),
        gradient=own(gradient),
        residuals=Residuals(number(marginal), number(mass_error), number(out.stationarity)),
        status=own(status),
        converged=converged[0] if single else np.array(converged),
        n_iter=number(out.n_iter),
        n_passes=number(out.n_passes),
        n_gradients=number(out.n_gradients),
        history=own(out.history),
        method=method,
        backend=problem.be.name,
        device=device,
        weights=(own(prep.p), own(prep.q)),
        starts=starts if starts is None else own(starts),
        provenance={"version": __version__, "backend": problem.be.name, "dtype": dtype.type.__name__, "seed": seed},
    )
    return _given(result, give)


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
    if result.converged is True or on_fail == "ignore" or np.all(result.converged):
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
    xp = prep.problem.be.xp
    full = xp.full((len(x), *shape), fill, x.dtype)
    for b, lengths in enumerate(prep.problem.size[:, side : side + len(shape)]):
        index = [xp.asarray(np.arange(k) if o is None else o[b][:k]) for o, k in zip(orders, lengths, strict=True)]
        at = (index[0][:, None], index[1]) if len(index) == 2 else (index[0],)
        full[b][at] = x[b][tuple(slice(int(k)) for k in lengths)]
    return full


def _violations(prep: Prepared, a: np.ndarray, c: np.ndarray, mass: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Largest marginal violation relative to the weight of its point, and the error of a fixed mass."""
    problem, worst = prep.problem, np.zeros(len(mass))
    for side, (x, w) in enumerate(((a, prep.p), (c, prep.q))):
        if problem.marginals.tau[side] == np.inf:
            ratio = (x - w) / (w if prep.is_full else np.where(w > 0, w, 1))  # a point without weight has an empty row
            exact = [cap != 0 for cap in problem.cap[:, side].tolist()]
            if any(exact):
                ratio = np.abs(ratio) if all(exact) else np.where(np.array(exact)[:, None], np.abs(ratio), ratio)
            worst = np.maximum(worst, ratio.max(1))
    target = problem.mass * prep.scale  # NaN where no mass is fixed
    if all(x != x for x in target.tolist()):
        return worst, np.zeros(len(mass))
    return worst, np.where(np.isnan(target), 0.0, np.abs(mass - target) / target)
