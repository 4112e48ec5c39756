"""Audio as it is: hops of consecutive samples, one frame each.

Frames are kept as float16: rounding is relative to each sample, which leaves at least 65 dB of signal to noise for any
clip that is louder than one step of 16-bit audio (-90 dB of full scale).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from stages.media import audio
from stages.media.crop import crop
from stages.pipeline import half, representation_folder
from stages.protocols.representation import Representation
from stages.protocols.spec import Code, Field, Spec

if TYPE_CHECKING:
    from stages.protocols.model import Grammar, Masked

FORM = 1


@dataclass(frozen=True)
class WaveformConfig:
    hop: int = 320
    """Samples per frame."""
    rate_hz: int = 24000
    """Clips at another rate are resampled."""

    def __post_init__(self) -> None:
        problems = [
            f"{name} = {getattr(self, name)}: expected at least 1"
            for name in ("hop", "rate_hz")
            if getattr(self, name) < 1
        ]
        if problems:
            raise ValueError("\n".join(problems))


class Waveform(Representation):
    Config = WaveformConfig
    clip = "audio"
    tolerance_db: ClassVar[float] = 65.0
    """decode(encode(x)) is x with at least this signal-to-noise ratio."""

    def __init__(self, config: WaveformConfig) -> None:
        self.config = config
        data = Field(frame=(config.hop,), rate_hz=config.rate_hz / config.hop)
        version = representation_folder.version("waveform", FORM, config)
        self.spec = Spec(self.clip, data, conditions={}, version=version)

    @classmethod
    def fit(cls, config: WaveformConfig, clips: Iterable[audio.Clip]) -> Self:
        return cls(config)

    def encode(self, clip: audio.Clip) -> Code:
        samples = audio.resample(clip, self.config.rate_hz).samples
        data = np.zeros((-(-len(samples) // self.config.hop), self.config.hop), np.float16)
        data.reshape(-1)[: len(samples)] = half.narrow(samples)
        return Code(clip.id, data, np.ones(len(data), bool), side={"num_samples": np.array([len(samples)])})

    def decode(self, code: Code) -> audio.Clip:
        num_samples = int(code.side["num_samples"][0])
        if -(-num_samples // self.config.hop) != len(code.data):
            raise ValueError(f"{code.id}: {len(code.data)} frames cannot hold {num_samples} samples")
        return audio.Clip(code.id, code.data.astype(np.float32).reshape(-1)[:num_samples], self.config.rate_hz)

    def view(self, code: Code, num_steps: int, seed: int) -> Code:
        _, part = crop(code, num_steps, seed)
        return part if part is code else replace(part, side=self.side(num_steps))

    def signal(self, data: "Masked") -> "Masked":
        """Frames [B, T, hop] -> samples [B, T hop]."""
        from stages.protocols.model import Masked

        return Masked(
            (data.value * data.mask.unsqueeze(-1)).flatten(1), data.mask.repeat_interleave(self.config.hop, dim=1)
        )

    def grammar(self, rules: Mapping[str, Any]) -> "Grammar | None":
        return None

    def side(self, num_steps: int) -> Mapping[str, np.ndarray]:
        return {"num_samples": np.array([num_steps * self.config.hop])}

    def save(self, folder: Path) -> None:
        representation_folder.save(folder, self)

    @classmethod
    def load(cls, folder: Path) -> Self:
        loaded = cls(representation_folder.config(folder, cls))
        representation_folder.check(folder, loaded)
        return loaded
