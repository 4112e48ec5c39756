"""Recordings of any length, block by block: whether a file can be read, and its sound as clips at one rate.

Nothing here holds more than one clip: a day of music costs no more memory than ten minutes of it.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stages.media.audio import Clip

BLOCK = 1 << 18  # samples read at once; fixed, since the resampler's rounding follows it
CEILING = 0.98
LOWEST_HZ, HIGHEST_HZ = 1_000, 1_000_000
MOST_CHANNELS = 32
"""More are no music, and each costs a block's memory."""
SILENCE = 2.0**-15
"""One step of the 16-bit files that later stages read."""
UNKNOWN_SIZE = 0xFFFFFF00
"""What a recorder writes from here up while it does not yet know how long the sound will be."""


def duration_s(path: Path) -> float:
    """Read the whole recording and say how long it is. ValueError where it is unreadable, empty, silent or not finite.

    A header is not believed: neither an impossible rate or number of channels, nor more sound than the file holds.
    """
    check_header(path)
    num_samples, rate_hz, peak = 0, 1, 0.0
    for samples, own_rate_hz in blocks(path):
        rate_hz = own_rate_hz
        if not np.isfinite(samples).all():
            raise ValueError("samples that are not finite")
        num_samples += len(samples)
        peak = max(peak, float(np.abs(samples).max()))
    if num_samples == 0:
        raise ValueError("no samples")
    if peak < SILENCE:
        raise ValueError("nothing but silence")
    return num_samples / rate_hz


def check_header(path: Path) -> None:
    """ValueError where the header is impossible, or tells of more sound than the file can hold."""
    import soundfile

    try:
        info = soundfile.info(path, verbose=True)
    except soundfile.LibsndfileError as problem:
        raise ValueError(f"not readable audio: {problem.error_string}") from problem
    if not LOWEST_HZ <= info.samplerate <= HIGHEST_HZ:
        raise ValueError(f"{info.samplerate:,} samples a second, expected {LOWEST_HZ:,} to {HIGHEST_HZ:,}")
    if info.channels > MOST_CHANNELS:
        raise ValueError(f"{info.channels} channels, at most {MOST_CHANNELS} are read")
    found = re.search(r"^data : (\d+) \(should be (\d+)\)", info.extra_info, re.MULTILINE)  # libsndfile has noticed
    if found and int(found[2]) < int(found[1]) < UNKNOWN_SIZE:
        raise ValueError(f"its header tells of {int(found[1]):,} bytes of sound, it holds {int(found[2]):,}")


def clips(path: Path, piece: str, rate_hz: int, longest_s: float) -> Iterator[Clip]:
    """The recording as mono clips <piece>-0, <piece>-1 ... of `longest_s` at most, resampled as one stream.

    A clip whose peak passes full scale, which resampling can cause, is turned down to the ceiling.
    """
    longest, kept, num, k = round(longest_s * rate_hz), [], 0, 0
    for block in resampled(path, rate_hz):
        while len(block):
            part, block = block[: longest - num], block[longest - num :]
            kept.append(part)
            num += len(part)
            if num == longest:
                yield clip_of(kept, f"{piece}-{k}", rate_hz)
                kept, num, k = [], 0, k + 1
    if num:
        yield clip_of(kept, f"{piece}-{k}", rate_hz)


def clip_of(parts: list[np.ndarray], clip_id: str, rate_hz: int) -> Clip:
    samples = np.concatenate(parts)
    peak = float(np.abs(samples).max())
    return Clip(clip_id, samples * np.float32(CEILING / peak) if peak > 1.0 else samples, rate_hz)


def resampled(path: Path, rate_hz: int) -> Iterator[np.ndarray]:
    """The recording's samples at `rate_hz`, in blocks (soxr, very high quality)."""
    import soxr

    stream = None
    for samples, own_rate_hz in blocks(path):
        if own_rate_hz == rate_hz:
            yield samples
            continue
        stream = stream or soxr.ResampleStream(own_rate_hz, rate_hz, 1, dtype="float32", quality="VHQ")
        yield stream.resample_chunk(samples)
    if stream is not None:
        yield stream.resample_chunk(np.zeros(0, dtype=np.float32), last=True)


def blocks(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """Blocks of the recording as mono float32 [num_samples], with its rate. ValueError where it cannot be read."""
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            while len(samples := file.read(BLOCK, dtype="float32", always_2d=True)):
                yield np.ascontiguousarray(samples.mean(axis=1)), file.samplerate
    except soundfile.LibsndfileError as problem:
        raise ValueError(f"not readable audio: {problem.error_string}") from problem
