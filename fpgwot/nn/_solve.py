"""`solve` and `solve_batch` of the package, as differentiable functions of their inputs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import _dispatch, api
from .._finish import trimmed
from .._sensitivity import Gradients, Optimum, plan_adjoint
from ..result import ConvergenceError, ConvergenceWarning, Result
from ..structure import SCAN_FROM, Dense, Structure, as_structure, kl_structures
from ._structure import Temporal

RESIDUAL = 1e-6  # of the adjoint system, above which a gradient is complained about
DEVICE = ("M", "C1", "C2", "p", "q", "reference")  # the arrays of a problem
INPUTS = ("M", "C1", "C2", "p", "q", "alpha", "reg", "m", "tau", "tv", "smoothness", "reference")


@dataclass(frozen=True)
class Transport:
    """What `solve` returns.

    Attributes
    ----------
    value : tensor () or (B,), differentiable
    plan : tensor (n, m) or (B, n, m), differentiable where reg > 0
    result : fpgwot.Result
        The same solution detached: certificate, potentials, matches. Its arrays are those of the backend.
    """

    value: Tensor
    plan: Tensor
    result: Result


def solve(
    M: Any = None,
    C1: Any = None,
    C2: Any = None,
    p: Any = None,
    q: Any = None,
    *,
    alpha: Any = None,
    loss: str = "square",
    m: Any = None,
    tau: Any = None,
    tv: Any = None,
    sink: Any = None,
    reg: Any = 0.0,
    reference: Any = None,
    smoothness: Any = 0.0,
    mask: Any = None,
    init: Any = None,
    n_init: int = 1,
    random_state: Any = None,
    tol: float | None = None,
    max_iter: int | None = None,
    backend: str = "auto",
    on_fail: str = "warn",
) -> Transport:
    r"""`fpgwot.solve` with gradients in M, C1, C2, p, q, alpha, reg, m, tau, tv, sink, smoothness and reference.

    .. math:: V(\theta) = \min_T F(T; \theta), \qquad
              \frac{dV}{d\theta} = \frac{\partial F}{\partial \theta}(T^*; \theta) + \text{potentials of the weights in } \theta

    The gradient of the value costs about one gradient of the energy. That of the plan solves the linearised optimality
    conditions by conjugate gradients, and is computed only where the loss depends on the plan.

    Parameters
    ----------
    M : tensor (n, m) or (B, n, m)
    C1, C2 : tensors (n, n), (m, m) or with a batch axis; `laplace_kernel`, `power_distance`, `toeplitz` of this module, which are
        differentiable in their parameters; or structure operators of the package, which are constant
    p, q : tensors (n,), (m,) or with a batch axis
        The gradients are the potentials, and in the units of `F` exact for every change that keeps the problem feasible. In a
        balanced problem a constant may go from one to the other; here their means under p and q are equal. Points of weight 0
        get gradient 0.
    alpha, reg, m, tv, sink, smoothness : float or tensor, one number or one per problem
    tau : float, pair, or tensor with one or two entries
    reference : tensor (n, m), (B, n, m) or a number
    loss, mask, init, n_init, random_state, tol, max_iter, backend, on_fail
        As in `fpgwot.solve`. `on_fail` also says what to do where the linearised conditions are singular.

    Returns
    -------
    Transport

    Raises
    ------
    TypeError
        No input is a tensor.
    ValueError
        As `fpgwot.solve`; and in the backward pass, where a loss depends on the plan of an exact solve (reg=0).
    NotImplementedError
        m="auto", and as `fpgwot.solve`.

    Notes
    -----
    The minimiser is the local one that the solver finds; where several starts tie, the gradient is that of the one returned.
    With float32 inputs the value's gradient is computed in float32, that of the plan in float64. A mass that uses up a side has
    no derivative towards larger masses: the one towards smaller masses is returned. First derivatives only.

    Examples
    --------
    >>> x, y = torch.linspace(0, 1, 5, requires_grad=True), torch.linspace(0, 1, 6)
    >>> out = solve((x[:, None] - y).abs(), (x[:, None] - x) ** 2, (y[:, None] - y) ** 2, m=0.7, reg=0.05)
    >>> out.value.backward()
    >>> x.grad.shape, out.result.converged
    (torch.Size([5]), True)
    """
    if isinstance(m, str):
        raise NotImplementedError("m='auto' is a choice, without a gradient: take result.mass_path.mass of fpgwot.solve as m")
    if sink is not None and tv is None:
        tv, sink = sink / 2, None  # the same price; a tensor takes the factor back to the caller
    if isinstance(tau, (tuple, list)) and any(isinstance(t, Tensor) for t in tau):
        tau = torch.stack([torch.as_tensor(t, dtype=torch.float64).reshape(()) for t in tau])
    carriers = [C.carrier if isinstance(C, Temporal) else C for C in (C1, C2)]
    values = (M, *carriers, p, q, alpha, reg, m, tau, tv, smoothness, reference)
    tensors = [x if isinstance(x, Tensor) else None for x in values]
    if all(x is None for x in tensors):
        raise TypeError("no input is a torch tensor: use fpgwot.solve for other arrays")
    options = {"loss": loss, "sink": sink, "mask": mask, "init": init, "n_init": n_init, "random_state": random_state}
    options |= {"tol": tol, "max_iter": max_iter, "on_fail": on_fail}
    call = _Call(dict(zip(INPUTS, (M, C1, C2, *values[3:]), strict=True)), options, backend)
    value, plan = _Solve.apply(call, *tensors)
    return Transport(value, plan, call.result)


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
    smoothness: Any = 0.0,
    init: str | None = None,
    n_init: int = 1,
    random_state: Any = None,
    tol: float | None = None,
    max_iter: int | None = None,
    backend: str = "auto",
    on_fail: str = "warn",
) -> list[Transport]:
    """Differentiable solves of problems of unequal sizes, together; one `Transport` for each.

    Parameters
    ----------
    problems : sequence of dicts
        M, C1, C2, p, q of each problem as tensors, and mask where wanted; all problems have the same keys.
    alpha, ..., on_fail
        As in `solve`, the same for all problems or tensors with one entry for each.

    Notes
    -----
    Shorter problems are padded with points of weight 0, which cost the solver no time; plans and gradients come back without
    them. The certificates are in `result`, which is that of the problem alone.

    Examples
    --------
    >>> pair = [dict(M=torch.rand(4, 5, requires_grad=True)), dict(M=torch.rand(6, 3, requires_grad=True))]
    >>> out = solve_batch(pair, reg=0.1, m=0.5)
    >>> sum(x.value for x in out).backward()
    >>> [x["M"].grad.shape for x in pair]
    [torch.Size([4, 5]), torch.Size([6, 3])]
    """
    if not problems:
        return []
    known = ("M", "C1", "C2", "p", "q", "mask")
    for x in problems:
        if set(x) - set(known):
            raise TypeError(f"unknown keys {sorted(set(x) - set(known))} in a problem; it takes {list(known)}")
        if set(x) != set(problems[0]):
            raise ValueError(f"the problems differ in what is given: {sorted(x)} and {sorted(problems[0])}; all or none")
        if not all(isinstance(v, Tensor) for v in x.values()):
            raise TypeError("solve_batch pads its inputs and takes tensors only")
    sizes = [tuple(x["M"].shape) if "M" in x else (len(x["C1"]), len(x["C2"])) for x in problems]
    stacked: dict[str, Any] = {k: _padded([x[k] for x in problems]) for k in problems[0]}
    like = next(x for x in problems[0].values() if x.dtype != torch.bool)
    for side, name in enumerate("pq"):
        if name not in stacked:
            full = [torch.full((s[side],), 1 / s[side], dtype=torch.float64, device=like.device) for s in sizes]
            stacked[name] = _padded(full)
    out = solve(
        **stacked, alpha=alpha, loss=loss, m=m, tau=tau, tv=tv, sink=sink, reg=reg, smoothness=smoothness, init=init,
        n_init=n_init, random_state=random_state, tol=tol, max_iter=max_iter, backend=backend, on_fail=on_fail,
    )  # fmt: skip
    return [
        Transport(out.value[b], out.plan[b, :n, :k], trimmed(out.result[b], n, k, lambda x: x)) for b, (n, k) in enumerate(sizes)
    ]


def _padded(tensors: list[Tensor]) -> Tensor:
    """A stack of the tensors, filled up with zeros behind."""
    shape = [max(t.shape[k] for t in tensors) for k in range(tensors[0].ndim)]
    pads = [[x for k in reversed(range(t.ndim)) for x in (0, shape[k] - t.shape[k])] for t in tensors]
    return torch.stack([torch.nn.functional.pad(t, pad) for t, pad in zip(tensors, pads, strict=True)])


# ------------------------------------------------------------------------------------------------------------- inside a call


class _Call:
    """One call: its inputs as arrays of the backend, its result, and the derivatives from both."""

    result: Result

    def __init__(self, inputs: dict[str, Any], options: dict[str, Any], backend: str) -> None:
        arrays = [x for k, x in inputs.items() if k in DEVICE] + [options["mask"], options["init"]]
        self.backend = backend
        self.be, _, self.take, self.give = _dispatch.resolve([x for x in arrays if not isinstance(x, Temporal)], backend)
        self.by_lag = [isinstance(inputs[k], Temporal) and inputs[k].by_lag for k in ("C1", "C2")]
        self.inputs = {k: self._read(k, x) for k, x in inputs.items()}
        self.options = options | {k: self.take(options[k]) for k in ("mask", "init")}

    def _read(self, name: str, x: Any) -> Any:
        if isinstance(x, Temporal):
            return x.operator
        if name in ("C1", "C2") and x is not None and not isinstance(x, Structure):
            return as_structure(self.be.xp.ascontiguousarray(self.take(x)), self.be)
        if not isinstance(x, Tensor):
            return x
        return self.take(x) if name in DEVICE else x.detach().cpu().double().numpy()

    def run(self) -> None:
        """Solve."""
        self.result = api.solve(**self.inputs, **self.options, backend=self.backend)

    def optimum(self, plan: Any) -> Optimum:
        """The solution with a batch axis; `plan` is the tensor that was handed out, which autograd guards."""
        x, r, xp = self.inputs, self.result, self.be.xp

        def lift(a: Any) -> Any:
            a = xp.asarray(a)
            return a if r.is_batch else a[None]

        def numbers(a: Any) -> np.ndarray:
            return np.broadcast_to(np.asarray(a, float).reshape(-1), (len(T),))

        T = lift(self.take(plan))
        alpha = x["alpha"] if x["alpha"] is not None else 0.0 if x["C1"] is None else 1.0 if x["M"] is None else 0.5
        C1, C2 = (
            Dense(C.to_dense()) if C is not None and C.shape[1] < SCAN_FROM and not isinstance(C, Dense) else C
            for C in (x["C1"], x["C2"])
        )
        if self.options["loss"] == "kl" and C1 is not None and C2 is not None:
            C1, C2 = kl_structures(self.be, C1, C2, T.dtype)
        M, Q = (None if a is None else xp.asarray(a) for a in (x["M"], x["reference"]))
        tau = (np.inf, np.inf) if x["tau"] is None else np.broadcast_to(np.asarray(x["tau"], float).reshape(-1), (2,))
        return Optimum(
            self.be, T, tuple(lift(a) for a in r.potentials), lift(r.weights[0]), lift(r.weights[1]),  # type: ignore[arg-type]
            M=M if M is None or M.ndim == 3 else M[None], C1=C1, C2=C2, loss=self.options["loss"],
            alpha=numbers(alpha), reg=numbers(x["reg"]), tau=(float(tau[0]), float(tau[1])),
            price=None if x["tv"] is None else numbers(x["tv"]), mass=None if x["m"] is None else numbers(x["m"]),
            smoothness=numbers(x["smoothness"]), reference=Q if Q is None or Q.ndim == 3 else Q.reshape((1, 1, 1, *Q.shape)[-3:]),
        )  # fmt: skip

    def gradients(self, plan: Any, v: Any, R: Any, wanted: dict[str, Tensor]) -> dict[str, Any]:
        """Of v value + <R, plan>, in the inputs that are `wanted`."""
        o = self.optimum(plan)
        lift = (lambda a: a) if self.result.is_batch else (lambda a: a[None])
        adjoint = None if R is None else plan_adjoint(o, lift(self.take(R)))
        if adjoint is not None:
            self._complain(adjoint.residual)
        weight = self.be.xp.zeros(len(o.T)) if v is None else self.take(v).reshape(-1)
        d = Gradients(o, weight, adjoint)
        out: dict[str, Any] = {}
        if wanted.keys() & {"p", "q", "m"}:
            out.update(zip(("p", "q", "m"), d.weights(), strict=True))
        for side, name in enumerate(("C1", "C2")):
            if name in wanted:
                lags = self.take(wanted[name]) if self.by_lag[side] else None
                if lags is not None and o.loss == "kl":
                    raise NotImplementedError("loss='kl' has no gradient in the parameters of temporal operators: pass arrays")
                out[name] = d.structure(side) if lags is None else d.lags(side, lags)
        for name, compute in (
            ("M", d.cost),
            ("alpha", d.trade),
            ("reg", d.entropy),
            ("tv", d.price),
            ("smoothness", d.roughness),
            ("reference", d.reference),
        ):
            if name in wanted:
                out[name] = compute()
        if "tau" in wanted:
            out["tau"] = self.be.xp.stack(d.marginal_prices(), axis=1)
        return {name: self._like(x, out[name]) for name, x in wanted.items()}

    def _like(self, x: Tensor, gradient: Any) -> Tensor:
        """The gradient in the shape, dtype and place of the input: summed where one input served several problems."""
        own = gradient.ndim - 1
        shape = tuple(x.shape)
        if len(shape) <= own or shape[0] != len(gradient):
            gradient = gradient.sum(0, keepdims=len(shape) > own)
        if gradient.shape != shape:  # one number for all entries
            gradient = gradient.sum().reshape(shape)
        return self.give(gradient).to(device=x.device, dtype=x.dtype)  # type: ignore[no-any-return]

    def _complain(self, residual: np.ndarray) -> None:
        worst = float(np.max(residual))
        if worst <= RESIDUAL or self.options["on_fail"] == "ignore":
            return
        text = (
            f"the linearised optimality conditions could not be solved (relative residual {worst:.1e}): the plan is not an "
            "isolated minimum, or all but; its gradient is not to be trusted. Raise reg, or use the value"
        )
        if self.options["on_fail"] == "raise":
            raise ConvergenceError(text)
        warnings.warn(text, ConvergenceWarning, stacklevel=2)


class _Solve(torch.autograd.Function):
    """Value and plan of a call as a node of the graph."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *inputs: Tensor | None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Solve; backward recovers everything from the plan, the potentials and the inputs."""
        call.run()
        r = call.result
        plan = call.give(r.plan)
        value = torch.as_tensor(r.value, dtype=plan.dtype, device=plan.device)
        ctx.call, ctx.names = call, [k for k, x in zip(INPUTS, inputs, strict=True) if x is not None]
        ctx.save_for_backward(plan, *(x for x in inputs if x is not None))
        ctx.set_materialize_grads(False)
        return value, plan

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor | None, R: Tensor | None) -> tuple[Any, ...]:
        """One pass for value and plan together."""
        plan, *saved = ctx.saved_tensors
        needed = dict(zip(INPUTS, ctx.needs_input_grad[1:], strict=True))
        wanted = {k: x for k, x in zip(ctx.names, saved, strict=True) if needed[k]}
        found = ctx.call.gradients(plan, v, R, wanted) if wanted and not (v is None and R is None) else {}
        return (None, *(found.get(k) for k in INPUTS))
