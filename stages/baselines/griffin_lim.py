"""A mel spectrogram, not compressed, turned back into sound by Griffin-Lim: what phase alone is worth.

80 Slaney mel bands of a 1024-point magnitude spectrum, hop 256. The magnitudes M come back from the bands B = F M by
multiplicative updates, which keep them positive,

    M <- M * (F' B) / (F' F M),

the phases by librosa's fast Griffin-Lim, 32 iterations. The waveform does not return, so SI-SDR is far below 0 while
scores that hear no phase are good: never read one without the other.

Daniel Lee, Sebastian Seung: Algorithms for non-negative matrix factorization. 2001.
Daniel Griffin, Jae Lim: Signal estimation from modified short-time Fourier transform. 1984.
Nathanael Perraudin et al.: A fast Griffin-Lim algorithm. 2013.
"""

from typing import ClassVar

import numpy as np
from scipy.sparse import csr_array

from stages.media.audio import Clip
from stages.protocols.baseline import Baseline, Coded

WINDOW, HOP, NUM_BANDS = 1024, 256, 80
NUM_UPDATES, NUM_ITERATIONS = 20, 32


class GriffinLim(Baseline):
    clips: ClassVar[frozenset[str]] = frozenset({"audio"})

    def variants(self) -> list[str]:
        return ["mel_griffin_lim"]

    def code(self, variant: str, clip: Clip) -> Coded:
        import librosa

        filters = csr_array(librosa.filters.mel(sr=clip.rate_hz, n_fft=WINDOW, n_mels=NUM_BANDS))
        bands = filters @ np.abs(librosa.stft(clip.samples, n_fft=WINDOW, hop_length=HOP))
        samples = librosa.griffinlim(
            magnitudes(bands, filters),
            n_iter=NUM_ITERATIONS,
            hop_length=HOP,
            n_fft=WINDOW,
            random_state=0,
            length=len(clip.samples),
        )
        return Coded(Clip(clip.id, samples.astype(np.float32), clip.rate_hz), None)


def magnitudes(bands: np.ndarray, filters: csr_array) -> np.ndarray:
    """The non-negative spectrum [num_bins, num_frames] whose bands are nearest to these [num_bands, num_frames]."""
    back = filters.T.tocsr()
    target = back @ bands
    found = target.copy()
    for _ in range(NUM_UPDATES):
        found *= target / np.maximum(back @ (filters @ found), 1e-12)
    return found
