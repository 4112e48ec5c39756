"""compress, sample and speed on fakes: every kind of family, from a cache folder to bytes, clips and times."""

import numpy as np
import pytest
import soundfile

from stages import compress, sample, speed
from stages.media import audio, bitstream, excerpts
from stages.pipeline import artifacts, params, plugins, shards
from stages.training import coding, model_folder
from stages.training import streams as stream_folder
from tests import fakes

OWN = sample.Own(num_new_clips=11, new_clip_duration_s=0.05, seed=3)
CONFIG = sample.Config(OWN, {})


@pytest.fixture(autouse=True)
def fake_plugins(monkeypatch):
    monkeypatch.setattr(plugins, "load", fakes.load)


def trained(folder, family):
    """(cache, model): folders as cache and train would leave them."""
    case = fakes.case(family)
    model = case.model()
    if family == "quantised":
        model.codebook.normal_()
    cache = fakes.cache(folder / "cache", family)
    facts = model_folder.Facts("experiment", family, fakes.PAIRS[family], {})
    (folder / "model").mkdir()
    model_folder.save(folder / "model", model.eval(), case.representation, case.statistics, facts)
    return cache, folder / "model"


def coded(tmp_path, family, **settings):
    cache, model = trained(tmp_path, family)
    compress.run(compress.Config(**settings), cache / "test", model, tmp_path / "streams")
    return cache, model, tmp_path / "streams"


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("family, bits", [("quantised", 3), ("two_players", 48)])
def test_streams_hold_every_test_clip_and_their_size_is_counted(tmp_path, family, bits):
    cache, _, streams = coded(tmp_path, family)
    entries = artifacts.read_json(streams / "index.json")["streams"]
    test = {code.id: code for code in shards.Shards(cache / "test")}
    assert [entry["id"] for entry in entries] == sorted(test)
    for entry in entries:
        num_bytes = (streams / entry["path"]).stat().st_size
        assert entry["num_bytes"] == num_bytes == -(-len(test[entry["id"]].data) * bits // 8) + 42


def test_a_family_without_latent_writes_no_streams(tmp_path):
    _, _, streams = coded(tmp_path, "coupling")
    assert artifacts.read_json(streams / "index.json") == {"streams": []}


@pytest.mark.parametrize("family", ["quantised", "two_players"])
def test_reconstructions_have_the_length_of_their_clips_and_no_clip_is_new(tmp_path, family):
    cache, model, streams = coded(tmp_path, family)
    sample.run(CONFIG, streams, model, tmp_path / "samples")
    manifest = artifacts.read_json(tmp_path / "samples/manifest.json")
    test = {code.id: int(code.side["num_samples"][0]) for code in shards.Shards(cache / "test")}
    assert {entry["id"]: entry["num_samples"] for entry in manifest["reconstructions"]} == test
    assert manifest["new"] == [] and manifest["rate_hz"] == 8000 and manifest["num_function_evaluations"] == 1
    for entry in manifest["reconstructions"]:
        about = soundfile.info(tmp_path / "samples" / entry["path"])
        assert (about.format, about.subtype, about.samplerate) == ("FLAC", "PCM_16", 8000)
        assert about.frames == entry["num_samples"]


def test_reconstructions_are_what_the_model_makes_of_the_codes(tmp_path):
    """By hand, without bytes: encode, quantise, dequantise, generate, decode."""
    cache, model, streams = coded(tmp_path, "quantised")
    sample.run(CONFIG, streams, model, tmp_path / "samples")
    loaded = model_folder.load(model)
    for code in shards.Shards(cache / "test"):
        frames = code.data / loaded.model.std.numpy()
        z = frames @ loaded.model.encoder.weight.detach().numpy().T + loaded.model.encoder.bias.detach().numpy()
        nearest = ((z[:, None] - loaded.model.codebook.numpy()) ** 2).sum(-1).argmin(-1)
        chosen = loaded.model.codebook[nearest]
        made = (loaded.model.decoder(chosen) * loaded.model.std).detach().numpy().reshape(-1)
        found, _ = soundfile.read(tmp_path / f"samples/reconstructions/{code.id}.flac", dtype="float32")
        np.testing.assert_allclose(found, np.clip(made[: len(found)], -1, 1), atol=2**-15)


def test_new_clips_come_each_from_its_own_seed(tmp_path):
    """Whatever is made beside them: the first clips of eleven are those of three."""
    _, model, streams = coded(tmp_path, "energy")
    sample.run(sample.Config(OWN, {"num_function_evaluations": 5}), streams, model, tmp_path / "many")
    few = sample.Own(num_new_clips=3, new_clip_duration_s=0.05, seed=3)
    sample.run(sample.Config(few, {"num_function_evaluations": 5}), streams, model, tmp_path / "few")
    manifest = artifacts.read_json(tmp_path / "many/manifest.json")
    assert manifest["num_function_evaluations"] == 5 and len(manifest["new"]) == 11
    assert len({entry["seed"] for entry in manifest["new"]}) == 11
    assert {entry["num_samples"] for entry in manifest["new"]} == {400}
    assert len({(tmp_path / "many" / entry["path"]).read_bytes() for entry in manifest["new"]}) == 11
    for entry in artifacts.read_json(tmp_path / "few/manifest.json")["new"]:
        one, other = (audio.read(tmp_path / name / entry["path"], "clip").samples for name in ("many", "few"))
        np.testing.assert_allclose(one, other, atol=2**-15)


@pytest.mark.parametrize("family", ["quantised", "coupling"])
def test_the_same_inputs_give_the_same_bytes(tmp_path, family):
    cache, model, streams = coded(tmp_path, family)
    compress.run(compress.Config(), cache / "test", model, tmp_path / "again")
    assert contents(streams) == contents(tmp_path / "again")
    for name in ("one", "two"):
        sample.run(CONFIG, streams, model, tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_entropy_coding_changes_bytes_and_no_clip(tmp_path):
    cache, model, streams = coded(tmp_path, "quantised")
    compress.run(compress.Config(entropy_coding=True), cache / "test", model, tmp_path / "short")
    sizes = [
        sum(entry["num_bytes"] for entry in artifacts.read_json(folder / "index.json")["streams"])
        for folder in (streams, tmp_path / "short")
    ]
    assert sizes[1] < sizes[0]
    for folder in (streams, tmp_path / "short"):
        sample.run(CONFIG, folder, model, tmp_path / f"samples-{folder.name}")
    assert contents(tmp_path / "samples-streams") == contents(tmp_path / "samples-short")


def test_a_flipped_byte_and_another_models_stream_are_refused_by_name(tmp_path):
    _, model, streams = coded(tmp_path, "quantised")
    path = streams / "sound8.bin"
    data = bytearray(path.read_bytes())
    data[20] ^= 16
    path.write_bytes(data)
    with pytest.raises(artifacts.Damaged, match=r"sound8\.bin"):
        sample.run(CONFIG, streams, model, tmp_path / "samples")
    with pytest.raises(bitstream.Refused, match="sound8"):
        coding.from_bytes(model_folder.load(model), bytes(data), "sound8")
    (tmp_path / "other").mkdir()
    _, _, others = coded(tmp_path / "other", "two_players")
    with pytest.raises(bitstream.Refused, match=r"sound8\.bin.*another model"):
        sample.run(CONFIG, others, model, tmp_path / "samples")
    assert not (tmp_path / "samples").exists()


def test_a_partly_masked_step_is_not_written(tmp_path):
    _, model, _ = coded(tmp_path, "quantised")
    case = fakes.case("quantised")
    mask = case.codes[0].mask.copy()
    mask[1] = False
    holed = fakes.Code("holed", case.codes[0].data, mask, side=case.codes[0].side)
    with pytest.raises(ValueError, match="holed"):
        coding.to_bytes(model_folder.load(model), [holed], [1], False)


@pytest.mark.parametrize("family", ["recurrent", "labelled_flow", "responses_to_codes"])
def test_clips_of_other_kinds_come_from_their_seeds_too(tmp_path, family):
    """Grammar, fixed length and missing conditions pass through the same code; only audio is written to disk."""
    _, model = trained(tmp_path, family)
    loaded = model_folder.load(model)
    if loaded.model.needs:
        assert list(sample.new_clips(loaded, OWN, None)) == []
        return
    sampling = coding.sampling_of(loaded, {})
    clips = coding.new(loaded, ["a", "b"], [5, 6], 16, sampling)
    swapped = coding.new(loaded, ["b", "a"], [6, 5], 16, sampling)
    for one, other in zip(clips, swapped[::-1], strict=True):
        np.testing.assert_allclose(one.values, other.values, atol=1e-6)  # rows of a product round differently


@pytest.mark.parametrize("family", ["quantised", "coupling"])
def test_speed_times_what_there_is(tmp_path, family):
    _, model = trained(tmp_path, family)
    entries = [excerpts.write_reference(tmp_path / "references", clip, clip.id) for clip in fakes.sounds(3)]
    artifacts.write_json(tmp_path / "references/manifest.json", {"clips": entries})
    speed.run(speed.Config({}, False), tmp_path / "references", model, tmp_path / "speed.json")
    found = artifacts.read_json(tmp_path / "speed.json")
    assert found["num_threads"] == 1
    assert found["audio_s"] == pytest.approx(sum(len(c.samples) for c in fakes.sounds(3)) / 8000)
    if family == "coupling":
        assert set(found) == {"num_threads", "audio_s"}
    else:
        for name in ("encode_rtf", "decode_rtf"):
            assert 0 < found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]


def test_what_overshoots_is_limited_and_what_is_not_finite_raises(tmp_path):
    stream_folder.keep(tmp_path, "new/loud.flac", audio.Clip("loud", np.array([0.5, 1.5, -2.0], np.float32), 8000))
    assert audio.read(tmp_path / "new/loud.flac", "loud").samples.tolist() == pytest.approx([0.5, 1, -1], abs=1e-4)
    with pytest.raises(ValueError, match="odd"):
        stream_folder.keep(tmp_path, "new/odd.flac", audio.Clip("odd", np.array([np.nan], np.float32), 8000))


def test_each_stage_takes_its_own_of_the_shared_section():
    experiment = {
        "representation": "r",
        "family": "energy",
        "classifier": "audio",
        "start_from": "scratch",
        "sample": {"seed": 9},
    }
    shared = {"num_new_clips": 4, "num_function_evaluations": 6, "seed": 1, "entropy_coding": True}
    blocks = {"experiments": {"e": experiment}, "representations": {"r": {"module": "frames"}}}
    tree = params.Params({"sample": shared} | blocks)
    loads = (("families", "energy"), ("representations", "frames"))
    for stage, expected in (
        (compress, compress.Config(seed=9, entropy_coding=True)),
        (sample, sample.Config(sample.Own(num_new_clips=4, seed=9), {"num_function_evaluations": 6})),
        (speed, speed.Config({"num_function_evaluations": 6}, True)),
    ):
        needs = stage.configure(tree, "e")
        assert not tree.problems and needs is not None
        assert (needs.config, needs.plugins) == (expected, loads)
    shared["num_new_clips"] = -1
    assert sample.configure(tree, "e") is None and "num_new_clips = -1" in tree.problems[0]
