"""Temporal structures whose parameters are learnt: an operator for the solver, and a tensor that carries its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..structure import LaplaceKernel, PowerDistance, Structure, Toeplitz


@dataclass(frozen=True)
class Temporal:
    """A structure matrix of points in time; make one with `laplace_kernel`, `power_distance` or `toeplitz`.

    `carrier` holds the weights of the lags 0, ..., n-1, a function of the parameters, so that a gradient costs O(n m log n) and
    no n x n array; with time stamps it is the matrix itself.
    """

    operator: Structure
    carrier: Tensor

    @property
    def by_lag(self) -> bool:
        """Whether the gradient is taken in the weights of the lags."""
        return self.carrier.ndim == 1


def laplace_kernel(n: int | None, scale: Any, weight: Any = 1.0, offset: Any = 0.0, *, times: Any = None) -> Temporal:
    """C_ik = offset + weight exp(-|t_i - t_k| / scale), differentiable in scale, weight and offset.

    Parameters
    ----------
    n : int, or None where times are given
    scale, weight, offset : float or tensor with one entry
    times : increasing time stamps (n,), constant

    Examples
    --------
    >>> scale = torch.tensor(2.0, requires_grad=True)
    >>> laplace_kernel(3, scale).carrier.round(decimals=3).tolist()
    [1.0, 0.6069999933242798, 0.36800000071525574]
    """
    numbers = [_number(x) for x in (scale, weight, offset)]
    operator = LaplaceKernel(n, numbers[0], times, numbers[1], numbers[2])
    lag = _lags(operator.shape[1], times, (scale, weight, offset))
    return Temporal(operator, offset + weight * torch.exp(-lag / scale))


def power_distance(n: int | None, power: Any = 1, scale: Any = 1.0, *, times: Any = None) -> Temporal:
    """C_ik = scale |t_i - t_k|^power, differentiable in scale and, on a grid of steps of one, in a power of any positive value.

    Parameters
    ----------
    n : int, or None where times are given
    power : positive float or tensor; 1 or 2 with times
    scale : float or tensor with one entry
    times : increasing time stamps (n,), constant

    Examples
    --------
    >>> power_distance(4, 2, torch.tensor(0.5)).carrier.tolist()
    [0.0, 0.5, 2.0, 4.5]
    """
    p, s = _number(power), _number(scale)
    if not p > 0:
        raise ValueError(f"power must be positive, got {p:g}")
    lag = _lags(PowerDistance(n, times=times).shape[1], times, (power, scale))
    carrier = scale * lag**power
    if p in (1, 2):
        return Temporal(PowerDistance(n, int(p), s, times), carrier)
    if times is not None:
        raise ValueError(f"with times the power must be 1 or 2, got {p:g}: pass a matrix instead")
    return Temporal(Toeplitz(carrier.detach().cpu().numpy()), carrier)


def toeplitz(weights: Tensor) -> Temporal:
    """C_ik = weights[|i-k|], differentiable in the weights (n,).

    Examples
    --------
    >>> toeplitz(torch.tensor([0.0, 1.0, 0.5])).operator.to_dense()[0, 0].tolist()
    [0.0, 1.0, 0.5]
    """
    return Temporal(Toeplitz(weights.detach().cpu().numpy()), weights)


def _number(x: Any) -> float:
    return float(x.detach()) if isinstance(x, Tensor) else float(x)


def _lags(n: int, times: Any, like: tuple[Any, ...]) -> Tensor:
    """|t_i - t_k| of all pairs, or of the first point without time stamps, of the dtype and device of the parameters."""
    tensors = [x for x in like if isinstance(x, Tensor)]
    dtype = tensors[0].dtype if tensors else torch.get_default_dtype()
    device = tensors[0].device if tensors else None
    if times is None:
        return torch.arange(n, dtype=dtype, device=device)
    t = torch.as_tensor(times, dtype=dtype, device=device)
    return (t[:, None] - t).abs()
