"""Every baseline variant gives back a clip of the same length; rates and qualities are in order; the stage's table."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from stages import baseline
from stages.baselines import griffin_lim, mp3, ogg_opus, white_noise
from stages.media import excerpts
from stages.metrics import mel_distance, si_sdr
from stages.networks import instrument_cnn
from stages.numerics import scoring
from stages.pipeline import artifacts, params, plugins
from tests.sounds import RATE_HZ, chords, clip

VARIANTS = [
    (system, variant)
    for system in plugins.names("baselines")
    for variant in plugins.load("baselines", system)().variants()
]
SOUND = clip(chords(1, 3.0, decay=1.0), "some-clip@0")


def coded(variant):
    (system,) = (system for system, name in VARIANTS if name == variant)
    return plugins.load("baselines", system)().code(variant, SOUND)


def quality_db(variant):
    return si_sdr.scores(SOUND, coded(variant).clip)["si_sdr_db"]


def test_names_are_rows_of_one_table():
    names = [variant for _, variant in VARIANTS]
    assert len(set(names)) == len(names)
    assert sum(name.startswith("opus_") for name in names) >= 4
    assert sum(name.startswith("mp3_") for name in names) >= 4
    assert {"original", "mel_griffin_lim", "white_noise_20db", "white_noise_30db"} < set(names)


@pytest.mark.parametrize("variant", [variant for _, variant in VARIANTS])
def test_every_variant_gives_the_clip_back(variant):
    made = coded(variant)
    assert (made.clip.id, made.clip.rate_hz) == (SOUND.id, SOUND.rate_hz)
    assert made.clip.samples.shape == SOUND.samples.shape and made.clip.samples.dtype == np.float32
    assert np.isfinite(made.clip.samples).all()
    again = coded(variant)
    np.testing.assert_array_equal(again.clip.samples, made.clip.samples)
    assert again.num_bytes == made.num_bytes and (made.num_bytes is None or made.num_bytes > 0)


@pytest.mark.parametrize("plugin", [ogg_opus.OggOpus, mp3.Mp3])
def test_more_bytes_sound_better(plugin):
    names = plugin().variants()
    sizes, qualities = [coded(name).num_bytes for name in names], [quality_db(name) for name in names]
    assert sizes == sorted(sizes) and qualities == sorted(qualities)
    for name, size in zip(names, sizes, strict=True):
        nominal_kbps = int(name.split("_")[1].removesuffix("kbps"))
        assert 0.5 * nominal_kbps < size * 8 / 1000 / 3.0 < 1.8 * nominal_kbps + 3, (
            "a container's headers weigh more here"
        )


@pytest.mark.parametrize("variant", [*mp3.LEVELS, "opus_12kbps", "opus_64kbps", "low_pass_3000hz"])
def test_codecs_come_back_in_time(variant):
    s, e = SOUND.samples.astype(float), coded(variant).clip.samples.astype(float)
    assert abs(si_sdr.delay(s, e, 2400)) <= 1  # at low rates the peak may lie between two samples


@pytest.mark.parametrize("ratio_db", white_noise.RATIOS_DB)
def test_noise_has_its_ratio(ratio_db):
    assert quality_db(f"white_noise_{ratio_db}db") == pytest.approx(ratio_db, abs=0.1)


def test_noise_differs_between_clips():
    other = clip(SOUND.samples, "another-clip@0")
    noises = [
        white_noise.WhiteNoise().code("white_noise_20db", item).clip.samples - SOUND.samples for item in (SOUND, other)
    ]
    assert abs(np.corrcoef(*noises)[0, 1]) < 0.02


@pytest.mark.parametrize("cutoff_hz", [3000, 6000])
def test_low_pass_cuts_what_is_above_and_keeps_what_is_below(cutoff_hz):
    white = clip(0.1 * np.random.Generator(np.random.Philox(1)).standard_normal(3 * RATE_HZ))
    made = plugins.load("baselines", "low_pass")().code(f"low_pass_{cutoff_hz}hz", white).clip
    ratio = np.abs(np.fft.rfft(made.samples)) / np.abs(np.fft.rfft(white.samples))
    frequency_hz = np.fft.rfftfreq(3 * RATE_HZ, 1 / RATE_HZ)
    assert np.median(ratio[frequency_hz < 0.8 * cutoff_hz]) == pytest.approx(1.0, abs=0.01)
    assert np.median(ratio[frequency_hz > 1.3 * cutoff_hz]) < 0.01


def test_the_original_is_untouched():
    made = coded("original")
    np.testing.assert_array_equal(made.clip.samples, SOUND.samples)
    assert made.num_bytes == 2 * len(SOUND.samples)


def test_griffin_lim_keeps_the_spectrum_and_loses_the_waveform():
    made = coded("mel_griffin_lim").clip
    assert mel_distance.scores(SOUND, made)["mel_distance_loud"] < 0.3
    assert quality_db("mel_griffin_lim") < 0.0


def test_magnitudes_fall_back_into_their_bands():
    draw = np.random.Generator(np.random.Philox(2))
    filters = csr_array(np.maximum(draw.standard_normal((6, 30)), 0.0))
    bands = filters @ draw.gamma(1.0, 1.0, (30, 50))
    found = griffin_lim.magnitudes(bands, filters)
    assert (found >= 0).all()
    assert np.abs(filters @ found - bands).mean() < 0.02 * bands.mean()


# The stage


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """References of four pieces, two excerpts each, and an untrained classifier."""
    folder = tmp_path_factory.mktemp("baseline")
    entries = []
    for number in range(8):
        item = clip(np.round(chords(number // 2, 1.5) * 32767) / 32768, f"piece{number // 2}-0@{number % 2}")
        entries.append(excerpts.write_reference(folder / "references", item, f"piece{number // 2}"))
    artifacts.write_json(folder / "references/manifest.json", {"clips": entries})
    torch.manual_seed(0)
    (folder / "classifier").mkdir()
    instrument_cnn.save(folder / "classifier", instrument_cnn.InstrumentCNN(3), {"num_classes": 3})
    return folder


SMALL = baseline.Config(
    ("original", "white_noise"),
    ("si_sdr", "bitrate", "frechet", "kernel"),
    scoring.Settings(num_resamples=20, num_shown=2),
)


def test_the_stage_writes_one_row_per_variant(inputs, tmp_path):
    baseline.run(SMALL, inputs / "references", inputs / "classifier", tmp_path / "out")
    metrics = artifacts.read_json(tmp_path / "out/metrics.json")
    assert metrics.keys() == {"original", "white_noise_20db", "white_noise_30db", "original_halves"}
    original, noisy = metrics["original"], metrics["white_noise_20db"]
    assert "si_sdr_db" not in original and original["si_sdr_db_failures"] == {"identical": 8}
    assert original["bitrate_kbps"] == pytest.approx(384, rel=1e-6)
    assert original["reconstruction_frechet_classifier"] < 1e-6 < noisy["reconstruction_frechet_classifier"]
    assert noisy["si_sdr_db"] == pytest.approx(20, abs=0.1) and noisy["si_sdr_db_num"] == 8
    clips = artifacts.read_json(tmp_path / "out/clips.json")
    assert len(clips["white_noise_30db"]["si_sdr_db"]) == 8
    manifest = artifacts.read_json(tmp_path / "out/manifest.json")
    assert [item["id"] for item in manifest["original"]["clips"]] == ["piece0-0@0", "piece2-0@0"]
    for row in manifest.values():
        for item in row["clips"]:
            assert (tmp_path / "out" / item["path"]).is_file() and item["duration_s"] == 1.5
    baseline.run(SMALL, inputs / "references", inputs / "classifier", tmp_path / "again")
    for path in (tmp_path / "out").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(tmp_path / "out")).read_bytes(), path.name


def test_halves_share_no_piece():
    """Both excerpts of a piece have the same features; were a piece in both halves, the halves would be one set."""
    pieces = ["a", "a", "b", "b", "c", "c", "d", "d"]
    seen = []

    class Judge:
        def features(self, item):
            seen.append(item.id)
            return np.outer(np.arange(3.0), np.ones(2)) + (10.0 if item.id[0] in "ac" else 0.0)

    originals = [clip([0.1], f"{piece}@{i}") for i, piece in enumerate(pieces)]
    found = baseline.halves(SMALL, originals, pieces, Judge())
    assert found["sample_frechet_classifier"].value == pytest.approx(200.0)
    assert found["reconstruction_frechet_classifier"] == found["sample_frechet_classifier"]
    assert found["sample_frechet_classifier"].num == 4
    assert set(seen) == {item.id for item in originals}


def test_configure_follows_the_sections_baselines_and_evaluate():
    tree = params.Params(
        {"baselines": {"representation": "mdct", "classifier": "audio", "systems": ["mp3"]}, "evaluate": {"seed": 5}}
    )
    needs = baseline.configure(tree, None)
    tree.finish()
    assert needs.config.systems == ("mp3",) and needs.config.settings.seed == 5
    assert ("baselines", "mp3") in needs.plugins and ("metrics", "stoi") in needs.plugins
    wrong = params.Params(
        {"baselines": {"representation": "mdct", "classifier": "audio", "systems": ["mp4"]}, "evaluate": {}}
    )
    assert baseline.configure(wrong, None) is None
    assert "did you mean 'mp3'" in wrong.problems[0]
