"""Laws of every metric: identity, symmetry, closed forms, monotone in noise, coverage of the intervals.

Signals are made so that the true value is known without the implementation: noise orthogonal to the signal at a chosen
ratio, a signal twice as loud, features shifted by a vector.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import linalg

from stages.metrics import (
    bitrate,
    frechet,
    kernel,
    log_spectral_distance,
    mel_distance,
    pesq_wb,
    pesq_wb_gapped,
    si_sdr,
    stoi,
)
from stages.numerics import bootstrap, mmd, spectrum
from stages.numerics import frechet as gaussians
from stages.numerics.frechet import Gaussian
from stages.numerics.scoring import Unscored
from stages.protocols.metric import Evidence
from tests.sounds import RATE_HZ, chords, clip, noise, with_noise

PAIRED = {
    "pesq_wb_gapped": (pesq_wb_gapped, +1, 4.6439),
    "stoi": (stoi, +1, 1.0),
    "log_spectral_distance_db": (log_spectral_distance, -1, 0.0),
    "mel_distance": (mel_distance, -1, 0.0),
    "mel_distance_loud": (mel_distance, -1, 0.0),
}
DISTANCES = ("log_spectral_distance_db", "mel_distance", "mel_distance_loud")


def value(name, x, y):
    module = si_sdr if name == "si_sdr_db" else PAIRED[name][0]
    return module.scores(clip(x), clip(y))[name]


# What all that compare a clip with its reconstruction have in common


@pytest.mark.parametrize("name", PAIRED)
def test_identity(name):
    x = chords(1)
    assert value(name, x, x) == pytest.approx(PAIRED[name][2], abs=1e-4)  # PESQ is float32 inside


@pytest.mark.parametrize("name", DISTANCES)
def test_symmetry(name):
    x, y = chords(1), with_noise(chords(1), 10)
    assert value(name, x, y) == pytest.approx(value(name, y, x), rel=1e-12)


@pytest.mark.parametrize("name", ["si_sdr_db", *PAIRED])
def test_monotone_in_noise(name):
    x = chords(2)
    sign = 1 if name == "si_sdr_db" else PAIRED[name][1]
    values = [sign * value(name, x, with_noise(x, ratio_db)) for ratio_db in (40, 30, 20, 10, 0)]
    assert values == sorted(values, reverse=True)
    assert values[0] - values[-1] > 0.1


# SI-SDR


@pytest.mark.parametrize("ratio_db", [-10.0, 0.0, 12.5, 40.0])
def test_si_sdr_is_the_ratio_of_energies_for_orthogonal_noise(ratio_db):
    x = chords(3, 2.0)
    assert si_sdr.ratio_db(x, with_noise(x, ratio_db)) == pytest.approx(ratio_db, abs=1e-9)


@pytest.mark.parametrize("delay", [-2400, -7, 0, 1, 1105, 2400])
@pytest.mark.parametrize("gain", [1.0, -0.3])
def test_si_sdr_knows_no_delay_polarity_or_gain(delay, gain):
    longer = chords(4, 3.0)
    start, length = 4800, 48000
    y = with_noise(longer, 20)
    x, y = longer[start : start + length], gain * y[start - delay : start - delay + length]
    expected = si_sdr.ratio_db(longer[start : start + length], with_noise(longer, 20)[start : start + length])
    assert value("si_sdr_db", x, y) == pytest.approx(expected, abs=0.2)  # the overlap is up to 5 % shorter


def test_delays_beyond_the_window_are_not_searched():
    longer = noise(0, 96000)
    assert value("si_sdr_db", longer[9600:57600], longer[:48000]) < -20


@pytest.mark.parametrize("gain", [1.0, -1.0, 0.25])
def test_a_copy_has_no_finite_si_sdr(gain):
    x = chords(5, 1.0)
    with pytest.raises(Unscored, match="identical"):
        value("si_sdr_db", x, gain * x)


# Spectral distances


def test_spectrum_is_the_discrete_fourier_transform():
    x, size, hop = noise(1, 100), 16, 4
    window = np.array([math.sin(math.pi * n / size) ** 2 for n in range(size)])
    padded = np.concatenate([np.zeros(size // 2), x, np.zeros(size // 2)])
    expected = [
        [
            abs(sum(window[n] * padded[t + n] * np.exp(-2j * math.pi * k * n / size) for n in range(size)))
            for k in range(9)
        ]
        for t in range(0, 101, hop)
    ]
    found = np.concatenate(list(spectrum.magnitudes(x, size, hop)))
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_blocks_do_not_change_the_spectrum(monkeypatch):
    x = noise(2, 5000)
    whole = np.concatenate(list(spectrum.magnitudes(x, 64, 16)))
    monkeypatch.setattr(spectrum, "BLOCK", 1)
    np.testing.assert_array_equal(np.concatenate(list(spectrum.magnitudes(x, 64, 16))), whole)


def test_log_spectral_distance_of_a_signal_twice_as_loud_is_6_db():
    x = 0.1 * noise(3, 24000)
    assert value("log_spectral_distance_db", x, 2 * x) == pytest.approx(20 * math.log10(2), abs=1e-3)


def test_a_full_scale_sine_peaks_at_0_db():
    time = np.arange(24000) / RATE_HZ
    (block, *_) = spectrum.magnitudes(np.sin(2 * np.pi * 128 * RATE_HZ / 2048 * time), 2048, 512)
    assert log_spectral_distance.level_db(block)[4].max() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", ["mel_distance", "mel_distance_loud"])
def test_mel_distance_of_a_signal_e_times_as_loud_is_1(name):
    x = 0.2 * noise(4, 24000)
    assert value(name, x, math.e * x) == pytest.approx(1.0, abs=0.01)  # a few cells lie below the higher floor


def test_floors_say_what_counts_as_silence():
    faint = 2e-4 * noise(5, 24000)
    silence = np.zeros(24000)
    assert value("mel_distance_loud", faint, silence) == 0.0
    assert value("mel_distance", faint, silence) > 1.0
    assert value("log_spectral_distance_db", 1e-7 * faint, silence) == 0.0


# PESQ


def test_gaps_follow_every_two_seconds_and_change_nothing_else():
    x = noise(6, 5 * 16000)
    gapped = pesq_wb_gapped.with_gaps(x)
    assert len(gapped) == 8 * 16000
    seconds = gapped.reshape(8, 16000)
    assert [bool(second.any()) for second in seconds] == [True, True, False, True, True, False, True, False]
    np.testing.assert_array_equal(seconds[[0, 1, 3, 4, 6]].ravel(), x)


def test_gapped_pesq_scores_music_that_pesq_does_not():
    signals = [chords(seed, 6.0, decay) for seed in range(3) for decay in (0.0, 1.0, 4.0)]
    unscored = 0
    for x in signals:
        pair = clip(x), clip(with_noise(x, 25))
        assert 1.0 < pesq_wb_gapped.scores(*pair)["pesq_wb_gapped"] < 4.65
        try:
            pesq_wb.scores(*pair)
        except Unscored as reason:
            assert str(reason) == "no utterances"
            unscored += 1
    assert unscored > 0


# Frechet distance


def gaussian(seed, size, rank=None):
    a = np.random.Generator(np.random.Philox(seed)).standard_normal((size, rank or size))
    return Gaussian(a[:, 0] * 2, a @ a.T / size)


@pytest.mark.parametrize("rank", [None, 2])
def test_frechet_distance_equals_the_definition_by_matrix_root(rank):
    one, other = gaussian(1, 6), gaussian(2, 6, rank)
    root = linalg.sqrtm(one.covariance @ other.covariance)
    expected = ((one.mean - other.mean) ** 2).sum() + np.trace(one.covariance + other.covariance - 2 * np.real(root))
    tolerance = 1e-9 if rank is None else 1e-5  # sqrtm loses digits on singular matrices
    assert gaussians.distance(one, other) == pytest.approx(expected, abs=tolerance)


def test_frechet_distance_is_symmetric_zero_at_home_and_never_negative():
    one, other = gaussian(3, 5), gaussian(4, 5, rank=1)
    rounding = 1e-6  # roots of eigenvalues that are 0 but for 1e-16
    assert gaussians.distance(one, other) == pytest.approx(gaussians.distance(other, one), abs=rounding)
    assert 0.0 <= gaussians.distance(one, one) < rounding
    assert 0.0 <= gaussians.distance(other, other) < rounding


def test_frechet_distance_of_scaled_axes():
    one, other = Gaussian(np.zeros(2), np.diag([1.0, 4.0])), Gaussian(np.array([3.0, 0.0]), np.diag([9.0, 4.0]))
    assert gaussians.distance(one, other) == pytest.approx(9.0 + (3 - 1) ** 2)


def test_weighted_sums_make_the_gaussian_of_repeated_clips():
    draw = np.random.Generator(np.random.Philox(5))
    features = [100.0 + draw.standard_normal((n, 3)) for n in (4, 7, 5)]
    found = gaussians.gaussian(gaussians.sums(features), np.array([[2, 0, 1], [1, 1, 1]]))
    for row, picked in enumerate(([0, 0, 2], [0, 1, 2])):
        rows = np.concatenate([features[i] for i in picked])
        np.testing.assert_allclose(found.mean[row], rows.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found.covariance[row], np.cov(rows.T), atol=1e-10)


# Kernel distance


def naive_mmd(x, y, h):
    def k(a, b):
        return math.exp(-((a - b) ** 2).sum() / (2 * h * h))

    n, m = len(x), len(y)
    own_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    own_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return own_x + own_y - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def test_mmd_equals_the_double_sum():
    draw = np.random.Generator(np.random.Philox(6))
    x = [draw.standard_normal((n, 3)) for n in (3, 5)]
    y = [0.5 + draw.standard_normal((n, 3)) for n in (4, 2, 3)]
    found = mmd.estimate(mmd.blocks(x, y), np.ones((1, 2)), np.ones((1, 3)))[0]
    both = np.concatenate(x)
    distances = sorted(math.dist(both[i], both[j]) for i in range(8) for j in range(i))
    median = (distances[13] + distances[14]) / 2
    assert found == pytest.approx(naive_mmd(both, np.concatenate(y), median), abs=1e-12)


def test_mmd_is_unbiased_and_sees_a_shift():
    draw = np.random.Generator(np.random.Philox(7))

    def once(shift):
        x, y = [draw.standard_normal((30, 2))], [shift + draw.standard_normal((30, 2))]
        return mmd.estimate(mmd.blocks(x, y), np.ones((1, 1)), np.ones((1, 1)))[0]

    same = np.array([once(0.0) for _ in range(300)])
    assert abs(same.mean()) < 3 * same.std() / math.sqrt(300)
    assert once(1.0) > same.max()


# Distances of sets through the metrics


def evidence(x, y, **more):
    """The samples themselves, four at a time, are the features."""
    originals = tuple(clip(samples, f"x{i}") for i, samples in enumerate(x))
    others = tuple(clip(samples, f"y{i}") for i, samples in enumerate(y))
    given = {"features": lambda item: item.samples.reshape(-1, 4).astype(np.float64), "facts": {"num_resamples": 200}}
    return Evidence("audio", pairs=tuple(zip(originals, others, strict=True)), sets=(originals, others), **given | more)


def test_a_shift_of_all_features_is_its_squared_length():
    x = [noise(seed, 80) for seed in range(6)]
    found = frechet.Frechet().compute(evidence(x, [samples + 3.0 for samples in x]))
    measure = found["reconstruction_frechet_classifier"]
    assert measure.value == pytest.approx(4 * 9.0, rel=1e-5)
    assert (measure.low, measure.high) == pytest.approx((36, 36), rel=1e-4), "pairs move together"
    apart = found["sample_frechet_classifier"]
    assert apart.value == measure.value
    assert apart.high - apart.low > 1.0, "sets do not"


@pytest.mark.parametrize("plugin", [frechet.Frechet, kernel.Kernel])
def test_set_distances_grow_with_noise(plugin):
    x = [noise(seed, 80) for seed in range(8)]
    values = []
    for level in (0.0, 0.5, 1.0, 2.0):
        y = [samples + level * noise(100 + seed, 80) for seed, samples in enumerate(x)]
        found = plugin().compute(evidence(x, y))
        values.append(next(measure.value for name, measure in found.items() if name.startswith("reconstruction")))
    assert values == sorted(values)
    assert values[0] <= 1e-9, "no distance from itself; the unbiased estimate lies below 0"


# Intervals


def test_interval_of_a_mean_covers_the_truth():
    draw = np.random.Generator(np.random.Philox(8))
    hits = 0
    for trial in range(400):
        scores = draw.gamma(4.0, 1.0, 24)
        found = bootstrap.of_ratio(scores, np.ones(24), 400, seed=trial)
        assert found.low <= scores.mean() <= found.high
        hits += found.low <= 4.0 <= found.high
    assert 0.89 < hits / 400 < 0.97  # a percentile bootstrap of 24 skewed values covers a little less than 95 %


def test_interval_of_a_rate_weighs_clips_by_their_length():
    streams = tuple((1000 * seconds, float(seconds)) for seconds in range(1, 25))
    found = bitrate.Bitrate().compute(Evidence("audio", streams=streams))["bitrate_kbps"]
    assert found.value == found.low == found.high == pytest.approx(8.0)
    doubled = tuple((size * (2 if seconds > 12 else 1), seconds) for size, seconds in streams)
    found = bitrate.Bitrate().compute(Evidence("audio", streams=doubled))["bitrate_kbps"]
    assert found.value == pytest.approx(8.0 * (300 + 222) / 300)
    assert found.low < found.value < found.high


def test_interval_of_the_frechet_distance_covers_its_mean():
    """What another test set of the same size would give on average, bias of the size included."""
    draw = np.random.Generator(np.random.Philox(9))

    def sets():
        return ([draw.standard_normal(40) + draw.standard_normal() for _ in range(16)] for _ in range(2))

    found = [frechet.Frechet().compute(evidence(*sets()))["sample_frechet_classifier"] for _ in range(120)]
    centre = np.mean([measure.value for measure in found])
    assert 0.8 < np.mean([measure.low <= centre <= measure.high for measure in found]) <= 1.0


def test_golden():
    """One synthetic pair, to the digit: a change of a definition must be meant, and said in the CHANGELOG."""
    x = chords(42, 4.0, decay=1.0)
    y = with_noise(x, 18.0, seed=42)
    found = {"si_sdr_db": value("si_sdr_db", x, y)} | {name: value(name, x, y) for name in PAIRED}
    golden = json.loads((Path(__file__).parent / "golden/metrics.json").read_text())
    assert found == pytest.approx(golden, rel=1e-4)  # PESQ is float32 inside
