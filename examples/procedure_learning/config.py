"""Everything that can be set, in one place; `python run.py --help` lists it."""

from __future__ import annotations

import argparse
import json
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from plans import FAMILIES


@dataclass
class Config:
    """Defaults are those of docs/procedure_learning.md."""

    data: str = "mocap6"  # mocap6, mocap6bg, simulator, openpack, folder
    path: str = ""  # of openpack or of your folder
    out: str = "out/procedure"  # metrics, pictures and checkpoint go there
    seed: int = 0
    device: str = "cpu"  # or cuda: embedder and losses run there, the plans are solved on the CPU
    steps: int = 0  # key-steps of the task; 0: as many as the labels have
    background: str = "auto"  # yes, no; auto: yes where frames are labelled 0. Doubles the number of clusters

    family: str = "partial FGW, segments"  # "none": no transport at all; see plans.FAMILIES
    mass: str = "family"  # a number, or auto; family: its own
    fixed_order: str = "auto"  # yes: off the diagonal costs, all mass is matched; auto: plans.order_is_fixed

    iterations: int = 300
    pairs: int = 8  # of recordings in a training step
    frames: int = 64  # sampled from each recording in a step
    grid: int = 96  # frames of each recording for which plans are solved
    refresh: int = 50  # iterations after which plans on the own embedding are solved again
    teacher: float = 1.0  # share of the iterations whose plans come from the frozen input features; at least 0.5
    pca_start: str = "auto"  # linear skip started at the PCA of the input; auto: not for raw statistics (openpack), images
    hidden: int = 64
    dim: int = 32
    dropout: float = 0.1
    noise: float = 0.1  # sd of what is added to the standardised input, or to images, in units of their sd
    lr: float = 1e-3
    temperature: float = 0.1
    w_plan: float = 0.2  # cross-entropy with the plan
    w_intra: float = 0.2  # C-IDM within a recording; 2 pays on clean data of fixed order
    w_inter: float = 0.0  # best match against worst match; no gain was found
    w_value: float = 0.0  # the transport cost itself as a loss: collapsed in most runs, kept for comparison
    window: int = 3  # of the intra term: frames that belong together, of the sampled ones
    margin: float = 1.0  # squared distance beyond which the intra term does not push

    log_every: int = 50
    checkpoint_every: int = 100
    resume: bool = False  # go on from the checkpoint in `out`

    def __post_init__(self) -> None:
        if self.family != "none" and self.family not in FAMILIES:
            raise SystemExit(f"unknown family {self.family!r}; choose 'none' or one of {list(FAMILIES)}")
        for name in ("background", "fixed_order", "pca_start"):
            if getattr(self, name) not in ("auto", "yes", "no"):
                raise SystemExit(f"{name} must be auto, yes or no, got {getattr(self, name)!r}")
        if not 0.5 <= self.teacher <= 1:
            raise SystemExit("teacher must be from 0.5 to 1: plans on a random embedding teach their own mistakes")
        if self.frames > self.grid:
            raise SystemExit(f"frames ({self.frames}) are drawn from the grid ({self.grid}): it must have as many")

    def choice(self, name: str, auto: bool) -> bool:
        """A yes/no/auto setting, `auto` where it is left open."""
        return {"yes": True, "no": False, "auto": auto}[getattr(self, name)]

    def save(self, path: Path) -> None:
        """As JSON; `--config FILE` reads it back."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def parse(argv: list[str] | None = None) -> Config:
    """Command line: a JSON file of settings, then single ones."""
    parser = argparse.ArgumentParser(
        description="Procedure learning on top of fpgwot.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--config", type=Path, help="JSON file with any of the settings below")
    for f in fields(Config):
        name, default = "--" + f.name.replace("_", "-"), f.default if f.default is not MISSING else None
        if isinstance(default, bool):
            parser.add_argument(name, action="store_true", default=argparse.SUPPRESS)
        else:
            parser.add_argument(name, type=type(default), default=argparse.SUPPRESS, help=f"default {default}")
    given: dict[str, Any] = vars(parser.parse_args(argv))
    file = given.pop("config", None)
    return Config(**{**(json.loads(file.read_text()) if file else {}), **given})
