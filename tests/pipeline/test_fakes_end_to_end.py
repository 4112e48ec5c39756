"""Fakes of every kind through the real stages: train, and compress and sample where clips are audio."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from stages import compress, sample, train
from stages.pipeline import artifacts, params, plugins, shards
from stages.protocols.model import Batch
from stages.training import batches, coding, model_folder
from stages.training.config import TrainConfig
from tests import fakes

CONFIG = TrainConfig(
    num_steps=6, batch_size=4, learning_rate=1e-2, num_threads=1, seed=0, crop_steps=7, validate_every=2, log_every=1
)
AUDIO = ("coupling", "energy", "quantised", "two_players")


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    monkeypatch.setattr(plugins, "load", fakes.load)
    monkeypatch.setenv("PARTITA_TRACKING", "off")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def trained(family, folder, config=CONFIG):
    cache = fakes.cache(folder / "cache", family)
    (folder / "work").mkdir()
    whole = train.Config(f"fake_{family}", fakes.PAIRS[family], family, fakes.plain(family), config)
    train.run(whole, cache, Path("models/scratch"), folder / "model", folder / "work")
    return cache


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("family", sorted(fakes.FAMILIES))
def test_train_writes_the_same_folder_twice_and_it_loads(family, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        trained(family, tmp_path / name)
        assert not (tmp_path / name / "work").exists(), "resume state goes with success"
    assert contents(tmp_path / "one/model") == contents(tmp_path / "two/model")
    loaded = model_folder.load(tmp_path / "one/model")
    facts = loaded.facts["training"]
    assert facts["num_steps"] == 6 and facts["selected"]["num_steps"] in (4, 6)
    test = shards.Shards(tmp_path / "one/cache/test", loaded.representation.spec.version)
    batch: Batch = batches.collate(list(test), range(len(test)), loaded.representation.spec)
    with torch.no_grad():
        assert all(loaded.model(batch, player, 0).total.isfinite().all() for player in loaded.model.players(0))


@pytest.mark.parametrize("family", AUDIO)
def test_audio_goes_through_real_bytes_and_new_clips_come_from_noise(family, tmp_path):
    cache = trained(family, tmp_path)
    compress.run(compress.Config(seed=1), cache / "test", tmp_path / "model", tmp_path / "streams")
    config = sample.Config(sample.Own(3, 0.01, 5), params.plain(fakes.FAMILIES[family].Sampling()))
    sample.run(config, tmp_path / "streams", tmp_path / "model", tmp_path / "samples")
    streams = artifacts.read_json(tmp_path / "streams/index.json")["streams"]
    manifest = artifacts.read_json(tmp_path / "samples/manifest.json")
    test = {code.id: code for code in shards.Shards(cache / "test")}
    has_latent = family in ("quantised", "two_players")
    assert [stream["id"] for stream in streams] == (sorted(test) if has_latent else [])
    for entry in manifest["reconstructions"]:
        samples, rate_hz = soundfile.read(tmp_path / "samples" / entry["path"])
        assert rate_hz == 8000 and len(samples) == test[entry["id"]].side["num_samples"][0] == entry["num_samples"]
    assert len(manifest["reconstructions"]) == len(streams)
    assert len(manifest["new"]) == (0 if has_latent else 3), "a decoder alone makes nothing new"
    assert manifest["num_function_evaluations"] == (4 if family == "energy" else 1)
    for stream in streams if family == "quantised" else []:
        frames = len(test[stream["id"]].data)
        assert np.ceil(frames * 3 / 8) <= stream["num_bytes"] <= np.ceil(frames * 3 / 8) + 48


def test_tokens_from_the_sampling_code_obey_their_grammar(tmp_path):
    trained("recurrent", tmp_path)
    loaded = model_folder.load(tmp_path / "model")
    made = coding.new(loaded, ["a", "b"], [1, 2], 12, fakes.NoSampling())
    again = coding.new(loaded, ["b"], [2], 12, fakes.NoSampling())
    assert np.array_equal(made[1].values, again[0].values)
    for clip in made:
        body = [token for token in clip.values[:, 0].tolist() if token != fakes.END]
        assert body and all(a % 2 != b % 2 for a, b in zip(body, body[1:], strict=False))


def test_unlabelled_images_come_from_noise(tmp_path):
    trained("labelled_flow", tmp_path)
    loaded = model_folder.load(tmp_path / "model")
    made = coding.new(loaded, ["a", "b"], [1, 2], 16, fakes.Steps(3))
    assert [clip.values.shape for clip in made] == [(16, 1)] * 2 and np.isfinite(made[0].values).all()


def test_train_goes_on_from_its_work_folder(tmp_path, monkeypatch):
    trained("two_players", tmp_path, replace(CONFIG, checkpoint_every=2))
    whole = contents(tmp_path / "model")
    (tmp_path / "cut").mkdir()

    def broken(*arguments):
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(model_folder, "save", broken)
        with pytest.raises(RuntimeError, match="power cut"):
            trained("two_players", tmp_path / "cut", replace(CONFIG, checkpoint_every=2))
    assert not (tmp_path / "cut/model").exists()
    config = train.Config("fake_two_players", "frames", "two_players", fakes.plain("two_players"), CONFIG)
    config = replace(config, train=replace(CONFIG, checkpoint_every=2))
    train.run(config, tmp_path / "cut/cache", Path("models/scratch"), tmp_path / "cut/model", tmp_path / "cut/work")
    assert contents(tmp_path / "cut/model") == whole


def test_two_experiments_that_share_a_training_do_not_disturb_each_other(tmp_path):
    """`dvc queue` may start two whose train stages are equal, and with them their work folder."""
    cache = fakes.cache(tmp_path / "cache", "energy")
    config = train.Config("fake_energy", "frames", "energy", fakes.plain("energy"), replace(CONFIG, num_steps=40))
    with ThreadPoolExecutor(3) as pool:
        rest = [(Path("models/scratch"), tmp_path / name, tmp_path / "work") for name in "abc"]
        runs = [pool.submit(train.run, config, cache, *paths) for paths in rest]
        assert [run.result() for run in runs] == [None] * 3
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")
