"""Training: plans between recordings are the labels, the embedder learns to give matched frames the same place."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from config import Config
from data import Recording
from model import Embedder, ImageEmbedder, effective_rank, inter_loss, intra_loss, plan_loss, spread, value_loss
from plans import FAMILIES, Batch, Family, for_fixed_order, order_is_fixed, solve_plans, with_mass
from torch import nn

MOST_PAIRS = 300  # of recordings, a random choice where there are more
COLLAPSED = 2.0, 0.05  # effective rank and spread below which the alarm goes off


@dataclass
class Trained:
    """What training leaves behind."""

    model: nn.Module
    family: Family | None
    history: dict[str, list[float]] = field(default_factory=dict)  # one entry a logged iteration
    seconds: dict[str, float] = field(default_factory=dict)  # of the solver, and of all
    collapsed: bool = False


def train(recordings: list[Recording], config: Config, family: Family | None = None, folder: Path | None = None) -> Trained:
    """Train an embedder on unlabelled recordings.

    `family` overrides the one that config names. With a folder a checkpoint is kept there, from which config.resume goes on; the
    frames drawn depend on the iteration alone, so a resumed run ends where an uninterrupted one does.
    """
    began = time.perf_counter()
    device = torch.device(config.device)
    grid = np.stack([r.resampled(config.grid).features for r in recordings])  # (recordings, grid, d)
    pairs = list(combinations(range(len(recordings)), 2))
    if len(pairs) > MOST_PAIRS:
        chosen = np.random.default_rng(config.seed).choice(len(pairs), MOST_PAIRS, replace=False)
        pairs = [pairs[k] for k in sorted(chosen)]
    torch.manual_seed(config.seed)
    has_images = recordings[0].images is not None
    inputs = np.stack([r.resampled(config.grid).inputs for r in recordings]) if has_images else grid  # what the embedder sees
    noise = config.noise * (float(inputs.std()) if has_images else 1.0)
    model: nn.Module
    if has_images:
        if config.pca_start == "yes":
            raise SystemExit("pca_start starts from features: images have none to start from")
        model = ImageEmbedder(inputs, config.hidden, config.dim, config.dropout).to(device)
    else:
        use_pca = config.choice("pca_start", config.data != "openpack")
        frames = np.concatenate([r.features for r in recordings]) if use_pca else None
        model = Embedder(grid.shape[2], config.hidden, config.dim, config.dropout, frames).to(device)
    optimiser = torch.optim.Adam(model.parameters(), config.lr, weight_decay=1e-5)
    out, start, saved_plans = Trained(model, None), 0, None
    checkpoint = None if folder is None else folder / "checkpoint.pt"
    if config.resume and checkpoint is not None and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        start, out.history, saved_plans = state["iteration"], state["history"], state["plans"]

    solving = time.perf_counter()
    if config.family != "none":
        out.family = family or configured(config, grid, pairs)
    plans = None if out.family is None else all_plans(grid, pairs, out.family, "euclidean")
    if saved_plans is not None:
        plans = saved_plans
    solver_seconds = time.perf_counter() - solving

    for iteration in range(start, config.iterations):
        since_own = iteration - int(config.teacher * config.iterations)  # iterations on plans of the own embedding
        if out.family is not None and since_own >= 0 and since_own % config.refresh == 0:
            solving = time.perf_counter()
            plans = all_plans(embed(model, inputs), pairs, out.family, "cosine")
            solver_seconds += time.perf_counter() - solving
        rng = np.random.default_rng((config.seed, iteration))
        torch.manual_seed(config.seed * 1_000_003 + iteration)
        batch = rng.choice(len(pairs), config.pairs)
        at = np.sort(rng.permuted(np.tile(np.arange(config.grid), (2, config.pairs, 1)), axis=2)[..., : config.frames], axis=2)
        first, second = (np.stack([inputs[pairs[p][s]][i] for p, i in zip(batch, at[s], strict=True)]) for s in (0, 1))
        x = torch.as_tensor(np.concatenate((first, second)), dtype=torch.float32, device=device)

        model.train()
        Z = model(x + noise * torch.randn_like(x))
        A, B = Z[: config.pairs], Z[config.pairs :]
        loss = config.w_intra * intra_loss(Z, config.window, config.margin)
        if plans is not None:
            rows, columns = torch.as_tensor(at[0]), torch.as_tensor(at[1])
            T = plans[torch.as_tensor(batch)[:, None, None], rows[:, :, None], columns[:, None, :]].to(device)
            loss = loss + config.w_plan * plan_loss(A, B, T, config.temperature)
            if config.w_inter > 0:
                loss = loss + config.w_inter * inter_loss(A, B, T)
            if config.w_value > 0:
                loss = loss + config.w_value * value_loss(A, B, T)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

        last = iteration + 1 == config.iterations
        if iteration % 10 == 0 or last:
            flat = Z.detach().reshape(-1, Z.shape[2]).cpu().numpy()
            rank, width = effective_rank(flat), spread(flat)
            mass = float("nan") if plans is None else float(plans.sum((1, 2)).mean())
            values = {"iteration": iteration, "loss": loss.item(), "mass": mass, "rank": rank, "spread": width}
            for name, value in values.items():
                out.history.setdefault(name, []).append(value)
            out.collapsed = rank < COLLAPSED[0] or width < COLLAPSED[1]
            if config.log_every and (iteration % config.log_every == 0 or last):
                text = f"{iteration:6d}  loss {loss.item():.4f}  matched mass {mass:.2f}  effective rank {rank:.1f}"
                alarm = "   COLLAPSE: frames have hardly a place of their own" if out.collapsed else ""
                print(f"{text}  spread {width:.2f}{alarm}", flush=True)
        if checkpoint is not None and ((iteration + 1) % config.checkpoint_every == 0 or last):
            state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "iteration": iteration + 1}
            torch.save(state | {"history": out.history, "plans": plans}, checkpoint)
    out.seconds = {"solve": solver_seconds, "all": time.perf_counter() - began}
    return out


def configured(config: Config, grid: np.ndarray, pairs: list[tuple[int, int]]) -> Family:
    """The family that the configuration asks for, with its mass and with the prior where the order of steps is fixed."""
    family = FAMILIES[config.family]
    if config.mass != "family":
        family = with_mass(family, "auto" if config.mass == "auto" else float(config.mass))
    if config.fixed_order == "no":
        return family
    fixed = config.fixed_order == "yes" or order_is_fixed(Batch.of(grid, pairs[:30], "euclidean"))
    return for_fixed_order(family) if fixed else family


def all_plans(X: np.ndarray, pairs: list[tuple[int, int]], family: Family, metric: str) -> torch.Tensor:
    """Plans of all pairs from one call of the solver; kept in float32, on the CPU."""
    return torch.as_tensor(solve_plans(Batch.of(X, pairs, metric), family, tol=1e-2), dtype=torch.float32)


@torch.no_grad()
def embed(model: nn.Module, X: np.ndarray) -> np.ndarray:
    """Embedded recordings (recordings, n, dim) of features (recordings, n, d) or images; one at a time, as images are large."""
    model.eval()
    device = next(model.parameters()).device
    Z = [model(torch.as_tensor(x[None], dtype=torch.float32, device=device)).double().cpu() for x in X]
    return np.concatenate(Z)


def settings_of(family: Family | None) -> dict[str, Any]:
    """For the record."""
    return {} if family is None else vars(replace(family))
