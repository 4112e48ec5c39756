"""A mel spectrogram, not compressed, turned back into sound by Griffin-Lim: what phase alone is worth.

80 Slaney mel bands of a 1024-point magnitude spectrum, hop 256; the magnitudes come back by non-negative least squares,
the phases by 32 fast Griffin-Lim iterations, both as librosa has them.
Griffin, Lim, "Signal estimation from modified short-time Fourier transform", 1984.
"""

from typing import ClassVar

import numpy as np

from stages.media.audio import Clip
from stages.protocols.baseline import Baseline, Coded

WINDOW, HOP, NUM_BANDS, NUM_ITERATIONS = 1024, 256, 80, 32


class GriffinLim(Baseline):
    clips: ClassVar[frozenset[str]] = frozenset({"audio"})

    def variants(self) -> list[str]:
        return ["mel_griffin_lim"]

    def code(self, variant: str, clip: Clip) -> Coded:
        import librosa

        bands = librosa.feature.melspectrogram(
            y=clip.samples, sr=clip.rate_hz, n_fft=WINDOW, hop_length=HOP, n_mels=NUM_BANDS, power=1.0
        )
        magnitude = librosa.feature.inverse.mel_to_stft(bands, sr=clip.rate_hz, n_fft=WINDOW, power=1.0)
        samples = librosa.griffinlim(
            magnitude, n_iter=NUM_ITERATIONS, hop_length=HOP, n_fft=WINDOW, random_state=0, length=len(clip.samples)
        )
        return Coded(Clip(clip.id, np.clip(samples, -1.0, 1.0).astype(np.float32), clip.rate_hz), None)
