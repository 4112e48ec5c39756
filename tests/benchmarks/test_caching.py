"""The cache stage's work on one core, from FLAC files to verified shards, in seconds of audio per CPU second."""

import numpy as np
import pytest

from stages import cache
from stages.media import audio
from stages.media.excerpts import Stretch
from stages.pipeline import artifacts
from stages.representations.mdct import Mdct
from tests.benchmarks import table

pytestmark = pytest.mark.bench
RATE, DURATION_S, NUM_CLIPS = 24_000, 30, 6


def chords(seed):
    """Decaying partials, a new chord each second: FLAC compresses them about as well as rendered MIDI."""
    random = np.random.Generator(np.random.Philox(seed))
    t = np.arange(RATE) / RATE
    seconds = []
    for _ in range(DURATION_S):
        pitches = 110 * 2 ** (random.integers(0, 36, 4) / 12)
        partials = [np.sin(2 * np.pi * f * k * t) / k**1.5 for f in pitches for k in range(1, 9)]
        seconds.append(0.05 * np.exp(-2 * t) * np.sum(partials, axis=0) + 1e-4 * random.standard_normal(RATE))
    return np.concatenate(seconds).astype(np.float32)


def test_caching_on_one_core(figure, tmp_path):
    stretches = []
    for number in range(NUM_CLIPS):
        path = tmp_path / f"{number}.flac"
        audio.write(path, audio.Clip(str(number), chords(number), RATE))
        stretches.append(Stretch(str(number), str(number), path.name, artifacts.sha256(path), 0, DURATION_S * RATE))
    representation, unit = Mdct(Mdct.Config()), cache.Unit("train", 0, tuple(stretches))
    (tmp_path / "train").mkdir()
    cache.encode(representation, tmp_path, tmp_path, unit)
    seconds = [table.seconds(lambda: cache.encode(representation, tmp_path, tmp_path, unit)) for _ in range(21)]
    factors = [NUM_CLIPS * DURATION_S / found for found in seconds]
    figure(table.of("caching_one_core", factors, "x real time (FLAC to MDCT shard)", must=300.0, aim=800.0))
