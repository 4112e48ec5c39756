"""Audio as log-mel frames: what is heard of a spectrum, without phases, which Griffin-Lim guesses again.

Frame t is ln max(floor, M |STFT|) centred at sample t hop, M the mel filters (Slaney's, each of unit area); a clip of
L samples has ceil(L / hop) frames. Decoding inverts M by its pseudo-inverse and finds phases: the waveform
is another one, its log-mel frames are nearly the same.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from stages.media import audio
from stages.media.crop import crop
from stages.pipeline import representation_folder
from stages.protocols.representation import Representation
from stages.protocols.spec import Code, Field, Spec

if TYPE_CHECKING:
    from torch import Tensor

    from stages.protocols.model import Grammar, Masked

FORM = 1
FLOOR = 1e-5
SIGNAL_ITERATIONS = 2
"""Of Griffin-Lim inside a loss: its gradient costs as many transforms again."""


@dataclass(frozen=True)
class MelConfig:
    num_mels: int = 80
    window_length: int = 1024
    hop: int = 256
    rate_hz: int = 24000
    """Clips at another rate are resampled."""
    num_iterations: int = 32
    """Of Griffin-Lim when decoding."""

    def __post_init__(self) -> None:
        problems = [
            f"{name} = {getattr(self, name)}: expected at least 1"
            for name in ("num_mels", "window_length", "hop", "rate_hz", "num_iterations")
            if getattr(self, name) < 1
        ]
        if self.window_length < 3 * self.hop or self.window_length % 2:
            problems.append(
                f"window_length = {self.window_length}: expected an even number, at least three times hop = {self.hop}"
            )
        if problems:
            raise ValueError("\n".join(problems))


class Mel(Representation):
    Config = MelConfig
    clip = "audio"
    tolerance_db: ClassVar[float] = 15.0
    """The mel magnitudes of decode(encode(x)) are those of x with at least this signal-to-noise ratio."""

    def __init__(self, config: MelConfig) -> None:
        self.config = config
        data = Field(frame=(config.num_mels,), rate_hz=config.rate_hz / config.hop)
        version = representation_folder.version("mel", FORM, config)
        self.spec = Spec(self.clip, data, conditions={}, version=version)

    @classmethod
    def fit(cls, config: MelConfig, clips: Iterable[audio.Clip]) -> Self:
        return cls(config)

    @cached_property
    def filters(self) -> np.ndarray:
        """M, float64 [num_mels, window_length / 2 + 1]."""
        from torchaudio.functional import melscale_fbanks

        c = self.config
        num_bins = c.window_length // 2 + 1
        bank = melscale_fbanks(num_bins, 0.0, c.rate_hz / 2, c.num_mels, c.rate_hz, norm="slaney", mel_scale="slaney")
        if not bank.any(dim=0).all():
            raise ValueError(
                f"num_mels = {c.num_mels}: some filters fall between the bins of window_length = {c.window_length}"
            )
        return bank.T.double().numpy()

    def _constants(self, like: "Tensor") -> "tuple[Tensor, Tensor]":
        """Window and inverse filters, for a tensor's type and device."""
        import torch

        window = torch.hann_window(self.config.window_length, dtype=like.dtype, device=like.device)
        return window, torch.from_numpy(np.linalg.pinv(self.filters)).to(like)

    def encode(self, clip: audio.Clip) -> Code:
        import torch

        from stages.numerics.griffin_lim import stft

        samples = audio.resample(clip, self.config.rate_hz).samples.astype(np.float32, copy=False)
        num_hops = -(-len(samples) // self.config.hop)
        if not num_hops:
            data = np.zeros((0, self.config.num_mels), np.float16)
        else:
            padded = torch.from_numpy(np.pad(samples, (0, num_hops * self.config.hop - len(samples))))
            window, _ = self._constants(padded)
            magnitude = stft(padded, window, self.config.hop).abs()
            mel = torch.from_numpy(self.filters).float() @ magnitude
            data = mel.clamp_min(FLOOR).log().T.numpy().astype(np.float16)
        return Code(clip.id, data, np.ones(len(data), bool), side={"num_samples": np.array([len(samples)])})

    def decode(self, code: Code) -> audio.Clip:
        import torch

        num_samples = int(code.side["num_samples"][0])
        num_hops = -(-num_samples // self.config.hop)
        if len(code.data) != num_hops:
            raise ValueError(f"{code.id}: {len(code.data)} frames cannot hold {num_samples} samples")
        if not num_hops:
            return audio.Clip(code.id, np.zeros(0, np.float32), self.config.rate_hz)
        with torch.no_grad():
            data = torch.from_numpy(code.data.astype(np.float32))[None]
            samples = self._synthesise(data, self.config.num_iterations, num_samples)[0, :num_samples].numpy()
        return audio.Clip(code.id, samples, self.config.rate_hz)

    def _synthesise(self, data: "Tensor", num_iterations: int, num_samples: int | None = None) -> "Tensor":
        """Log-mel [B, T, M] -> samples [B, T hop], differentiable."""
        from stages.numerics.griffin_lim import griffin_lim

        window, inverse = self._constants(data)
        magnitude = (inverse @ data.exp().mT).clamp_min(0)
        return griffin_lim(magnitude, window, self.config.hop, num_iterations, num_samples)

    def view(self, code: Code, num_steps: int, seed: int) -> Code:
        _, part = crop(code, num_steps, seed)
        return part if part is code else replace(part, side=self.side(num_steps))

    def signal(self, data: "Masked") -> "Masked":
        """Frames [B, T, M] -> samples [B, T hop], in float32 whatever the model computes in; rough phases."""
        import torch

        from stages.protocols.model import Masked

        with torch.autocast(data.value.device.type, enabled=False):
            frames = data.value.to(torch.promote_types(data.value.dtype, torch.float32))
            quiet = torch.where(data.mask.unsqueeze(-1), frames, float(np.log(FLOOR)))
            samples = self._synthesise(quiet, SIGNAL_ITERATIONS)
        mask = data.mask.repeat_interleave(self.config.hop, dim=1)
        return Masked(samples * mask, mask)

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
