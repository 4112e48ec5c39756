"""White noise added at a stated signal-to-noise ratio: SI-SDR is known in advance and calibrates the other scores."""

import hashlib
from typing import ClassVar

import numpy as np

from stages.media.audio import Clip
from stages.protocols.baseline import Baseline, Coded

RATIOS_DB = (20, 30)


class WhiteNoise(Baseline):
    clips: ClassVar[frozenset[str]] = frozenset({"audio"})

    def variants(self) -> list[str]:
        return [f"white_noise_{ratio}db" for ratio in RATIOS_DB]

    def code(self, variant: str, clip: Clip) -> Coded:
        ratio_db = int(variant.removeprefix("white_noise_").removesuffix("db"))
        seed = int.from_bytes(hashlib.sha256(clip.id.encode()).digest()[:8])
        noise = np.random.Generator(np.random.Philox(seed)).standard_normal(len(clip.samples))
        scale = np.sqrt(
            np.square(clip.samples, dtype=np.float64).sum() / np.square(noise).sum() / 10 ** (ratio_db / 10)
        )
        return Coded(Clip(clip.id, (clip.samples + scale * noise).astype(np.float32), clip.rate_hz), None)
