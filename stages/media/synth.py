"""Scores become sound: General MIDI programs of one SoundFont, balanced by loudness, never clipped.

Raw programs of a SoundFont differ by up to 80 dB, and the synthesizer's output is unclipped float. So every voice x_v
is rendered alone and scaled to one level while it sounds, the voices are summed, the sum is brought to the stated
loudness, and only then does it meet the 16-bit grid:

    x = sum_v x_v / rms(x_v where it sounds),   y = min(10^((L - L(x)) / 20), ceiling / max |x|) x

with L(x) the gated loudness of ITU-R BS.1770-4 (LUFS, https://www.itu.int/rec/R-REC-BS.1770). Where the peak would
pass the ceiling the whole clip is turned down rather than squashed: a limiter would change the timbre.

The SoundFont is TimGM6mb by Tim Brechbill (GPL-2), which pretty_midi installs; the synthesizer is symusic's.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stages.media.audio import Clip, resample
from stages.media.midi import Score, Voice

PROGRAMS: tuple[int, ...] = (
    *(0, 6, 11, 12),  # piano, harpsichord, vibraphone, marimba
    *(19, 20),  # church organ, reed organ
    *(24, 46),  # nylon guitar, harp
    *(40, 41, 42, 45, 49),  # violin, viola, cello, pizzicato, string ensemble
    52,  # choir
    *(57, 59, 60),  # trombone, muted trumpet, horn
    *(68, 69, 70, 71, 73, 74),  # oboe, english horn, bassoon, clarinet, flute, recorder
)
"""General MIDI programs (counted from 0) with a pitch, sustained or plucked: the acoustic instruments of a chamber
ensemble. Left out: sound effects (helicopter, sea, gunshot ...), percussion, basses, synthesizers and electric
instruments. With every pitched program the same music is about 2 dB harder to code (`make bench`, sparse_*)."""

OVERSAMPLED = 2  # samples played far above their pitch alias otherwise
HIGHEST_PITCH = 96  # at 48 kHz the synthesizer never returns from some notes of 102 and above, in 40 programs
TWINS = {44: 49, 48: 49, 56: 59, 65: 66, 78: 79}
"""Programs played by a neighbour: loops of 44, 48, 56 and 65 end with their sample, where the synthesizer reads one
value of foreign memory (other bytes in every process); the filter of 78 is unstable (1e37, NaN)."""
QUALITY = 3  # symusic's interpolation: 4 takes twice the time, 5 to 7 give silence
TICKS_PER_S = 10_000
TAIL_S = 1.0  # after the last note ends: the release of its sound
CEILING = 0.98
BLOCK_S = 0.1  # what is one moment when asking whether a voice sounds
AUDIBLE = 1e-4  # a moment sounds within 40 dB of the voice's loudest
MEASURED_PEAK = 0.25
SHORTEST_S = 0.4  # one gating block of BS.1770; shorter clips are measured with silence behind them


def soundfont() -> Path:
    """The SoundFont that pretty_midi installs."""
    import pretty_midi

    return Path(pretty_midi.__file__).with_name("TimGM6mb.sf2")


def name_of(program: int) -> str:
    """General MIDI's name of a program."""
    import pretty_midi

    return pretty_midi.program_to_instrument_name(program)


