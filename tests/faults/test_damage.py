"""A bit flipped, bytes cut off, a file gone: named when read, with the command that rebuilds it."""

from pathlib import Path

import pytest

from stages import cache, train
from stages.media import excerpts
from stages.pipeline import artifacts, plugins, shards
from stages.training import model_folder
from tests import fakes
from tests.faults import small, victims

pytestmark = pytest.mark.fault("damage")


def harmed(path, harm):
    data = path.read_bytes()
    if harm == "remove":
        path.unlink()
        return
    place = len(data) // 2
    path.write_bytes(data[:place] + (bytes([data[place] ^ 16]) + data[place + 1 :] if harm == "flip" else b""))


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    monkeypatch.setenv("PARTITA_TRACKING", "off")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_in_a_cache_shard(harm, tmp_path, monkeypatch):
    """Training stops before its first step on it."""
    monkeypatch.setattr(plugins, "load", fakes.load)
    folder = fakes.cache(tmp_path / "cache", "energy")
    harmed(folder / "train/shard_000.safetensors", harm)
    config = train.Config("fake", "frames", "energy", fakes.plain("energy"), victims.CONFIG)
    with pytest.raises(artifacts.Damaged, match=r"shard_000.safetensors is (damaged|missing).*`dvc repro`"):
        train.run(config, folder, Path("models/scratch"), tmp_path / "model", tmp_path / "work")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("harm", ["flip", "cut"])
def test_in_the_statistics_of_a_cache(harm, tmp_path):
    folder = fakes.cache(tmp_path / "cache", "energy")
    harmed(folder / "statistics.safetensors", harm)
    with pytest.raises(artifacts.Damaged, match=r"statistics.safetensors .*`dvc repro`"):
        shards.load_statistics(folder / "statistics.safetensors")


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_in_a_rendered_file(harm, tmp_path):
    """The cache stage names it, in whichever worker it is read."""
    small.corpus(tmp_path)
    config = cache.Config("mdct", {"num_bins": 64}, 2)
    harmed(tmp_path / "audio/files/p1-0.flac", harm)
    with pytest.raises(artifacts.Damaged, match=r"p1-0.flac is (damaged|missing).*`dvc repro`"):
        cache.run(config, tmp_path / "audio", tmp_path / "split", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("harm", ["flip", "cut"])
def test_in_a_reference(harm, tmp_path):
    folder = tmp_path / "references"
    entry = excerpts.write_reference(folder, fakes.sounds(1)[0], "piece")
    artifacts.write_json(folder / "manifest.json", {"clips": [entry]})
    harmed(folder / entry["path"], harm)
    with pytest.raises(artifacts.Damaged, match=r"is damaged.*`dvc repro -f`"):
        excerpts.read_references(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "statistics.safetensors", "log.jsonl", "model.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_in_a_finished_model(name, harm, tmp_path, monkeypatch):
    monkeypatch.setattr(plugins, "load", fakes.load)
    case, folder = fakes.case("quantised", 4), tmp_path / "tiny"
    folder.mkdir()
    (folder / "log.jsonl").write_text('{"step": 1}\n')
    model_folder.save(
        folder,
        case.model(),
        case.representation,
        case.statistics,
        model_folder.Facts("tiny", "quantised", "frames", {}),
    )
    harmed(folder / name, harm)
    with pytest.raises(artifacts.Damaged, match=f"{name} is .*dvc repro"):
        model_folder.load(folder)
