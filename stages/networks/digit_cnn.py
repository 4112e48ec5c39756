"""A convolutional network that reads digits, and so can judge images of them.

    pixels -> 2 convolutions, then halved and 2 more until the sides are 4 or less -> hidden layer [64] -> class logits
                                                                   |-> mean over places / s -> features [64]

The features are the channels of the last convolution, each in units of its standard deviation s over the images that
the network learned from. The hidden layer would be a worse judge: what tells the classes apart fills it, and the noise
in how often each class occurs drowns what is wrong with an image. Distances between sets of features are the Frechet
distance; the class that is read in an image made for a class is the conditional accuracy.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from stages.media.image import Clip
from stages.pipeline import artifacts

NUM_FEATURES = 64
CHANNELS = (32, 64, 64, 64, 64)
NUM_HIDDEN = 64
SMALLEST = 4
"""Sides are halved while they are longer than this."""
AT_ONCE = 512
REMEDY = "run `dvc repro -f -s` on the classifier's stage"


class DigitCNN(nn.Module):
    """Pixels [B, H, W] in [0, 1] -> logits [B, num_classes]."""

    scale: Tensor

    def __init__(self, height: int, width: int, num_classes: int) -> None:
        super().__init__()
        layers, num_in = [], 1
        for num_out in CHANNELS:
            layers += [convolution(num_in, num_out), convolution(num_out, num_out)]
            num_in = num_out
            if max(height, width) <= SMALLEST and num_in == NUM_FEATURES:
                break
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
            height, width = -(-height // 2), -(-width // 2)
        self.layers = nn.Sequential(*layers)
        self.hidden = nn.Linear(num_in * height * width, NUM_HIDDEN)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(NUM_HIDDEN, num_classes)
        self.register_buffer("scale", torch.ones(NUM_FEATURES))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.read(self.maps(pixels))

    def maps(self, pixels: Tensor) -> Tensor:
        """What the convolutions make of the image, [B, 64, h, w]."""
        return self.layers(pixels[:, None] * 2 - 1)

    def read(self, maps: Tensor) -> Tensor:
        """Logits [B, num_classes]."""
        return self.head(self.dropout(functional.relu(self.hidden(maps.flatten(1)))))

    def features(self, maps: Tensor) -> Tensor:
        """[B, 64]."""
        return maps.mean((2, 3)) / self.scale

    @torch.no_grad()
    def settle(self, pixels: Tensor) -> None:
        """Make the features' standard deviation 1 on these images; one that never changes stays as it is."""
        self.scale.fill_(1.0)
        spread = torch.cat([self.features(self.maps(part)) for part in pixels.split(AT_ONCE)]).std(0)
        self.scale.copy_(torch.where(spread > 0, spread, 1.0))


def convolution(num_in: int, num_out: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(num_in, num_out, 3, padding=1, bias=False), nn.BatchNorm2d(num_out), nn.ReLU())


class Judge:
    """A trained network as the metrics use it, one image at a time, remembered by its pixels.

    `look` takes many images at once beforehand, which is a hundred times as fast.
    """

    def __init__(self, network: DigitCNN, facts: Mapping[str, Any]) -> None:
        self.network = network.eval().requires_grad_(False)
        self.facts = facts
        self._known: dict[bytes, tuple[np.ndarray, int]] = {}

    def features(self, clip: Clip) -> np.ndarray:
        """Float64 [1, 64]."""
        return self._of(clip)[0]

    def classify(self, clip: Clip) -> int:
        """The class it reads."""
        return self._of(clip)[1]

    def look(self, clips: Sequence[Clip]) -> None:
        for start in range(0, len(clips), AT_ONCE):
            some = clips[start : start + AT_ONCE]
            maps = self.network.maps(torch.from_numpy(np.stack([clip.pixels for clip in some])))
            found, classes = self.network.features(maps), self.network.read(maps).argmax(dim=1).tolist()
            for clip, row, digit in zip(some, found.double().numpy(), classes, strict=True):
                self._known[key(clip)] = row[None], digit

    def _of(self, clip: Clip) -> tuple[np.ndarray, int]:
        if key(clip) not in self._known:
            self.look([clip])
        return self._known[key(clip)]


def key(clip: Clip) -> bytes:
    return hashlib.sha256(clip.pixels.tobytes()).digest()


def save(folder: Path, network: DigitCNN, facts: Mapping[str, Any]) -> None:
    """Write model.safetensors, and model.json with the facts (height, width, num_classes among them) and the sha256."""
    save_file(network.state_dict(), folder / "model.safetensors")
    artifacts.write_json(folder / "model.json", {**facts, "sha256": artifacts.sha256(folder / "model.safetensors")})


def load(folder: Path) -> Judge:
    """The inverse of `save`, on the CPU so that scores do not depend on the machine; Damaged where bytes changed."""
    facts = artifacts.read_json(folder / "model.json")
    artifacts.check(folder / "model.safetensors", facts["sha256"], REMEDY)
    network = DigitCNN(facts["height"], facts["width"], facts["num_classes"])
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return Judge(network, facts)
