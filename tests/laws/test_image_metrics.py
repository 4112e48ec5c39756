"""The judge of images and its scores: extrapolation finds the closed form, and what it reads is what was made."""

import numpy as np
import pytest

from stages import image_classifier
from stages.media import image
from stages.metrics.conditional_accuracy import ConditionalAccuracy
from stages.metrics.frechet_infinity import FrechetInfinity
from stages.networks import digit_cnn
from stages.numerics import frechet, frechet_infinity
from stages.numerics.frechet import Gaussian
from stages.pipeline import artifacts, params
from stages.protocols.metric import Evidence
from stages.training.reader import ReaderConfig
from tests import images

DIM = 16


def normal(num, seed, shift=0.0, spread=1.0):
    return shift + spread * np.random.Generator(np.random.Philox(seed)).standard_normal((num, DIM))


GROUPS = np.arange(1000) % 2
STANDARD = Gaussian(np.zeros(DIM), np.eye(DIM))


@pytest.mark.parametrize("shift, spread", [(0.0, 1.0), (0.3, 1.0), (0.0, 1.3), (0.2, 0.8)])
def test_the_extrapolation_finds_the_closed_form_where_the_plain_distance_is_biased(shift, spread):
    """Of isotropic Gaussians: D (shift^2 + (spread - 1)^2)."""
    expected = DIM * (shift**2 + (spread - 1) ** 2)
    samples = [normal(400, seed, shift, spread) for seed in range(12)]
    plain = [float(frechet.distance(frechet_infinity.gaussian(x), STANDARD)) for x in samples]
    found = [frechet_infinity.extrapolate(x, GROUPS[: len(x)], STANDARD, seed) for seed, x in enumerate(samples)]
    error = np.std(found) / np.sqrt(len(found)) + 1e-3
    assert abs(np.mean(found) - expected) < 4 * error + 0.02 * expected
    assert np.mean(plain) - expected > 0.05, "N = 400 alone is too high"
    assert abs(np.mean(found) - expected) < 0.25 * (np.mean(plain) - expected)


def test_the_extrapolation_repeats_itself_and_the_seed_matters_little():
    x = normal(600, 0, 0.2)
    first, again, other = (frechet_infinity.extrapolate(x, GROUPS[: len(x)], STANDARD, seed) for seed in (3, 3, 4))
    assert first == again != other and first == pytest.approx(other, abs=0.06)


def test_subsets_hold_each_group_in_its_share():
    """Else what tells the groups apart bends the line: two classes far apart, as often as in the reference."""
    groups = np.repeat([0, 1], [300, 300])
    reference = Gaussian(np.zeros(DIM), np.eye(DIM) + 100 * np.outer(np.eye(DIM)[0], np.eye(DIM)[0]))
    errors = {"in shares": [], "at random": []}
    for seed in range(8):
        x = normal(600, seed)
        x[:, 0] += np.where(groups == 0, -10, 10)
        errors["in shares"].append(frechet_infinity.extrapolate(x, groups, reference, seed))
        errors["at random"].append(frechet_infinity.extrapolate(x, np.zeros(600, int), reference, seed))
    assert abs(np.mean(errors["in shares"])) < 0.1 < abs(np.mean(errors["at random"]))


def test_sizes_lie_evenly_in_their_inverse():
    found = frechet_infinity.sizes(1000)
    assert found[0] == 250 and found[-1] == 1000 and len(found) == frechet_infinity.NUM_SIZES
    np.testing.assert_allclose(np.diff(1 / found), np.diff(1 / found).mean(), rtol=0.02)


def clips(rows, labels=None):
    labels = labels if labels is not None else [0] * len(rows)
    return tuple(
        image.Clip(f"c{k}", np.asarray(row), {"digit": d}) for k, (row, d) in enumerate(zip(rows, labels, strict=True))
    )


def evidence(x, y, **more):
    return Evidence(
        "image", sets=(clips(x), clips(y)), facts={"num_resamples": 60}, features=lambda c: c.pixels[None], **more
    )


def test_the_distance_grows_with_the_difference_and_tells_its_interval():
    reference = normal(800, 1)
    found = [FrechetInfinity().compute(evidence(reference, normal(800, 2, shift))) for shift in (0.0, 0.1, 0.3, 0.6)]
    values = [measures["frechet_distance"].value for measures in found]
    assert values == sorted(values) and abs(values[0]) < 0.2
    for measures in found:
        one, plain = measures["frechet_distance"], measures["frechet_distance_of_all"]
        assert one.low <= one.value <= one.high and one.num == 800
        assert plain.value > one.value, "the plain distance is biased upwards"


