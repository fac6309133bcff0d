"""What every function of this package shares: the keywords it takes, arrays in, one `solve`, POT's return values out."""

from __future__ import annotations

import difflib
import functools
import inspect
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from ..api import Below, solve
from ..result import ConvergenceWarning, Result, Status

F = TypeVar("F", bound=Callable[..., Any])

LOSSES = {"square_loss": "square", "kl_loss": "kl"}
SAME = {  # what callers write for one another; only names that the function has are suggested
    "max_iter": ("numItermax",),
    "numItermax": ("max_iter",),
    "numInnerItermax": ("max_iter",),
    "epsilon": ("reg",),
    "eps": ("epsilon", "reg"),
    "reg": ("epsilon",),
    "reg_m": ("m",),
    "mass": ("m",),
    "s": ("m",),
    "n_dummies": ("nb_dummies",),
    "stopThr": ("tol", "tol_rel"),
    "tol": ("tol_rel",),
    "tol_rel": ("tol",),
    "tol_abs": ("tol",),
    "loss": ("loss_fun",),
    "a": ("p",),
    "b": ("q",),
    "mu": ("p",),
    "nu": ("q",),
    "Cx": ("C1",),
    "Cy": ("C2",),
    "T0": ("G0",),
    "init": ("G0",),
    "plan_init": ("G0",),
}
STEPS = {"alpha_min": (None, 0), "alpha_max": (None, 1)}  # POT's bounds of the line search; ours is exact on [0, 1]
ENOUGH = {8: 1e-6, 4: 1e-3}  # stationarity below which a solve that missed its tolerance is not worth a warning


def contract(*without_effect: str) -> Callable[[F], F]:
    """Refuse keywords that POT's function would swallow, naming the right one; drop those that are accepted without effect.

    POT's signatures end in **kwargs, so its functions take any keyword without a word; callers guess them.
    """

    def wrap(function: F) -> F:
        known = inspect.signature(function).parameters
        dropped = {name for name in without_effect if name not in STEPS}

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for name in [x for x in kwargs if x not in known]:
                if name in without_effect and name in STEPS and kwargs[name] not in STEPS[name]:
                    raise NotImplementedError(
                        f"{name}={kwargs[name]!r}: steps are exact on [0, 1]; ot.gromov.{function.__name__} has bounded ones"
                    )
                if name not in dropped and name not in without_effect:
                    raise TypeError(_unknown(function.__name__, name, known))
                del kwargs[name]
            return function(*args, **kwargs)

        call.without_effect = without_effect  # type: ignore[attr-defined]
        return call  # type: ignore[return-value]

    return wrap


def _unknown(function: str, name: str, known: Any) -> str:
    meant = [x for x in SAME.get(name, ()) if x in known] or difflib.get_close_matches(name, known, 1, 0.7)
    if meant:
        return f"{function}() has no keyword {name!r}: did you mean {meant[0]!r}?"
    if name in ("epsilon", "reg", "eps"):
        return f"{function}() is exact and has no keyword {name!r}: use entropic_{function}() for an entropic plan"
    return f"{function}() has no keyword {name!r}; it takes {', '.join(known)}"


# ------------------------------------------------------------------------------------------------------------------ arrays


def loss_of(loss_fun: str) -> str:
    """The name of a POT loss in `solve`."""
    if loss_fun not in LOSSES:
        raise ValueError(f"Unknown loss_fun={loss_fun!r}; use one of {tuple(LOSSES)}")
    return LOSSES[loss_fun]


def bare(x: Any, like: Any = None) -> Any:
    """An array without its gradient; lists become arrays of the kind of `like`."""
    if x is None or np.isscalar(x):
        return x
    if isinstance(x, (list, tuple)):
        return like.new_tensor(x) if hasattr(like, "new_tensor") else np.asarray(x)
    return x.detach() if hasattr(x, "detach") else x


def number(x: Any) -> Any:
    """A Python float of any scalar; None stays None."""
    return None if x is None else float(bare(x))


def host(x: Any) -> Any:
    """A NumPy array of any CPU array."""
    return None if x is None else np.asarray(bare(x), dtype=float)


