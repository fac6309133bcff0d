"""The embedder and the losses."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fpgwot.nn import plan_cross_entropy


class Embedder(nn.Module):
    """Two temporal convolutions from features (B, n, d) to unit vectors (B, n, dim).

    With `frames` (any number of input frames) there is a linear skip that starts at their PCA while the last convolution starts
    at 0: training begins from the geometry of the input and cannot lose it by chance.
    """

    def __init__(self, d: int, hidden: int = 64, dim: int = 32, dropout: float = 0.1, frames: np.ndarray | None = None) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Dropout(dropout),
            nn.Conv1d(d, hidden, 5, padding=2),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Conv1d(hidden, hidden, 5, padding=2),
            nn.ReLU(),
            nn.Conv1d(hidden, dim, 1),
        )
        self.skip = None
        if frames is not None:
            axes = np.linalg.svd(frames - frames.mean(0), full_matrices=False)[2][:dim]
            self.skip = nn.Linear(d, dim)
            with torch.no_grad():
                self.skip.weight.zero_()
                self.skip.weight[: len(axes)] = torch.as_tensor(axes, dtype=torch.float32)
                self.skip.bias.zero_()
                self.convolutions[-1].weight.zero_()
                self.convolutions[-1].bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        z = self.convolutions(x.transpose(1, 2)).transpose(1, 2)
        return F.normalize(z if self.skip is None else z + self.skip(x), dim=-1)


class ImageEmbedder(nn.Module):
    """A small convolutional network for each image (B, n, channels, height, width), then an `Embedder` along time.

    Four layers of stride 2, the means of a 2 x 2 grid of what is left, and `hidden` numbers for each image. It starts at random:
    there is nothing like the PCA of the input. `frames` (any number of images) give mean and sd of each channel.
    """

    def __init__(self, frames: np.ndarray, hidden: int = 64, dim: int = 32, dropout: float = 0.1) -> None:
        super().__init__()
        pixels = np.moveaxis(frames, -3, 0).reshape(frames.shape[-3], -1)
        self.register_buffer("mean", torch.as_tensor(pixels.mean(1), dtype=torch.float32)[:, None, None])
        self.register_buffer("sd", torch.as_tensor(pixels.std(1) + 1e-6, dtype=torch.float32)[:, None, None])
        layers: list[nn.Module] = []
        for before, after in pairwise((frames.shape[-3], 16, 32, 64, 64)):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(4, after), nn.ReLU()]
        self.images = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * 64, hidden))
        self.time = Embedder(hidden, hidden, dim, dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / self.sd
        return self.time(self.images(x.flatten(0, 1)).unflatten(0, x.shape[:2]))


def intra_loss(Z: Tensor, window: int = 3, margin: float = 1.0) -> Tensor:
    r"""C-IDM of embedded recordings (B, n, dim), with gradient (published codes compute it on detached arrays).

    .. math:: mean_{0<|i-k| \le w} \frac{D_{ik}}{1 + (i-k)^2} + mean_{|i-k| > w} \max(0, margin - D_{ik})

    with D the squared distances and the first mean weighted by 1/(1 + (i-k)^2).
    """
    n = Z.shape[1]
    lag = torch.arange(n, device=Z.device)
    lag = (lag[:, None] - lag[None]).abs()
    D = (2 - 2 * Z @ Z.transpose(1, 2)).clamp_min(0)
    pull = ((lag <= window) & (lag > 0)) / (1.0 + lag**2)
    far = (lag > window).float()
    return (D * pull).sum((1, 2)).mean() / pull.sum() + (F.relu(margin - D) * far).sum((1, 2)).mean() / far.sum().clamp_min(1)


def plan_loss(A: Tensor, B: Tensor, T: Tensor, temperature: float = 0.1) -> Tensor:
    """Cross-entropy of the plans (constants) and the softmax of similarities; pairs without any mass say nothing."""
    matched = T.sum((1, 2)) > 1e-6
    if not matched.any():
        return A.new_zeros(())
    return plan_cross_entropy((A @ B.transpose(1, 2))[matched], T[matched], temperature=temperature)


def value_loss(A: Tensor, B: Tensor, T: Tensor) -> Tensor:
    """Cost of the plan per unit of mass. Warning: one point for all frames makes it 0, and that is where it went."""
    return ((T * (1 - A @ B.transpose(1, 2))).sum((1, 2)) / T.sum((1, 2)).clamp_min(1e-6)).mean()


def inter_loss(A: Tensor, B: Tensor, T: Tensor) -> Tensor:
    """Best against worst match of each frame, both read from the plan (published codes read them from a kernel)."""
    C = 1 - A @ B.transpose(1, 2)
    best, worst = (C.gather(2, k(T, dim=2, keepdim=True))[..., 0] for k in (torch.argmax, torch.argmin))
    weight = T.sum(2)
    return (weight * F.softplus(2 * (best - worst))).sum() / weight.sum().clamp_min(1e-6)


def effective_rank(Z: np.ndarray) -> float:
    """exp of the entropy of the normalised spectrum of the covariance of embedded frames (n, dim): 1 is a line.

    It does not see a collapse to a point, whose remaining noise may have any rank: that is what `spread` is for.
    """
    Z = np.asarray(Z, dtype=float)
    spectrum = np.linalg.svd(Z - Z.mean(0), compute_uv=False) ** 2
    if not spectrum.sum() > 1e-12 * len(Z):
        return 1.0
    share = spectrum[spectrum > 0] / spectrum.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def spread(Z: np.ndarray) -> float:
    """Mean squared distance of embedded frames (n, dim) from their mean: between 0, one point for all, and 1."""
    return float(((Z - Z.mean(0)) ** 2).sum(1).mean())
