"""The original without its high frequencies (8th-order Butterworth, forwards and backwards, so without delay)."""

from typing import ClassVar

import numpy as np
from scipy import signal

from stages.media.audio import Clip
from stages.protocols.baseline import Baseline, Coded

CUTOFFS_HZ = (3000, 6000)


class LowPass(Baseline):
    clips: ClassVar[frozenset[str]] = frozenset({"audio"})

    def variants(self) -> list[str]:
        return [f"low_pass_{cutoff}hz" for cutoff in CUTOFFS_HZ]

    def code(self, variant: str, clip: Clip) -> Coded:
        cutoff_hz = int(variant.removeprefix("low_pass_").removesuffix("hz"))
        sections = signal.butter(8, cutoff_hz, fs=clip.rate_hz, output="sos")
        samples = signal.sosfiltfilt(sections, clip.samples.astype(np.float64))
        return Coded(Clip(clip.id, samples.astype(np.float32), clip.rate_hz), None)