def _is_float(x: Any) -> bool:
    return bool(x.is_floating_point()) if hasattr(x, "is_floating_point") else np.dtype(x.dtype).kind == "f"


def array_like(x: Any, like: Any) -> Any:
    """An array in the kind and floating dtype of `like`; integers do not cut a plan to zeros."""
    like = bare(like)
    if hasattr(like, "new_tensor"):
        x = x if hasattr(x, "new_tensor") else like.double().new_tensor(x)
        return x.to(like.dtype) if _is_float(like) else x
    return x.astype(like.dtype, copy=False) if _is_float(like) else x


def scalar_like(value: float, like: Any) -> Any:
    """A number as POT returns it: a scalar of NumPy, a tensor without axes of torch."""
    like = bare(like)
    if hasattr(like, "new_tensor"):
        return (like if _is_float(like) else like.double()).new_tensor(value)
    return (np.dtype(like.dtype) if _is_float(like) else np.dtype(float)).type(value)


def with_gradients(value: Any, *pairs: tuple[Any, Any]) -> Any:
    """The value as a differentiable tensor with the given partial derivatives; any other kind as it is."""
    for x, g in pairs:
        if getattr(x, "requires_grad", False):
            value = value + ((x - x.detach()) * g).sum()
    return value


def structure_gradients(C1: Any, C2: Any, T: Any, loss_fun: str) -> tuple[Any, Any]:
    """Partial derivatives of E(T) in C1 and C2, from the marginals that T has."""
    C1, C2, mu, nu = bare(C1), bare(C2), T.sum(1), T.sum(0)
    both1, both2 = mu[:, None] * mu[None], nu[:, None] * nu[None]
    if loss_fun == "square_loss":
        return 2 * C1 * both1 - 2 * T @ C2 @ T.T, 2 * C2 * both2 - 2 * T.T @ C1 @ T
    log1, log2 = ((C + 1e-15).log() if hasattr(C, "log") else np.log(C + 1e-15) for C in (C1, C2))
    return log1 * both1 - T @ log2 @ T.T, both2 - (T.T @ C1 @ T) / (C2 + 1e-15)


# ------------------------------------------------------------------------------------------------------------------- solve


def transport(
    M: Any,
    C1: Any,
    C2: Any,
    p: Any,
    q: Any,
    *,
    loss_fun: str,
    alpha: Any = 1.0,
    G0: Any = None,
    reg: Any = 0.0,
    tol: Any,
    tol_abs: Any = 0.0,
    max_iter: Any,
    limit: float,
    verbose: bool = False,
    warn: bool = True,
    m: Any = None,
    tau: Any = None,
) -> Result:
    """One `solve` for a call of POT's; `limit` is the default of its iteration limit.

    The entropy is POT's, sum T log T: below full mass another one than KL(T || p q'). Starts where POT starts, at the product
    plan or at G0, and keeps to that basin. A warning is given where the plan is not stationary and the caller has not asked for
    fewer iterations himself.
    """
    loss = loss_of(loss_fun)
    p, q = bare(p, bare(C1)), bare(q, bare(C2))
    alpha, reg, m = number(alpha), number(reg), number(m)
    if M is None or alpha == 1.0:
        M, alpha = None, 1.0
    start = "unannealed" if G0 is None and reg > 0 else bare(G0, bare(C1))
    # the residual of the exact solver is its Frank-Wolfe gap: how far F may be above the minimum nearby
    callback = Below(float(tol_abs)) if tol_abs else None
    result = solve(
        bare(M), bare(C1), bare(C2), p, q, alpha=alpha, loss=loss, m=m, tau=tau, reg=reg, init=start,
        tol=max(float(tol), 1e-8 if reg > 0 else 1e-14), max_iter=max(int(max_iter), 1) + (reg == 0), verbose=verbose,
        callback=callback, on_fail="ignore", reference=1.0 if m is not None and reg > 0 else None,
    )  # fmt: skip
    if reg > 0 and result.residuals.marginal > 1e-7 and result.provenance["dtype"] == "float64":
        result = _feasible(result, bare(M), bare(C1), bare(C2), p, q, alpha, loss_fun, m, tau, reg)
    if warn and not result.converged and result.status is not Status.STOPPED:
        enough = ENOUGH[np.dtype(result.provenance["dtype"]).itemsize]
        asked = result.status is Status.MAX_ITER and max_iter != limit
        if not asked and (result.residuals.stationarity > enough or result.residuals.marginal > enough):
            text = f"{result.status.text} (stationarity {result.residuals.stationarity:.1e})"
            warnings.warn(text, ConvergenceWarning, stacklevel=4)
    return result


