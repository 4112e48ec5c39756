"""What the study's stage `cell` leaves: cell.json and a stack of images for each number of steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.media import image
from stages.pipeline import artifacts

REMEDY = "run `dvc repro -f -s` on its cell"


def write_images(folder: Path, name: str, clips: Sequence[image.Clip]) -> dict[str, Any]:
    """Keep images with their labels; their entry."""
    path = folder / f"{name}.npy"
    image.write_stack(path, image.quantise(np.stack([clip.pixels for clip in clips])))
    return {"path": path.name, "sha256": artifacts.sha256(path), "labels": [dict(clip.labels) for clip in clips]}


def read_images(folder: Path, entry: Mapping[str, Any]) -> list[image.Clip]:
    """The inverse of `write_images`, checked."""
    artifacts.check(folder / entry["path"], entry["sha256"], REMEDY)
    stack = image.widen(image.read_stack(folder / entry["path"]))
    return [
        image.Clip(f"{k:05d}", pixels, labels)
        for k, (pixels, labels) in enumerate(zip(stack, entry["labels"], strict=True))
    ]


def in_equal_parts(clips: Sequence[image.Clip], label: str) -> list[image.Clip]:
    """As many of each class, the first in their order: how often a class occurs is no property of an image."""
    groups: dict[int, list[image.Clip]] = {}
    for clip in clips:
        groups.setdefault(clip.labels[label], []).append(clip)
    least = min(map(len, groups.values()), default=0)
    return [clip for _, members in sorted(groups.items()) for clip in members[:least]]
