"""The judge: what it hears, what it remembers, and that it can be trained to name instruments, the same every time."""

import numpy as np
import pytest
import torch

from stages import classifier
from stages.media import notes
from stages.networks import instrument_cnn
from stages.networks.instrument_cnn import FLOOR, HOP, NUM_FEATURES, WINDOW, InstrumentCNN, Judge, Mel
from stages.pipeline import params
from stages.pipeline.artifacts import Damaged
from tests.sounds import RATE_HZ, chords, clip

PROGRAMS = (0, 19, 56, 73)  # piano, church organ, trumpet, flute


@pytest.fixture
def judge():
    torch.manual_seed(0)
    return Judge(InstrumentCNN(5), {})


@pytest.mark.parametrize(("num_samples", "num_rows"), [(1, 1), (WINDOW, 1), (WINDOW + HOP, 2), (10 * WINDOW, 19)])
def test_a_row_per_second_every_half_second(judge, num_samples, num_rows):
    found = judge.features(clip(chords(1, 10.0)[:num_samples]))
    assert found.shape == (num_rows, NUM_FEATURES) and found.dtype == np.float64
    assert np.isfinite(found).all()


def test_nothing_has_no_features(judge):
    assert judge.features(clip([])).shape == (0, NUM_FEATURES)


def test_rows_hear_their_second_alone(judge):
    sound = chords(1, 4.0)
    changed = sound.copy()
    changed[-HOP:] = 0.0
    first, second = judge.features(clip(sound)), judge.features(clip(changed))
    np.testing.assert_array_equal(first[:-1], second[:-1])
    assert np.abs(first[-1] - second[-1]).max() > 1e-3


def test_features_are_remembered_by_content(judge):
    sound = chords(2, 1.0)
    assert judge.features(clip(sound, "a")) is judge.features(clip(sound.copy(), "b"))
    assert judge.features(clip(sound)) is not judge.features(clip(0.5 * sound))


def test_other_rates_are_resampled(judge):
    low, high = (chords(3, 2.0, rate_hz=rate_hz) for rate_hz in (RATE_HZ, 2 * RATE_HZ))
    one, other = judge.features(clip(low)), judge.features(clip(high, rate_hz=2 * RATE_HZ))
    assert one.shape == other.shape
    assert np.abs(one - other).max() < 0.05 * np.abs(one).max() + 0.01


def test_mel_is_linear_in_level_and_floored():
    sound = torch.from_numpy(chords(4, 1.0)).float()[None]
    mel = Mel()
    torch.testing.assert_close(mel(2 * sound), 2 * mel(sound))
    torch.manual_seed(0)
    network = InstrumentCNN(3).eval()
    silence = torch.zeros(1, 64, 47)
    torch.testing.assert_close(network.features(silence), network.features(silence + FLOOR))


def test_what_is_saved_comes_back_and_damage_is_refused(judge, tmp_path):
    instrument_cnn.save(tmp_path, judge.network, {"num_classes": 5, "accuracy": 0.5})
    loaded = instrument_cnn.load(tmp_path)
    sound = clip(chords(5, 2.0))
    np.testing.assert_array_equal(loaded.features(sound), judge.features(sound))
    assert loaded.facts["accuracy"] == 0.5
    weights = bytearray((tmp_path / "model.safetensors").read_bytes())
    weights[-3] ^= 1
    (tmp_path / "model.safetensors").write_bytes(weights)
    with pytest.raises(Damaged, match="model.safetensors"):
        instrument_cnn.load(tmp_path)


def test_solo_notes_are_equally_loud_and_in_tune():
    found = notes.solo(73, [60, 72], RATE_HZ)
    assert list(found) == [60, 72]
    for pitch, samples in found.items():
        assert samples.shape == (RATE_HZ,) and samples.dtype == np.float32
        assert np.sqrt(np.mean(samples.astype(float) ** 2)) == pytest.approx(notes.LEVEL, rel=1e-4)
        spectrum = np.abs(np.fft.rfft(samples * np.hanning(RATE_HZ)))
        peak_hz = spectrum[: 1 + round(1.5 * 440 * 2 ** ((pitch - 69) / 12))].argmax()
        assert 12 * np.log2(peak_hz / 440) + 69 == pytest.approx(pitch, abs=0.5)


def test_notes_that_the_soundfont_lacks_are_left_out():
    assert list(notes.solo(67, [60, 84], RATE_HZ)) == [60], "a baritone saxophone goes no higher than G5"


def test_training_names_instruments_of_held_out_pitches_and_repeats_itself(monkeypatch, tmp_path):
    monkeypatch.setattr(classifier, "PROGRAMS", PROGRAMS)
    config = classifier.Config(num_steps=40, seed=0, batch_size=32, num_threads=1)
    for name in ("one", "two"):
        classifier.run(config, tmp_path / name)
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    facts = instrument_cnn.load(tmp_path / "one").facts
    assert facts["num_classes"] == 4 and facts["num_notes"] > 180 and facts["num_notes_held_out"] > 30
    assert facts["accuracy"] > 0.6, "chance is 0.25"


def test_held_out_pitches_are_never_trained_on(monkeypatch):
    """The accuracy is of notes whose pitch no instrument was heard at."""
    monkeypatch.setattr(classifier, "PROGRAMS", PROGRAMS[:2])
    known = classifier.render()
    held_out = known.pitch % classifier.HELD_OUT == 2
    assert set(known.pitch[held_out].tolist()).isdisjoint(known.pitch[~held_out].tolist())
    assert 0.1 < held_out.double().mean() < 0.3


def test_configure_reads_its_block():
    tree = params.Params({"classifiers": {"audio": {"num_steps": 3, "seed": 1}}})
    assert classifier.configure(tree, "audio").config == classifier.Config(3, 1)
    wrong = params.Params({"classifiers": {"audio": {"num_step": 3, "seed": 1}}})
    assert classifier.configure(wrong, "audio") is None
    assert any("did you mean 'num_steps'" in problem for problem in wrong.problems)
