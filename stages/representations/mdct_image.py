"""Images as grids of MDCT coefficients: what `mdct` is to audio, along both axes (numerics/patches.py).

Patch (i, j) of the grid holds N x N frequencies of the 2N x 2N pixels around it, of which the outer half is shared with
its neighbours. The map is orthonormal, so squared errors of coefficients are squared errors of pixels; they are kept
as float32.
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
class MdctImageConfig:
    patch: int = 2
    """Bins and pixels on each side of a patch (N), even."""
    height: int = 8
    """Of every image."""
    width: int = 8
    label: str = "digit"
    """What of an image's labels models are told."""
    num_classes: int = 10
    """Values the label may have."""

    def __post_init__(self) -> None:
        names = ("height", "width", "num_classes")
        wrong = [f"{name} = {getattr(self, name)}: expected at least 1" for name in names if getattr(self, name) < 1]
        if self.patch < 2 or self.patch % 2:
            wrong.append(f"patch = {self.patch}: expected an even number")
        if wrong:
            raise ValueError("\n".join(wrong))


class MdctImage(Representation):
    Config = MdctImageConfig
    clip = "image"
    tolerance_db: ClassVar[float] = 100.0
    """decode(encode(x)) is x with at least this signal-to-noise ratio."""

    def __init__(self, config: MdctImageConfig) -> None:
        self.config = config
        self.grid = patches.grid(config.height, config.width, config.patch)
        self.down, self.across = (patches.lapped(num * config.patch, config.patch) for num in self.grid)
        data = Field((config.patch**2,), num_steps=self.grid[0] * self.grid[1], grid=self.grid)
        label = Field((), num_classes=config.num_classes, num_steps=1)
        version = representation_folder.version("mdct_image", FORM, config)
        self.spec = Spec(self.clip, data, {config.label: label}, version)

    @classmethod
    def fit(cls, config: MdctImageConfig, clips: Iterable[image.Clip]) -> Self:
        return cls(config)

    def encode(self, clip: image.Clip) -> Code:
        c = self.config
        pixels = patches.pad(image.require(clip, c.height, c.width, c.label, c.num_classes), c.patch)
        data = patches.split(self.down @ pixels @ self.across.T, c.patch).astype(np.float32)
        return Code(clip.id, data, np.ones(len(data), bool), image.conditions(clip, c.label))

    def decode(self, code: Code) -> image.Clip:
        c = self.config
        if code.data.shape != (self.spec.data.num_steps, *self.spec.data.frame):
            raise ValueError(
                f"{code.id}: {code.data.shape} is not an image of {c.height} x {c.width} pixels in patches"
            )
        whole = self.down.T @ patches.join(code.data, self.grid, c.patch) @ self.across
        pixels = whole[: c.height, : c.width].clip(0.0, 1.0).astype(np.float32)
        return image.Clip(code.id, pixels, image.labels(code.conditions))

    def view(self, code: Code, num_steps: int, seed: int) -> Code:
        """The whole image: a part of a digit is none."""
        return code

    def signal(self, data: "Masked") -> "Masked":
        """Patches [B, T, N N] -> pixels [B, H, W], not limited, in float32 whatever the model computes in."""
        import torch

        from stages.protocols.model import Masked

        with torch.autocast(data.value.device.type, enabled=False):
            value = data.value.to(torch.promote_types(data.value.dtype, torch.float32)) * data.mask.unsqueeze(-1)
            down, across = (torch.from_numpy(part).to(value) for part in (self.down, self.across))
            whole = down.T @ patches.join_torch(value, self.grid, self.config.patch) @ across
        pixels = whole[:, : self.config.height, : self.config.width]
        return Masked(pixels, data.mask.all(1).reshape(-1, 1, 1).expand_as(pixels))

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
