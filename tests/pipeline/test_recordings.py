"""Recordings of one's own as a corpus: through every stage with a codec trained on them, all metrics, beside Opus.

Optional: PARTITA_RECORDINGS names a folder with at least three recordings. They are read and never kept.
"""

import os
from pathlib import Path

import pytest

from stages import baseline, cache, classifier, compress, download, evaluate, render, sample, split, train
from stages.numerics import scoring
from stages.pipeline import artifacts, plugins
from stages.training.config import TrainConfig

FOLDER = os.environ.get("PARTITA_RECORDINGS", "")
pytestmark = [
    pytest.mark.shared,
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER, reason="PARTITA_RECORDINGS names no folder of recordings"),
]
MODEL = {"network": "convnext", "latent_dim": 8, "width": 16, "depth": 1, "codebook_size": 16}
TRAIN = TrainConfig(num_steps=30, batch_size=4, learning_rate=2e-3, num_threads=1, seed=0, num_validation_clips=4)
SETTINGS = scoring.Settings(num_resamples=50, num_shown=1)
METRICS = tuple(name for name in plugins.names("metrics") if "audio" in plugins.load("metrics", name).clips)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    at = tmp_path_factory.mktemp("recordings")
    download.run(download.Config("folder", {"path": FOLDER, "kinds": "audio"}), at / "raw", at / "work")
    render.run(render.Config(), at / "raw", at / "audio")
    split.run(split.Config(0.2, 0.5, num_excerpts=6, excerpt_duration_s=2.0), at / "raw", at / "split")
    cache.run(cache.Config("mdct", {}, 4), at / "audio", at / "split", at / "cache")
    classifier.run(classifier.Config(num_steps=5, seed=0, num_threads=1), at / "judge")
    config = train.Config("own", "mdct", "autoencoder", MODEL, TRAIN)
    train.run(config, at / "cache", Path("models/scratch"), at / "model", at / "training")
    compress.run(compress.Config(), at / "cache/test", at / "model", at / "streams")
    sample.run(sample.Config(sample.Own(num_new_clips=0), {}), at / "streams", at / "model", at / "samples")
    config = evaluate.Config("own", METRICS, SETTINGS, {})
    made = (at / "streams", at / "samples", at / "model")
    evaluate.run(config, at / "cache/references", *made, at / "judge", at / "report")
    systems = baseline.Config(("ogg_opus",), METRICS, SETTINGS)
    baseline.run(systems, at / "cache/references", at / "judge", at / "baselines")
    return at


def test_every_recording_is_used(judged):
    refused = artifacts.read_json(judged / "raw/quarantine.json")["refused"]
    assert not refused and not artifacts.read_json(judged / "audio/quarantine.json")["refused"]
    assert artifacts.read_json(judged / "audio/manifest.json")["rate_hz"] == 24000


def test_every_metric_scores_every_excerpt(judged):
    found = artifacts.read_json(judged / "report/metrics.json")
    num = len(artifacts.read_json(judged / "cache/references/manifest.json")["clips"])
    for name in ("si_sdr_db", "pesq_wb_gapped", "stoi", "mel_distance", "mel_distance_loud", "bitrate_kbps"):
        assert found[f"{name}_num"] == num and f"{name}_failures" not in found, name
    assert {"reconstruction_frechet_classifier", "reconstruction_kernel_classifier"} <= found.keys()


def test_opus_stands_beside_it(judged):
    beside = artifacts.read_json(judged / "baselines/metrics.json")
    opus = {name: found for name, found in beside.items() if name.startswith("opus")}
    ours = artifacts.read_json(judged / "report/metrics.json")
    assert opus and all({"si_sdr_db", "mel_distance", "bitrate_kbps"} <= found.keys() for found in opus.values())
    best = max(found["si_sdr_db"] for found in opus.values())
    assert best > ours["si_sdr_db"], "thirty steps teach little"
    assert Path(FOLDER).is_dir(), "the recordings are where they were"
