"""Solo notes of the SoundFont, what an instrument classifier learns from: every pitch of a program, equally loud."""

from collections.abc import Sequence

import numpy as np

from stages.media import synth
from stages.media.audio import Clip, resample
from stages.media.midi import Score, Voice

PROGRAMS = (*range(80), *range(104, 112))
"""Pianos to pipes, and the ethnic instruments of General MIDI. Left out are pads, effects and percussion."""
PITCHES = range(36, 85)
"""C2 to C6. Above 90 the synthesizer does not return from some programs' notes."""
VELOCITY = 90
NOTE_S = 0.9
SPACING_S = 1.5
LEVEL = 0.07
"""Root mean square of a note's first second, that of music at -23 LUFS."""
QUIETEST, LOUDEST = 1e-4, 100.0
"""Raw levels beyond which the SoundFont leaves a note silent, or its filter overflows."""


def solo(program: int, pitches: Sequence[int], rate_hz: int) -> dict[int, np.ndarray]:
    """The first second of each note by pitch, float32 [rate_hz]; unusable ones are left out."""
    starts = np.round(1000 * SPACING_S * np.arange(len(pitches))).astype(np.int64)
    rows = [starts, starts + round(1000 * NOTE_S), np.array(pitches), np.full(len(pitches), VELOCITY)]
    voice = Voice("solo", program, False, np.stack(rows, axis=1), np.zeros((0, 2), np.int64))
    score = Score("solo", 1000, np.array([[0, 1_000_000]]), (voice,))
    spacing = round(SPACING_S * rate_hz)
    fast_hz = synth.OVERSAMPLED * rate_hz
    sound = resample(Clip("solo", synth.sing(score, [(voice, program)], fast_hz), fast_hz), rate_hz).samples
    notes = {pitch: sound[spacing * place :][:rate_hz] for place, pitch in enumerate(pitches)}
    levels = {pitch: float(np.sqrt(np.mean(samples.astype(np.float64) ** 2))) for pitch, samples in notes.items()}
    return {
        pitch: samples * np.float32(LEVEL / levels[pitch])
        for pitch, samples in notes.items()
        if QUIETEST < levels[pitch] < LOUDEST
    }
