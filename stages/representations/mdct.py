"""Audio as MDCT frames: as many real numbers as samples, one frame of N bins per hop of N samples.

The transform is orthonormal (numerics/mdct.py), so squared errors of frames are squared errors of samples. Frames are
kept as float16: rounding is relative to each coefficient, 2^-11 at worst, which leaves at least 65 dB of signal to
noise for any clip that is louder than one step of 16-bit audio (-90 dB of full scale). The loudest coefficient that a
clip can have (sqrt(2 N) of full scale) is far below float16's 65504.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from stages.media import audio
from stages.media.crop import crop
from stages.numerics import mdct
from stages.pipeline import half, representation_folder
from stages.protocols.representation import Representation
from stages.protocols.spec import Code, Field, Spec

if TYPE_CHECKING:
    from stages.protocols.model import Grammar, Masked

FORM = 1


@dataclass(frozen=True)
class MdctConfig:
    num_bins: int = 320
    """Bins per frame and samples per hop (N)."""
    window: Literal["sine", "kbd"] = "sine"
    """sine: best coding gain; kbd: less leakage far from a partial."""
    rate_hz: int = 24000
    """Clips at another rate are resampled."""

    def __post_init__(self) -> None:
        if not 2 <= self.num_bins <= 8192 or self.num_bins % 2:
            raise ValueError(f"num_bins = {self.num_bins}: expected an even number from 2 to 8192")
        if self.rate_hz <= 0:
            raise ValueError(f"rate_hz = {self.rate_hz}: expected more than 0")


class Mdct(Representation):
    Config = MdctConfig
    clip = "audio"
    tolerance_db: ClassVar[float] = 65.0
    """decode(encode(x)) is x with at least this signal-to-noise ratio."""

    def __init__(self, config: MdctConfig) -> None:
        self.config = config
        self.window = {"sine": mdct.sine_window, "kbd": mdct.kbd_window}[config.window](config.num_bins)
        data = Field(frame=(config.num_bins,), rate_hz=config.rate_hz / config.num_bins)
        version = representation_folder.version("mdct", FORM, config)
        self.spec = Spec(self.clip, data, conditions={}, version=version)

    @classmethod
    def fit(cls, config: MdctConfig, clips: Iterable[audio.Clip]) -> Self:
        return cls(config)

    def encode(self, clip: audio.Clip) -> Code:
        samples = audio.resample(clip, self.config.rate_hz).samples.astype(np.float32, copy=False)
        data = half.narrow(mdct.mdct(samples, self.window))
        return Code(clip.id, data, np.ones(len(data), bool), side={"num_samples": np.array([len(samples)])})

    def decode(self, code: Code) -> audio.Clip:
        num_samples = int(code.side["num_samples"][0])
        if mdct.num_frames(num_samples, self.config.num_bins) != len(code.data):
            raise ValueError(f"{code.id}: {len(code.data)} frames cannot hold {num_samples} samples")
        samples = mdct.imdct(code.data.astype(np.float32, copy=False), self.window)[:num_samples]
        return audio.Clip(code.id, samples, self.config.rate_hz)

    def view(self, code: Code, num_steps: int, seed: int) -> Code:
        """A random stretch; half a hop at each end of it overlaps with frames that are not there."""
        _, part = crop(code, num_steps, seed)
        return part if part is code else replace(part, side=self.side(num_steps))

    def signal(self, data: "Masked") -> "Masked":
        """Frames [B, T, N] -> samples [B, T N], in float32 whatever the model computes in."""
        import torch

        from stages.protocols.model import Masked

        frames = data.value
        with torch.autocast(frames.device.type, enabled=False):
            frames = frames.to(torch.promote_types(frames.dtype, torch.float32))
            window = torch.from_numpy(self.window).to(frames.device, frames.dtype)
            samples = mdct.imdct_torch(frames * data.mask.unsqueeze(-1), window)
        mask = data.mask.repeat_interleave(self.config.num_bins, dim=1)
        return Masked(samples * mask, mask)

    def grammar(self, rules: Mapping[str, Any]) -> "Grammar | None":
        return None

    def side(self, num_steps: int) -> Mapping[str, np.ndarray]:
        return {"num_samples": np.array([num_steps * self.config.num_bins])}

    def save(self, folder: Path) -> None:
        representation_folder.save(folder, self)

    @classmethod
    def load(cls, folder: Path) -> Self:
        loaded = cls(representation_folder.config(folder, cls))
        representation_folder.check(folder, loaded)
        return loaded
