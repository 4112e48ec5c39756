"""How hard the corpus is to code: what the largest 600 MDCT coefficients a second leave out, by orchestration.

No model is asked: the signal-to-noise ratio of the best sparse approximation at a fixed number of coefficients ranks
corpora as codecs do. Frames of 320 bins, like the default representation's.
"""

import numpy as np
import pytest

from stages.corpora import chorales
from stages.media import midi, synth
from stages.numerics import mdct
from tests.benchmarks import table

pytestmark = pytest.mark.bench
RATE, NUM_PIECES, COEFFICIENTS_PER_S = 24_000, 8, 600
EVERY_PITCHED = tuple(program for program in (*range(0, 96), *range(104, 112)) if program not in synth.TWINS)


def sparse_snr_db(samples):
    energy = np.sort(np.square(mdct.mdct(samples, mdct.sine_window(320)).astype(np.float64)).ravel())[::-1]
    kept = COEFFICIENTS_PER_S * len(samples) // RATE
    return 10 * np.log10(energy.sum() / energy[kept:].sum())


def orchestrated(score, programs, per_voice):
    drawn = synth.draw(len(score.voices), 0, score.id, programs)
    return synth.per_voice(score, drawn if per_voice else drawn[:1] * len(drawn), RATE, -23.0).samples[: 15 * RATE]


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chorales")
    corpus = chorales.Chorales(chorales.Chorales.Config(num_pieces=NUM_PIECES))
    pieces = corpus.collect(folder, folder).pieces
    return [midi.read((folder / piece.path).read_bytes(), piece.id) for piece in pieces]


@pytest.mark.parametrize("per_voice", [True, False], ids=["instrument_per_voice", "instrument_per_piece"])
@pytest.mark.parametrize("programs", [synth.PROGRAMS, EVERY_PITCHED], ids=["chamber", "every_program"])
def test_sparseness(figure, scores, programs, per_voice):
    found = [sparse_snr_db(orchestrated(score, programs, per_voice)) for score in scores]
    name = f"sparse_{'chamber' if programs is synth.PROGRAMS else 'every'}_per_{'voice' if per_voice else 'piece'}"
    figure(table.of(name, found, "dB SNR at 600 MDCT coefficients/s"))
