"""Teach a DigitCNN to read labelled images; training images are shifted, turned and scaled a little at random."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stages.media import image
from stages.networks.digit_cnn import DigitCNN
from stages.pipeline import artifacts

REMEDY = "run `dvc repro -f -s` on the stage that makes its folder"


@dataclass(frozen=True)
class ReaderConfig:
    corpus: str
    """A block of `corpora`, of images."""
    num_steps: int
    seed: int
    label: str = "digit"
    batch_size: int = 128
    learning_rate: float = 1.0e-2
    weight_decay: float = 0.05
    num_folds: int = 5
    shift: float = 0.08
    """Of the augmentation, at most: a share of the side, either way."""
    turn: float = 0.15
    """Radians, either way."""
    scale: float = 0.1
    """A share of the size, either way."""
    num_threads: int = 1  # thread count changes float results

    def __post_init__(self) -> None:
        if min(self.num_steps, self.batch_size, self.num_threads) < 1 or self.num_folds < 2:
            raise ValueError("num_steps, batch_size and num_threads must be at least 1, num_folds at least 2")


@dataclass(frozen=True)
class Digits:
    """Labelled images: pixels [n, H, W] in [0, 1], class [n], official test part or not bool [n]."""

    pixels: Tensor
    label: Tensor
    held_out: Tensor

    @property
    def num_classes(self) -> int:
        return int(self.label.max()) + 1


def read(config: ReaderConfig, raw: Path) -> Digits:
    pieces: list[dict[str, Any]] = artifacts.read_json(raw / "manifest.json")["pieces"]
    digests = {piece["path"]: piece["sha256"] for piece in pieces}
    for path, sha256 in digests.items():
        artifacts.check(raw / path, sha256, REMEDY)
    stacks = {path: image.read_stack(raw / path) for path in digests}
    pixels = np.stack([image.widen(stacks[piece["path"]][piece["index"]]) for piece in pieces])
    labels = torch.tensor([dict(piece["labels"])[config.label] for piece in pieces])
    return Digits(torch.from_numpy(pixels), labels, torch.tensor([piece["split"] == "test" for piece in pieces]))


def folds(config: ReaderConfig, num: int) -> list[Tensor]:
    """Masks [num] of equal parts, drawn by the seed."""
    order = torch.from_numpy(np.random.Generator(np.random.Philox(config.seed)).permutation(num))
    return [order % config.num_folds == fold for fold in range(config.num_folds)]


def fit(config: ReaderConfig, known: Digits, chosen: Tensor) -> DigitCNN:
    """Train on the chosen images."""
    torch.manual_seed(config.seed)
    _, height, width = known.pixels.shape
    network = DigitCNN(height, width, known.num_classes).train()
    optimiser = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=config.num_steps + 1, pct_start=0.2
    )
    for _ in range(config.num_steps):
        batch = chosen[torch.randint(len(chosen), (config.batch_size,))]
        loss = functional.cross_entropy(network(moved(config, known.pixels[batch])), known.label[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    network.eval().settle(known.pixels[chosen])
    return network


def moved(config: ReaderConfig, pixels: Tensor) -> Tensor:
    """The images [B, H, W], each shifted, turned and scaled by its own random amounts."""
    shift, turn, scale = (
        amount * (2 * torch.rand(len(pixels), size) - 1)
        for amount, size in ((2 * config.shift, 2), (config.turn, 1), (config.scale, 1))
    )
    cos, sin = (1 + scale) * turn.cos(), (1 + scale) * turn.sin()
    matrix = torch.stack([torch.cat([cos, -sin, shift[:, :1]], 1), torch.cat([sin, cos, shift[:, 1:]], 1)], dim=1)
    places = functional.affine_grid(matrix, [len(pixels), 1, *pixels.shape[1:]], align_corners=False)
    return functional.grid_sample(pixels[:, None], places, align_corners=False)[:, 0]


@torch.no_grad()
def accuracy(network: DigitCNN, known: Digits, chosen: Tensor) -> float:
    """The share of the chosen images that are read right."""
    read = torch.cat([network(known.pixels[part]).argmax(dim=1) for part in chosen.split(512)])
    return float((read == known.label[chosen]).double().mean())
