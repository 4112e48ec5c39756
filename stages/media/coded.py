"""A clip through a baseline and back; for codecs, through a compressed file in memory, as libsndfile writes it."""

import io
from typing import Any

import numpy as np

from stages.media.audio import Clip
from stages.pipeline import plugins
from stages.protocols.baseline import Coded


def through(system: str, variant: str, clip: Clip) -> Coded:
    """A clip through one of the baselines, limited and rounded to 16 bits as every experiment's clips are."""
    coded = plugins.load("baselines", system)().code(variant, clip)
    samples = np.clip(np.rint(coded.clip.samples * 32768.0), -32768, 32767) / 32768.0
    return Coded(Clip(clip.id, samples.astype(np.float32), clip.rate_hz), coded.num_bytes)


def through_file(clip: Clip, form: str, subtype: str, delay: int = 0, **options: Any) -> Coded:
    """Write and read again. The result is as long as the clip: padding at the end is cut, a shorter one filled up.

    `delay` samples come off the start where the file decodes to more than went in, so does not know its own delay.
    """
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, clip.samples, clip.rate_hz, format=form, subtype=subtype, **options)
    num_bytes = len(file.getbuffer())
    file.seek(0)
    samples, rate_hz = soundfile.read(file, dtype="float32")
    if rate_hz != clip.rate_hz:
        raise ValueError(f"{form} {subtype} came back at {rate_hz} Hz, written at {clip.rate_hz} Hz")
    if len(samples) > len(clip.samples):
        samples = samples[delay:]
    kept = np.zeros_like(clip.samples)
    kept[: len(samples)] = samples[: len(kept)]
    return Coded(Clip(clip.id, kept, clip.rate_hz), num_bytes)
