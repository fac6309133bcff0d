"""Losses for training: the value of R-FPGWOT between feature sequences, and cross-entropy against a plan."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._solve import solve

REDUCTIONS = ("mean", "sum", "none")


class FPGWLoss(torch.nn.Module):
    r"""Value of the regularised fused partial Gromov-Wasserstein alignment of two feature sequences, `fpgwot.align` as a loss.

    .. math:: \min_T\ (1-\alpha) \langle D(X, Y) + \rho |i/n - j/m|, T \rangle + \alpha E(T) + reg\, KL(T \,\|\, p q'),
              \quad T1 \le p,\ T'1 \le q,\ \textstyle\sum T = mass

    D and the structures are scaled to mean one, so that the value does not depend on the scale of the features; the gradient
    goes through that scaling as well. A value loss alone lets features collapse: read `docs/training.md` first.

    Parameters
    ----------
    mass : float in (0, 1]
        Share of the frames to match; 1 matches all.
    metric : "cosine" (1 - cos), "sqeuclidean", "euclidean"
    alpha : float in [0, 1]
    reg_rel : float
        Entropy weight as a share of the cost range; 0 solves exactly, on one problem after the other.
    structure : "laplace", "linear" or None
    scale, rho : float
        As in `fpgwot.align`.
    reduction : "mean", "sum", "none"
        Over the batch.
    tol, max_iter, backend, on_fail
        As in `fpgwot.solve`.

    Examples
    --------
    >>> X, Y = torch.rand(2, 12, 4, requires_grad=True), torch.rand(2, 10, 4)
    >>> loss, plan = FPGWLoss(mass=0.5)(X, Y, lengths_x=torch.tensor([12, 9]), return_plan=True)
    >>> loss.backward()
    >>> plan.shape, plan.sum((1, 2)).round(decimals=4).tolist(), bool(X.grad[1, 9:].any())
    (torch.Size([2, 12, 10]), [0.5, 0.5], False)
    """

    def __init__(
        self,
        mass: float = 0.8,
        *,
        metric: str = "cosine",
        alpha: float = 0.3,
        reg_rel: float = 0.01,
        structure: str | None = "laplace",
        scale: float = 0.05,
        rho: float = 0.0,
        reduction: str = "mean",
        tol: float | None = None,
        max_iter: int | None = None,
        backend: str = "auto",
        on_fail: str = "warn",
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("metric", metric, ("cosine", "sqeuclidean", "euclidean")),
            ("structure", structure, ("laplace", "linear", None)),
            ("reduction", reduction, REDUCTIONS),
        ):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}; choose one of {known}")
        if isinstance(mass, str):
            raise NotImplementedError("mass='auto' is a choice, without a gradient: choose with fpgwot.align, pass the number")
        if rho < 0 or reg_rel < 0 or not 0 < mass <= 1:
            raise ValueError(f"rho and reg_rel must be 0 or more, mass in (0, 1]; got {rho}, {reg_rel}, {mass}")
        self.mass, self.metric, self.alpha, self.reg_rel = mass, metric, alpha, reg_rel
        self.structure, self.scale, self.rho, self.reduction = structure, scale, rho, reduction
        self.tol, self.max_iter, self.backend, self.on_fail = tol, max_iter, backend, on_fail

    def forward(
        self,
        X: Tensor | None = None,
        Y: Tensor | None = None,
        *,
        M: Tensor | None = None,
        lengths_x: Tensor | None = None,
        lengths_y: Tensor | None = None,
        return_plan: bool = False,
    ) -> Any:
        """The loss; with `return_plan` also the detached plan.

        Parameters
        ----------
        X, Y : tensors (n, d), (m, d), or (B, n, d), (B, m, d)
        M : tensor (n, m) or (B, n, m)
            Feature cost in place of X and Y.
        lengths_x, lengths_y : integer tensors (B,), optional
            Frames in use; what is behind them has no weight and gets no gradient.
        """
        if (M is None) != (X is not None and Y is not None) or (X is None) != (Y is None):
            raise ValueError("pass features X and Y, or a feature cost M")
        cost = M if M is not None else _feature_cost(X, Y, self.metric)  # type: ignore[arg-type]
        n, m = cost.shape[-2:]
        a, b = _frames(n, lengths_x, cost), _frames(m, lengths_y, cost)  # frames in use, (n,) or (B, n)
        cost, pair = _cost(cost, a, b, self.rho)
        reg: Any = 0.0
        C1 = C2 = None
        if self.structure is not None:
            (C1, top1), (C2, top2) = (_structure(self.structure, x, self.scale) for x in (a, b))
            energy = _mean(C1**2, a, a) + _mean(C2**2, b, b) - 2 * _mean(C1, a, a) * _mean(C2, b, b)
            root = torch.where(energy > 0, energy, 1.0).sqrt()
            C1, C2 = (C / root[..., None, None] for C in (C1, C2))
            if self.reg_rel:
                reg = self.reg_rel * self.alpha * torch.maximum(top1, top2) ** 2 / root**2
            C1, C2 = C1.to(cost.dtype), C2.to(cost.dtype)
        if self.reg_rel:
            high = cost.masked_fill(~pair, -torch.inf).flatten(-2).max(-1).values  # amax divides ties by a slow count
            span = high - cost.masked_fill(~pair, torch.inf).flatten(-2).min(-1).values
            span = torch.where(span > 0, span, 1.0) if self.structure is None else span
            reg = reg + self.reg_rel * (1 - self.alpha if self.structure is not None else 1) * span.double()
        out = solve(
            cost, C1, C2, a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True),
            alpha=None if self.structure is None else self.alpha, m=self.mass, reg=reg,
            tol=self.tol, max_iter=self.max_iter, backend=self.backend, on_fail=self.on_fail,
        )  # fmt: skip
        value = out.value
        if self.reduction != "none":
            value = value.mean() if self.reduction == "mean" else value.sum()
        return (value, out.plan.detach()) if return_plan else value

    def extra_repr(self) -> str:
        """What the module is shown with."""
        return f"mass={self.mass}, alpha={self.alpha}, reg_rel={self.reg_rel}, structure={self.structure!r}"


def plan_cross_entropy(
    similarity: Tensor,
    plan: Tensor,
    *,
    temperature: float = 0.1,
    lengths_x: Tensor | None = None,
    lengths_y: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Cross-entropy of similarities against a plan as pseudo-label, in both directions and per unit of mass.

    .. math:: -\tfrac12 \textstyle\sum_{ij} T_{ij} [\log softmax_j(S_{ij}/t) + \log softmax_i(S_{ij}/t)] \,/\, \sum T

    Parameters
    ----------
    similarity : tensor (n, m) or (B, n, m)
        S, of normalised features X Y' for instance.
    plan : tensor of the same shape
        T; no gradient goes into it.
    temperature : float
    lengths_x, lengths_y : integer tensors (B,), optional
        Frames in use; the others take no part in the softmax.
    reduction : "mean", "sum", "none"

    Examples
    --------
    >>> plan_cross_entropy(torch.eye(3), torch.eye(3) / 3, temperature=0.1) < plan_cross_entropy(torch.eye(3), torch.ones(3, 3))
    tensor(True)
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"unknown reduction {reduction!r}; choose one of {REDUCTIONS}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature!r}")
    S, T = similarity / temperature, plan.detach()
    if lengths_x is not None or lengths_y is not None:
        a, b = _frames(S.shape[-2], lengths_x, S), _frames(S.shape[-1], lengths_y, S)
        S = S.masked_fill(~((a[..., :, None] > 0) & (b[..., None, :] > 0)), torch.finfo(S.dtype).min / 2)
    both = (T * (S.log_softmax(-1) + S.log_softmax(-2))).sum((-2, -1))
    mass = T.sum((-2, -1))
    out = -both / torch.where(mass > 0, 2 * mass, 1.0)  # a pair without matched mass has nothing to say
    return out if reduction == "none" else out.mean() if reduction == "mean" else out.sum()


def _feature_cost(X: Tensor, Y: Tensor, metric: str) -> Tensor:
    if X.ndim not in (2, 3) or X.ndim != Y.ndim or X.shape[-1] != Y.shape[-1]:
        raise ValueError(
            f"X and Y must be (frames, features), or (B, frames, features), with the same features; got {tuple(X.shape)} "
            f"and {tuple(Y.shape)}"
        )
    if metric == "cosine":
        X, Y = (Z / Z.norm(dim=-1, keepdim=True).clamp_min(1e-12) for Z in (X, Y))
        return 1 - X @ Y.mT
    if metric == "euclidean":
        return torch.cdist(X, Y)
    return ((X[..., :, None, :] - Y[..., None, :, :]) ** 2).sum(-1)


def _frames(n: int, lengths: Tensor | None, like: Tensor) -> Tensor:
    """1 for the frames in use, 0 behind them, in float64."""
    index = torch.arange(n, device=like.device)
    if lengths is None:
        return torch.ones(n, dtype=torch.float64, device=like.device)
    if lengths.ndim != 1 or like.ndim != 3 or len(lengths) != len(like) or bool(((lengths < 1) | (lengths > n)).any()):
        raise ValueError(f"lengths must be one number of frames, 1 to {n}, for each problem of the batch; got {lengths}")
    return (index < lengths[:, None].to(like.device)).double()


def _cost(cost: Tensor, a: Tensor, b: Tensor, rho: float) -> tuple[Tensor, Tensor]:
    """Feature cost and price of being off the diagonal, of mean one over the pairs in use, and these pairs."""
    pair = (a[..., :, None] * b[..., None, :]).to(cost.dtype)
    number = pair.sum((-2, -1), keepdim=True)
    if rho > 0:
        mean = (cost * pair).sum((-2, -1), keepdim=True) / number
        shares = (torch.arange(x.shape[-1], device=x.device) / x.sum(-1, keepdim=True) for x in (a, b))
        x, y = shares
        off = (x[..., :, None] - y[..., None, :]).abs().to(cost.dtype)
        cost = cost / torch.where(mean > 0, mean, 1.0) + rho * off
    size = (cost.abs() * pair).sum((-2, -1), keepdim=True) / number
    return cost / torch.where(size > 0, size, 1.0), pair > 0


def _structure(kind: str, frames: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Temporal distances (n, n) or (B, n, n) of sequences of unequal length, and the largest one of each."""
    index = torch.arange(frames.shape[-1], dtype=torch.float64, device=frames.device)
    length = frames.sum(-1)
    share = (index[:, None] - index).abs() / length[..., None, None]
    longest = (length - 1) / length
    return (share, longest) if kind == "linear" else (-torch.expm1(-share / scale), -torch.expm1(-longest / scale))


def _mean(C: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Mean of a structure over the frames in use."""
    return (a[..., None, :] @ C @ b[..., :, None])[..., 0, 0] / (a.sum(-1) * b.sum(-1))