def _feasible(
    result: Result, M: Any, C1: Any, C2: Any, p: Any, q: Any, alpha: Any, loss_fun: str, m: Any, tau: Any, reg: float
) -> Result:
    """A run that ended early is as infeasible as it is far from stationary; POT's plans keep the marginals after every step.

    One more step of POT's, the linear problem at the gradient, solved to the end.
    """
    from .helpers import energy, linear_cost

    a = 1.0 if M is None else 0.5 if alpha is None else alpha
    cost = linear_cost(M, C1, C2, result.plan, a, loss_fun)
    start = result.plan if float(result.plan.sum()) > 0 else None
    reference = 1.0 if m is not None else None
    step = solve(cost, p=p, q=q, m=m, tau=tau, reg=reg, reference=reference, init=start, tol=1e-9, on_fail="ignore")
    quad = a * energy(C1, C2, step.plan, loss_fun) if a > 0 else 0.0
    linear = 0.0 if M is None else (1 - a) * float((M * step.plan).sum())
    residuals = replace(step.residuals, stationarity=result.residuals.stationarity)
    return replace(
        result, plan=step.plan, value_linear=linear, value_quad=quad, mass=step.mass, marginal_a=step.marginal_a,
        marginal_b=step.marginal_b, residuals=residuals,
    )  # fmt: skip


def check_start(G0: Any, p: Any, q: Any, C1: Any, C2: Any, capped: bool) -> None:
    """Refuse a start that breaks the marginals; where they are caps its mass is free, since the plan is filled up to m."""
    if G0 is None:
        return
    for axis, w, C in ((1, p, C1), (0, q, C2)):
        if w is not False:
            x = host(bare(G0)).sum(axis)
            weight = np.full(len(C), 1 / len(C)) if w is None else host(bare(w, bare(C)))
            excess = x - weight if capped else np.abs(x - weight)
            worst = float(np.max(excess - 1e-6 * weight))
            if worst > 1e-8:
                side = ("columns", "rows")[axis]
                raise ValueError(
                    f"G0 breaks the marginal of its {side} by {worst:.2e}: scale it so that G0.sum({axis}) "
                    + ("stays below the weights" if capped else "equals the weights")
                )


def exact_log(result: Result, name: str, like: Any, p: Any, q: Any) -> dict[str, Any]:
    """POT's log of a conditional gradient run: losses, last linear program, value; and the whole `Result`."""
    f, g, _ = result.potentials
    for x, w in ((f, result.weights[0]), (g, result.weights[1])):
        if (np.asarray(w) <= 0).any():
            x[np.asarray(w) <= 0] = 0.0
    mass = min(float(np.sum(w)) for w in result.weights)
    value = scalar_like(result.value_linear + result.value_quad, like)
    used = result.plan > 0
    cost = float((result.gradient[used] * result.plan[used]).sum())
    return {
        "loss": [*(float(x) * mass for x in result.history[:, 0]), value],
        "cost": cost,
        "u": array_like(f, like),
        "v": array_like(g, like),
        "warning": None if result.converged else result.status.text,
        "result_code": 1 if result.converged else 0,
        name: value,
        "fpgwot": result,
    }


def entropic_log(result: Result, name: str, like: Any) -> dict[str, Any]:
    """POT's log of an entropic run: residuals and the value without its entropy; and the whole `Result`."""
    value = scalar_like(result.value_linear + result.value_quad, like)
    return {"err": [float(x) for x in result.history[:, 1]], name: value, "fpgwot": result}


def parts(log: dict[str, Any], result: Any, like: Any) -> None:
    """Add the two parts of a fused value to a log."""
    log["lin_loss"] = scalar_like(result.value_linear, like)
    log["quad_loss"] = scalar_like(result.value_quad, like)