def test_few_images_or_none_have_no_distance():
    few = FrechetInfinity().compute(evidence(normal(800, 1), normal(5, 2)))
    assert few["frechet_distance"].num == 0 and np.isnan(few["frechet_distance"].value)
    assert FrechetInfinity().compute(evidence(normal(800, 1), [])) == {}


def test_conditional_accuracy_counts_what_was_asked_for():
    asked = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] * 10
    read = dict(enumerate(asked))
    read |= {k: (read[k] + 1) % 10 for k in range(15)}
    made = clips([np.full((2, 2), k, np.float32) for k in range(100)], asked)
    given = Evidence("image", sets=((), made), classify=lambda c: read[int(c.pixels[0, 0])])
    found = ConditionalAccuracy().compute(given)["conditional_accuracy"]
    assert found.value == 0.85 and found.num == 100 and 0.77 < found.low < 0.85 < found.high < 0.93
    unasked = tuple(image.Clip(clip.id, clip.pixels) for clip in made)
    assert ConditionalAccuracy().compute(Evidence("image", sets=((), unasked), classify=lambda c: 0)) == {}


CONFIG = ReaderConfig("digits", num_steps=40, seed=0, batch_size=32, num_folds=3)


def test_the_judge_reads_held_out_images_and_repeats_itself(tmp_path):
    raw = images.write_corpus(tmp_path / "raw", 240)
    for name in ("one", "two"):
        image_classifier.run(CONFIG, raw, tmp_path / name)
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    judge = digit_cnn.load(tmp_path / "one")
    assert judge.facts["accuracy"] > 0.9 and len(judge.facts["accuracy_by_fold"]) == 3
    pixels, digits = images.blobs(50, seed=9)
    made = clips(image.widen(pixels), digits.tolist())
    judge.look(made[:25])
    assert np.mean([judge.classify(clip) == clip.labels["digit"] for clip in made]) > 0.9
    one, other = judge.features(made[0]), digit_cnn.load(tmp_path / "two").features(made[0])
    assert one.shape == (1, digit_cnn.NUM_FEATURES) and one.dtype == np.float64
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)  # alone or among others


def test_an_official_test_part_is_never_learned_from(tmp_path):
    raw = images.write_corpus(tmp_path / "raw", 120, splits=("train", "test"))
    image_classifier.run(CONFIG, raw, tmp_path / "model")
    assert len(digit_cnn.load(tmp_path / "model").facts["accuracy_by_fold"]) == 1
    path = raw / "test.npy"
    image.write_stack(path, 255 - image.read_stack(path))  # another test part, the same judge
    manifest = artifacts.read_json(raw / "manifest.json")
    for piece in manifest["pieces"]:
        piece["sha256"] = artifacts.sha256(raw / piece["path"])
    artifacts.write_json(raw / "manifest.json", manifest)
    image_classifier.run(CONFIG, raw, tmp_path / "again")
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("model", "again"))
    assert one == other


def test_images_that_changed_on_disk_teach_nobody(tmp_path):
    raw = images.write_corpus(tmp_path / "raw", 120, splits=("train", "test"))
    image.write_stack(raw / "train.npy", 255 - image.read_stack(raw / "train.npy"))
    with pytest.raises(artifacts.Damaged, match="train.npy"):
        image_classifier.run(CONFIG, raw, tmp_path / "model")


def test_larger_images_and_damage(tmp_path):
    raw = images.write_corpus(tmp_path / "raw", 40, side=28)
    image_classifier.run(
        ReaderConfig("digits", num_steps=2, seed=0, batch_size=8, num_folds=2), raw, tmp_path / "model"
    )
    assert digit_cnn.load(tmp_path / "model").facts["height"] == 28
    weights = bytearray((tmp_path / "model/model.safetensors").read_bytes())
    weights[-3] ^= 1
    (tmp_path / "model/model.safetensors").write_bytes(weights)
    with pytest.raises(artifacts.Damaged, match="model.safetensors"):
        digit_cnn.load(tmp_path / "model")


def test_configure_reads_its_block():
    tree = params.Params({"classifiers": {"digits": {"corpus": "digits", "num_steps": 3, "seed": 1}}})
    assert image_classifier.configure(tree, "digits").config == ReaderConfig("digits", 3, 1)
    wrong = params.Params({"classifiers": {"digits": {"corpus": "digits", "num_step": 3, "seed": 1}}})
    assert image_classifier.configure(wrong, "digits") is None
    assert any("did you mean 'num_steps'" in problem for problem in wrong.problems)