def draw(num_voices: int, seed: int, name: str, choices: Sequence[int] = PROGRAMS) -> tuple[int, ...]:
    """A program per voice, no two alike while there are enough; a pure function of its arguments."""
    key = int.from_bytes(hashlib.sha256(f"instruments {seed} {name}".encode()).digest()[:16])
    generator = np.random.Generator(np.random.Philox(key=key))
    rounds = -(-num_voices // len(choices))
    drawn = [program for _ in range(rounds) for program in generator.permutation(np.array(choices)).tolist()]
    return tuple(drawn[:num_voices])


def per_voice(score: Score, programs: Sequence[int], rate_hz: int, loudness_lufs: float) -> Clip:
    """Each voice with its program, all equally loud; drums stay drums. ValueError where it is silent."""
    fast_hz = OVERSAMPLED * rate_hz
    mix = np.zeros(num_samples(score, fast_hz), dtype=np.float32)
    for voice, program in zip(score.voices, programs, strict=True):
        sound = sing(score, [(voice, program)], fast_hz)
        level = sounding_rms(sound, fast_hz)
        if level > 0:
            mix += sound * np.float32(1 / level)
    return finish(score.id, mix, rate_hz, loudness_lufs)


def as_written(score: Score, rate_hz: int, loudness_lufs: float) -> Clip:
    """The score's own programs in the SoundFont's own balance. ValueError where it is silent."""
    voices = [(voice, voice.program) for voice in score.voices]
    return finish(score.id, sing(score, voices, OVERSAMPLED * rate_hz), rate_hz, loudness_lufs)


def num_samples(score: Score, rate_hz: int) -> int:
    return round((score.duration_s + TAIL_S) * rate_hz)


def finish(clip_id: str, mix: np.ndarray, rate_hz: int, loudness_lufs: float) -> Clip:
    """An oversampled mix as a clip at the stated loudness, or as near as the ceiling allows."""
    clip = resample(Clip(clip_id, mix, OVERSAMPLED * rate_hz), rate_hz)
    level, peak = loudness(clip.samples, rate_hz), float(np.abs(clip.samples).max(initial=0.0))
    if not np.isfinite(level):
        raise ValueError(f"silent: its loudness is {level} LUFS")
    gain = np.float32(min(10 ** ((loudness_lufs - level) / 20), CEILING / peak))
    return Clip(clip_id, clip.samples * gain, rate_hz)


def sing(score: Score, voices: Sequence[tuple[Voice, int]], rate_hz: int) -> np.ndarray:
    """The raw sound of voices with their programs, float32 [num_samples(score, rate_hz)].

    The synthesizer stops when the last note ends, so a note beyond the end carries it through the tail. It remembers
    what it played before, so each sound has its own.
    """
    from symusic.core import NoteTick, NoteTickList, ScoreTick, Synthesizer, TrackTick

    sheet = ScoreTick(TICKS_PER_S // 2)  # at the default 120 quarters a minute
    for voice, program in voices:
        track = TrackTick("", program if voice.is_drum else TWINS.get(program, program), voice.is_drum)
        starts, ends = np.rint(seconds_held(score, voice) * TICKS_PER_S).astype(np.int32).T
        lengths = np.maximum(ends - starts, 1)
        pitches = voice.notes[:, 2] if voice.is_drum else playable(voice.notes[:, 2])
        pitches, velocities = pitches.astype(np.int8), voice.notes[:, 3].astype(np.int8)
        track.notes = NoteTickList.from_numpy(np.ascontiguousarray(starts), lengths, pitches, velocities)
        sheet.tracks.append(track)
    length = num_samples(score, rate_hz)
    carrier = TrackTick("", 0, False)
    carrier.notes.append(NoteTick(length * TICKS_PER_S // rate_hz + TICKS_PER_S, 1, 60, 1))
    sheet.tracks.append(carrier)
    synthesizer = Synthesizer(str(soundfont()), rate_hz, QUALITY)
    return np.asarray(synthesizer.render(sheet, stereo=False), dtype=np.float32)[0, :length]


def playable(pitches: np.ndarray) -> np.ndarray:
    """Pitches above the highest playable one, by whole octaves below it."""
    return pitches - 12 * np.maximum(0, -((HIGHEST_PITCH - pitches) // 12))


def seconds_held(score: Score, voice: Voice) -> np.ndarray:
    """Start and end of each note in seconds, float64 [num_notes, 2], the sustain pedal counted in.

    The synthesizer knows no pedal: a note under it lasts until the pedal rises or its own key is struck again.
    """
    starts, ends = voice.notes[:, 0], voice.notes[:, 1].copy()
    if len(voice.pedals):
        ticks, is_down = voice.pedals[:, 0], voice.pedals[:, 1] >= 64
        last = max(int(ends.max()), int(ticks[-1]))
        ups = ticks[~is_down]
        state = np.searchsorted(ticks, ends, side="right") - 1
        held = (state >= 0) & is_down[state]
        rises = np.append(ups, last)[np.searchsorted(ups, ends, side="right")]
        ends = np.where(held, np.minimum(np.maximum(rises, ends), next_of_pitch(voice.notes, last)), ends)
        ends = np.maximum(ends, voice.notes[:, 1])
    return np.stack([score.seconds(starts), score.seconds(ends)], axis=1)


def next_of_pitch(notes: np.ndarray, last: int) -> np.ndarray:
    """The tick at which each note's pitch begins again, `last` where it does not; int64 [num_notes]."""
    result = np.full(len(notes), last, dtype=np.int64)
    order = np.lexsort((notes[:, 0], notes[:, 2]))
    same = notes[order[1:], 2] == notes[order[:-1], 2]
    result[order[:-1][same]] = notes[order[1:][same], 0]
    return result


def sounding_rms(samples: np.ndarray, rate_hz: int) -> float:
    """Root mean square over the moments in which the voice sounds; 0 for silence."""
    block = round(BLOCK_S * rate_hz)
    whole = np.pad(samples, (0, -len(samples) % block)).reshape(-1, block)
    power = np.einsum("bi,bi->b", whole, whole, dtype=np.float64) / block
    return float(np.sqrt(power[power >= AUDIBLE * power.max()].mean()))


def loudness(samples: np.ndarray, rate_hz: int) -> float:
    """Gated loudness of mono sound in LUFS; -inf or NaN where every block is silent.

    torchaudio's filters clip at full scale, which would understate loud sound by many dB: measured well below it.
    """
    import torch
    from torchaudio.functional import loudness as bs1770

    peak = float(np.abs(samples).max(initial=0.0))
    if peak == 0.0:
        return -np.inf
    missing = max(0, int(np.ceil(SHORTEST_S * rate_hz)) - len(samples))
    below = np.pad(samples * np.float32(MEASURED_PEAK / peak), (0, missing))
    with torch.inference_mode():
        return float(bs1770(torch.from_numpy(below)[None], rate_hz)) + 20 * np.log10(peak / MEASURED_PEAK)
