"""Images as they are: a grid of patches of N x N pixels, one frame each (numerics/patches.py).

What `waveform` is to audio. Pixels are kept as float32, so that decoding is exact but for limiting what a model made
to [0, 1].
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from stages.media import image
from stages.numerics import patches
from stages.pipeline import representation_folder
from stages.protocols.representation import Representation
from stages.protocols.spec import Code, Field, Spec

if TYPE_CHECKING:
    from stages.protocols.model import Grammar, Masked

FORM = 1


@dataclass(frozen=True)
class ReshapeConfig:
    patch: int = 2
    """Pixels on each side of a patch (N)."""
    height: int = 8
    """Of every image."""
    width: int = 8
    label: str = "digit"
    """What of an image's labels models are told."""
    num_classes: int = 10
    """Values the label may have."""

    def __post_init__(self) -> None:
        names = ("patch", "height", "width", "num_classes")
        if wrong := [
            f"{name} = {getattr(self, name)}: expected at least 1" for name in names if getattr(self, name) < 1
        ]:
            raise ValueError("\n".join(wrong))


class Reshape(Representation):
    Config = ReshapeConfig
    clip = "image"
    tolerance_db: ClassVar[float] = 200.0
    """decode(encode(x)) is x with at least this signal-to-noise ratio."""

    def __init__(self, config: ReshapeConfig) -> None:
        self.config = config
        self.grid = patches.grid(config.height, config.width, config.patch)
        data = Field((config.patch**2,), num_steps=self.grid[0] * self.grid[1], grid=self.grid)
        label = Field((), num_classes=config.num_classes, num_steps=1)
        version = representation_folder.version("reshape", FORM, config)
        self.spec = Spec(self.clip, data, {config.label: label}, version)

    @classmethod
    def fit(cls, config: ReshapeConfig, clips: Iterable[image.Clip]) -> Self:
        return cls(config)

    def encode(self, clip: image.Clip) -> Code:
        c = self.config
        pixels = image.require(clip, c.height, c.width, c.label, c.num_classes)
        data = patches.split(patches.pad(pixels, c.patch), c.patch)
        return Code(clip.id, data, np.ones(len(data), bool), image.conditions(clip, c.label))

    def decode(self, code: Code) -> image.Clip:
        c = self.config
        if code.data.shape != (self.spec.data.num_steps, *self.spec.data.frame):
            raise ValueError(
                f"{code.id}: {code.data.shape} is not an image of {c.height} x {c.width} pixels in patches"
            )
        whole = patches.join(code.data.astype(np.float32, copy=False), self.grid, c.patch)
        return image.Clip(code.id, whole[: c.height, : c.width].clip(0.0, 1.0), image.labels(code.conditions))

    def view(self, code: Code, num_steps: int, seed: int) -> Code:
        """The whole image: a part of a digit is none."""
        return code

    def signal(self, data: "Masked") -> "Masked":
        """Patches [B, T, N N] -> pixels [B, H, W], not limited."""
        from stages.protocols.model import Masked

        whole = patches.join_torch(data.value * data.mask.unsqueeze(-1), self.grid, self.config.patch)
        mask = patches.join_torch(data.mask.unsqueeze(-1).expand_as(data.value), self.grid, self.config.patch)
        inside = (slice(None), slice(self.config.height), slice(self.config.width))
        return Masked(whole[inside], mask[inside])

    def grammar(self, rules: Mapping[str, Any]) -> "Grammar | None":
        return None

    def side(self, num_steps: int) -> Mapping[str, np.ndarray]:
        return {}

    def save(self, folder: Path) -> None:
        representation_folder.save(folder, self)

    @classmethod
    def load(cls, folder: Path) -> Self:
        loaded = cls(representation_folder.config(folder, cls))
        representation_folder.check(folder, loaded)
        return loaded
