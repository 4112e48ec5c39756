"""The evaluate stage on folders as cache, compress, sample and train leave them, filled with synthetic sound."""

import json

import numpy as np
import pytest
import torch

from stages import evaluate
from stages.media import audio, excerpts
from stages.networks import instrument_cnn
from stages.numerics import scoring
from stages.pipeline import artifacts, params, plugins
from stages.pipeline.artifacts import Damaged
from tests.sounds import chords, clip, with_noise

NUM, DURATION_S, NUM_BYTES = 6, 1.5, 1200
SETTINGS = scoring.Settings(num_resamples=20, num_shown=2)
METRICS = tuple(name for name in plugins.names("metrics") if "audio" in plugins.load("metrics", name).clips)
CONFIG = evaluate.Config("one", METRICS, SETTINGS, {"model.latent_dim": 8, "train.num_steps": 5})
INTERVALS = (
    "bitrate_kbps",
    "si_sdr_db",
    "pesq_wb_gapped",
    "stoi",
    "log_spectral_distance_db",
    "mel_distance",
    "mel_distance_loud",
    "reconstruction_frechet_classifier",
    "reconstruction_kernel_classifier",
    "sample_frechet_classifier",
    "sample_kernel_classifier",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What the stages before leave behind; NUM reconstructions at 20 dB and three new clips."""
    folder = tmp_path_factory.mktemp("made")
    references, streams, reconstructions = [], [], []
    for number in range(NUM):
        sound = np.round(chords(number, DURATION_S) * 32767) / 32768
        name = f"piece{number}-0@{1000 * number}"
        references.append(excerpts.write_reference(folder / "references", clip(sound, name), f"piece{number}"))
        path = folder / f"streams/{name}.bin"
        artifacts.write_bytes(path, bytes(NUM_BYTES))
        entry = {"id": name, "path": path.name, "num_bytes": 1, "sha256": artifacts.sha256(path)}
        streams.append(entry)  # `num_bytes` is not believed
        reconstructions.append(sample(folder / "samples", "reconstructions", name, with_noise(sound, 20)))
    artifacts.write_json(folder / "references/manifest.json", {"clips": references})
    artifacts.write_json(folder / "streams/index.json", {"streams": streams})
    new = [sample(folder / "samples", "new", f"new-{i}", chords(100 + i, DURATION_S)) | {"seed": i} for i in range(3)]
    manifest = {"rate_hz": 24000, "reconstructions": reconstructions, "new": new, "num_function_evaluations": 2}
    artifacts.write_json(folder / "samples/manifest.json", manifest)
    about = {
        "clip": "audio",
        "num_parameters": 1234,
        "training": {"num_steps": 5, "ema_decay": 0.9, "selected": {"x": 1}},
    }
    artifacts.write_json(folder / "model/model.json", about)
    rows = [{"step": 1, "split": "train", "player": "model", "loss": 2.0}]
    rows += [{"step": step, "split": "valid", "player": "model", "loss": 1.0 / step} for step in (5, 10)]
    artifacts.write_bytes(folder / "model/log.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    torch.manual_seed(0)
    (folder / "classifier").mkdir()
    instrument_cnn.save(folder / "classifier", instrument_cnn.InstrumentCNN(3), {"num_classes": 3})
    return folder


def sample(folder, kind, name, samples):
    path = folder / kind / f"{name}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    audio.write(path, clip(samples, name))
    return {"id": name, "path": f"{kind}/{name}.flac", "num_samples": len(samples)}


def run(made, out, config=CONFIG, **other):
    names = ("references", "streams", "samples", "model", "classifier")
    evaluate.run(config, *(other.get(name, made / name) for name in names), out)
    return out


@pytest.fixture(scope="module")
def report(made):
    return run(made, made / "report")


def test_metrics_are_flat_and_complete(report):
    metrics = artifacts.read_json(report / "metrics.json")
    assert metrics["num_parameters"] == 1234 and metrics["num_function_evaluations"] == 2
    for name in INTERVALS:
        assert metrics[f"{name}_low"] <= metrics[name] <= metrics[f"{name}_high"], name
        assert metrics[f"{name}_num"] == (3 if name.startswith("sample") else NUM), name
    allowed = {f"{name}{end}" for name in (*INTERVALS, "pesq_wb") for end in ("", "_low", "_high", "_num", "_failures")}
    assert metrics.keys() <= allowed | {"num_parameters", "num_function_evaluations"}
    assert metrics["pesq_wb_num"] + sum(metrics.get("pesq_wb_failures", {}).values()) == NUM


def test_values_are_those_of_what_was_made(report):
    metrics = artifacts.read_json(report / "metrics.json")
    assert metrics["si_sdr_db"] == pytest.approx(20.0, abs=0.01)
    assert metrics["bitrate_kbps"] == pytest.approx(8 * NUM_BYTES / DURATION_S / 1000)
    clips = artifacts.read_json(report / "clips.json")
    names = {f"piece{number}-0@{1000 * number}" for number in range(NUM)}
    assert clips["si_sdr_db"].keys() == clips["bitrate_kbps"].keys() == names
    assert np.mean(list(clips["stoi"].values())) == pytest.approx(metrics["stoi"])
    assert "sample_frechet_classifier" not in clips


def test_params_hold_what_training_resolved(report):
    assert artifacts.read_json(report / "params.json") == {
        "model.latent_dim": 8,
        "train.num_steps": 5,
        "train.ema_decay": 0.9,
    }


def test_manifest_names_what_is_there(made, report):
    manifest = artifacts.read_json(report / "manifest.json")
    assert [item["id"] for item in manifest["clips"]] == ["piece0-0@0", "piece3-0@3000"]
    assert len(manifest["new"]) == 2
    heard = [item[kind] for item in manifest["clips"] for kind in ("original", "reconstruction")]
    heard += [item["path"] for item in manifest["new"]]
    for path in heard:
        assert audio.read(report / path, "x").duration_s == DURATION_S
    original = audio.read(report / manifest["clips"][0]["original"], "x").samples
    reference = audio.read(made / "references/piece0-0@0.flac", "x").samples
    np.testing.assert_array_equal(original, reference)
    for path in manifest["figures"]:
        data = (report / path).read_bytes()
        assert data.startswith(b"\x89PNG") and b"Software" not in data and b"tIME" not in data
    assert {path.relative_to(report).as_posix() for path in report.rglob("*") if path.is_file()} == {
        *heard,
        *manifest["figures"],
        *("metrics.json", "clips.json", "params.json", "manifest.json", "training.jsonl"),
    }
    assert (report / "training.jsonl").read_bytes() == (made / "model/log.jsonl").read_bytes()


def test_the_same_inputs_give_the_same_bytes(made, report, tmp_path):
    again = run(made, tmp_path / "again")
    for path in report.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (again / path.relative_to(report)).read_bytes(), path.name


def test_a_model_without_reconstructions_is_judged_by_its_new_clips(made, tmp_path):
    manifest = artifacts.read_json(made / "samples/manifest.json")
    new = [item | {"path": str(made / "samples" / item["path"])} for item in manifest["new"]]
    artifacts.write_json(tmp_path / "samples/manifest.json", manifest | {"reconstructions": [], "new": new})
    artifacts.write_json(tmp_path / "streams/index.json", {"streams": []})
    out = run(made, tmp_path / "out", samples=tmp_path / "samples", streams=tmp_path / "streams")
    metrics = artifacts.read_json(out / "metrics.json")
    assert {name.removesuffix("_num") for name in metrics if name.endswith("_num")} == {
        "sample_frechet_classifier",
        "sample_kernel_classifier",
    }
    assert artifacts.read_json(out / "manifest.json")["clips"] == []


def test_reconstructions_of_other_clips_are_refused(made, tmp_path):
    manifest = artifacts.read_json(made / "samples/manifest.json")
    kept = [item | {"path": str(made / "samples" / item["path"])} for item in manifest["reconstructions"][1:]]
    artifacts.write_json(tmp_path / "samples/manifest.json", manifest | {"reconstructions": kept, "new": []})
    with pytest.raises(ValueError, match="piece0-0@0"):
        run(made, tmp_path / "out", samples=tmp_path / "samples")
    assert not (tmp_path / "out").exists()


def test_a_flipped_byte_in_a_stream_is_refused_by_name(made, tmp_path):
    index = artifacts.read_json(made / "streams/index.json")
    for item in index["streams"]:
        artifacts.write_bytes(tmp_path / "streams" / item["path"], bytes(NUM_BYTES - 1) + b"\x01")
    artifacts.write_json(tmp_path / "streams/index.json", index)
    with pytest.raises(Damaged, match="piece0-0@0.bin"):
        run(made, tmp_path / "out", streams=tmp_path / "streams")


# What plan asks


def tree(**experiment):
    return params.Params(
        {
            "representations": {"mdct": {"module": "mdct", "corpus": "music", "num_bins": 320}},
            "classifiers": {"audio": {"num_steps": 1, "seed": 0}},
            "model": {"latent_dim": 64, "width": 192, "depth": 3, "dropout": 0.0},
            "train": {"num_steps": 100},
            "sample": {"num_new_clips": 24},
            "evaluate": {"num_resamples": 100},
            "experiments": {
                "one": {
                    "representation": "mdct",
                    "family": "autoencoder",
                    "network": "convnext",
                    "classifier": "audio",
                    "start_from": "scratch",
                }
                | experiment
            },
        }
    )


def test_configure_resolves_sections_overrides_and_defaults():
    found = evaluate.configure(tree(model={"latent_dim": 16}, evaluate={"seed": 3}), "one")
    shown = found.config.params
    assert (shown["model.latent_dim"], shown["model.width"], shown["train.num_steps"]) == (16, 192, 100)
    assert shown["network"] == "convnext" and shown["representations.mdct.num_bins"] == 320
    assert "model.num_codebooks" in shown, "the family's own default"
    assert found.config.settings == scoring.Settings(num_resamples=100, seed=3)
    assert set(found.plugins) == {("metrics", name) for name in METRICS}
    parsed = params.parse(evaluate.Config, params.plain(found.config), where="plan")
    assert parsed == found.config, "what plan writes is what the stage reads"


@pytest.mark.parametrize(
    ("experiment", "problem"),
    [
        ({"classifier": "audoi"}, "did you mean 'audio'"),
        ({"family": "autoencodr"}, "did you mean 'autoencoder'"),
        ({"evaluate": {"metrics": ["stoy"]}}, "did you mean 'stoi'"),
        ({"evaluate": {"num_resamples": 0}}, "num_resamples = 0"),
        ({"evaluate": {"num_resample": 5}}, "num_resample"),
    ],
)
def test_configure_names_what_is_wrong(experiment, problem):
    asked = tree(**experiment)
    evaluate.configure(asked, "one")
    with pytest.raises(ValueError, match=problem):
        asked.finish()
