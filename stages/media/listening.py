"""What the report plays: the same clips by every system, at the same loudness, each with a picture of its spectrum.

Loudness is that of ITU-R BS.1770-4 (https://www.itu.int/rec/R-REC-BS.1770). Every version of a clip gets the gain that
brings it to the original's loudness, applied to the file; where one would then exceed full scale, all versions of that
clip are lowered by the same amount. Files whose gain is nothing are copied as they are.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stages.media import audio, synth
from stages.media.leaderboard import RATE, System, stem

NEW_LUFS = -23.0
"""New clips have no original; EBU R 128's programme level, which is what rendered music has."""
INAUDIBLE_DB = 0.05
SIZE = (560, 112)
"""Picture: frames, frequency bands."""
RANGE_DB = 75.0
SILENT_DB = 0.0
"""A picture whose loudest point is below this is empty; a sine at full scale has 48 dB."""
WINDOW = 1024


@dataclass(frozen=True)
class Source:
    """One version of a clip, where its stage left it."""

    system: str
    path: Path
    note: str = ""
    scores: tuple[str, ...] = ()


@dataclass(frozen=True)
class Take:
    """One version as the page plays it; paths are relative to the assets."""

    system: str
    audio: str
    picture: str
    duration_s: float
    gain_db: float
    note: str
    scores: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """Versions of one clip side by side, the original first; or an experiment's new clips, without an original."""

    id: str
    takes: tuple[Take, ...]
    figures: tuple[str, ...] = ()
    """Larger pictures with axes."""


def chosen(found: Sequence[System]) -> dict[str, str]:
    """Baselines worth listening to, with the reason: per codec the nearest in rate, and the nearest in SI-SDR."""
    experiments = [system.metrics for system in found if system.kind == "experiment"]
    names: dict[str, str] = {}
    for codec in sorted({stem(system.name) for system in found if system.kind == "codec"}):
        variants = [system for system in found if system.kind == "codec" and stem(system.name) == codec]
        for key, reason in ((RATE, "nearest rate"), ("si_sdr_db", "nearest SI-SDR")):
            targets = [metrics[key] for metrics in experiments if key in metrics]
            able = [variant for variant in variants if key in variant.metrics]
            if targets and able:
                target = sum(targets) / len(targets)
                name = min(able, key=lambda system: (abs(system.metrics[key] - target), system.name)).name  # noqa: B023
                names[name] = f"{names[name]} and SI-SDR" if name in names else reason
    return names | {system.name: "no codec" for system in found if system.name == "mel_griffin_lim"}


def group(name: str, sources: Sequence[Source], assets: Path, folder: str, target_lufs: float | None = None) -> Group:
    """Write the takes of one clip under assets/<folder>/, all at the first one's loudness unless a target is given."""
    clips = [audio.read(source.path, source.system) for source in sources]
    levels = [synth.loudness(clip.samples, clip.rate_hz) for clip in clips]
    gains = matched(clips, levels, levels[0] if target_lufs is None else target_lufs)
    loud = [louder(clip, gain) for clip, gain in zip(clips, gains, strict=True)]
    spectra = [spectrum_db(clip) for clip in loud]
    top = max([float(spectrum.max()) for spectrum in spectra[: 1 if target_lufs is None else None]] + [SILENT_DB])
    takes = []
    for source, clip, gain, spectrum in zip(sources, loud, gains, spectra, strict=True):
        place = f"{folder}/{source.system}"
        (assets / folder).mkdir(parents=True, exist_ok=True)
        if gain == 0.0:
            (assets / f"{place}.flac").write_bytes(source.path.read_bytes())
        else:
            audio.write(assets / f"{place}.flac", clip)
        draw(assets / f"{place}.png", spectrum, top)
        takes.append(
            Take(source.system, f"{place}.flac", f"{place}.png", clip.duration_s, gain, source.note, source.scores)
        )
    return Group(name, tuple(takes))


def figures(name: str, folders: Mapping[str, Path], assets: Path, folder: str) -> tuple[str, ...]:
    """Copy the figure of that name, where evaluate has drawn one, from each experiment's folder."""
    found = []
    for system, path in ((system, path / f"figures/{name}.png") for system, path in folders.items()):
        if path.is_file():
            place = f"{folder}/{system}-figure.png"
            (assets / folder).mkdir(parents=True, exist_ok=True)
            (assets / place).write_bytes(path.read_bytes())
            found.append(place)
    return tuple(found)


def matched(clips: Sequence[audio.Clip], levels_lufs: Sequence[float], target_lufs: float) -> list[float]:
    """Gains in dB that make all equally loud without exceeding full scale; 0 where there is no loudness to match."""
    gains = [target_lufs - level if math.isfinite(target_lufs - level) else 0.0 for level in levels_lufs]
    peaks = [20 * math.log10(max(float(np.abs(clip.samples).max(initial=0.0)), 1e-9)) for clip in clips]
    excess = max([peak + gain for peak, gain in zip(peaks, gains, strict=True)] + [0.0])
    if excess > 0:
        gains = [gain - excess - 0.01 for gain in gains]
    return [round(gain, 2) if abs(gain) >= INAUDIBLE_DB else 0.0 for gain in gains]


def louder(clip: audio.Clip, gain_db: float) -> audio.Clip:
    return replace(clip, samples=clip.samples * np.float32(10 ** (gain_db / 20)))


def spectrum_db(clip: audio.Clip) -> np.ndarray:
    """Level in dB over time and mel-spaced frequency up to the Nyquist frequency, float64 [frames, bands]."""
    num_frames, num_bands = SIZE
    samples = np.pad(clip.samples.astype(np.float64), WINDOW)
    starts = np.linspace(WINDOW / 2, max(len(samples) - 1.5 * WINDOW, WINDOW / 2), num_frames).astype(int)
    frames = samples[starts[:, None] + np.arange(WINDOW)] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    top_mel = 2595 * math.log10(1 + clip.rate_hz / 2 / 700)
    edges_hz = 700 * (10 ** (np.linspace(0, top_mel, num_bands + 1)[:-1] / 2595) - 1)
    first = np.minimum(edges_hz / clip.rate_hz * WINDOW, power.shape[1] - 1).astype(int)
    return 10 * np.log10(np.maximum.reduceat(power, first, axis=1) + 1e-12)  # the loudest: no partial is lost


def draw(path: Path, spectrum: np.ndarray, top_db: float) -> None:
    """A picture in ink: black whose opacity is the level, so that the page's colour shows through and may invert it."""
    from PIL import Image

    ink = np.clip((spectrum - top_db) / RANGE_DB + 1, 0, 1) ** 1.5
    opacity = np.round(255 * ink.T[::-1]).astype(np.uint8)
    opacity = (opacity >> 3) << 3  # 32 levels: half the bytes
    picture = Image.fromarray(np.stack([np.zeros_like(opacity), opacity], axis=-1), mode="LA")
    picture.save(path, format="PNG", compress_level=6)


def scores(per_clip: Mapping[str, Mapping[str, float]], clip: str) -> tuple[str, ...]:
    """What the scores of one clip say, in few words."""
    shown = (("si_sdr_db", "SI-SDR {:.1f} dB"), ("pesq_wb_gapped", "gapped PESQ {:.2f}"))
    values = [(form, per_clip.get(key, {}).get(clip)) for key, form in shown]
    return tuple(form.format(value).replace(" -", " −") for form, value in values if value is not None)
