"""A bit flipped, bytes cut off, a file gone: named when read, with the command that rebuilds it."""

import shutil
from pathlib import Path

import pytest

from stages import cache, train
from stages.media import excerpts
from stages.pipeline import artifacts, packs, plugins, shards
from stages.training import model_folder
from tests import fakes
from tests.faults import processes, small, victims
from tests.pipeline.test_store import song
from tests.pipeline.test_walk import command, shrink, small_repo

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
    with pytest.raises(artifacts.Damaged, match=r"shard_000.safetensors is (damaged|missing).*`dvc repro -f -s`"):
        train.run(config, folder, Path("models/scratch"), tmp_path / "model", tmp_path / "work")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("harm", ["flip", "cut"])
def test_in_the_statistics_of_a_cache(harm, tmp_path):
    folder = fakes.cache(tmp_path / "cache", "energy")
    harmed(folder / "statistics.safetensors", harm)
    with pytest.raises(artifacts.Damaged, match=r"statistics.safetensors .*`dvc repro -f -s`"):
        shards.load_statistics(folder / "statistics.safetensors")


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_in_a_rendered_file(harm, tmp_path):
    """The cache stage names it, in whichever worker it is read."""
    small.corpus(tmp_path)
    config = cache.Config("mdct", {"num_bins": 64}, 2)
    harmed(tmp_path / "audio/files/p1-0.flac", harm)
    with pytest.raises(artifacts.Damaged, match=r"p1-0.flac is (damaged|missing).*`dvc repro -f -s render@audio`"):
        cache.run(config, tmp_path / "audio", tmp_path / "split", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_in_a_pack_of_rendered_files(harm, tmp_path):
    """Wherever in the archive: in a file, a header or the directory at its end."""
    small.corpus(tmp_path)
    manifest = artifacts.read_json(tmp_path / "audio/manifest.json")
    moved = packs.pack(tmp_path / "audio", {clip["path"]: clip["sha256"] for clip in manifest["clips"]})
    clips = [clip | {"path": moved[clip["path"]]} for clip in manifest["clips"]]
    artifacts.write_json(tmp_path / "audio/manifest.json", manifest | {"clips": clips})
    harmed(tmp_path / "audio" / clips[0]["path"].rpartition("/")[0], harm)
    with pytest.raises(artifacts.Damaged, match=r"(is damaged|missing).*`dvc repro -f -s render@audio`"):
        cache.run(cache.Config("mdct", {"num_bins": 64}, 2), tmp_path / "audio", tmp_path / "split", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("harm", ["flip", "cut"])
def test_in_a_reference(harm, tmp_path):
    folder = tmp_path / "references"
    entry = excerpts.write_reference(folder, fakes.sounds(1)[0], "piece")
    artifacts.write_json(folder / "manifest.json", {"clips": [entry]})
    harmed(folder / entry["path"], harm)
    with pytest.raises(artifacts.Damaged, match=r"is damaged.*`dvc repro -f -s`"):
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


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Rendered and cached by `dvc repro`, with DVC's cache as this repository has it."""
    folder, songs = tmp_path_factory.mktemp("repository"), tmp_path_factory.mktemp("songs")
    for number in range(8):
        (songs / f"song{number}.mid").write_bytes(song(number))
    small_repo(folder)
    shrink(folder / "params.yaml", {"corpora.music": {"source": "folder", "path": str(songs)}})
    command(folder, "", "dvc", "repro", "-q", "cache@mdct")
    return folder


@pytest.mark.parametrize(
    ("out", "stage", "reader", "forgotten"),
    [
        ("data/raw/music", "download@music", "split@music", True),  # else nothing in it is read
        ("data/audio/music", "render@music", "cache@mdct", True),
        ("data/audio/music", "render@music", "cache@mdct", False),
        ("data/cache/mdct", "cache@mdct", "train@autoencoder_mdct", False),
    ],
)
def test_its_stage_mends_it_whoever_shares_the_file(out, stage, reader, forgotten, repository, monkeypatch):
    """A hand that edits a file of an out in place reaches DVC's cache, and what is kept of finished units, too."""
    monkeypatch.delenv("DVC_ROOT")
    if forgotten:
        shutil.rmtree(repository / ".work/store")
    before = processes.bytes_of(repository / out)
    for path in [path for path in (repository / out).rglob("*") if path.suffix in (".zip", ".safetensors")]:
        path.chmod(0o644)
        harmed(path, "flip")
        path.chmod(artifacts.LOCKED)
    with pytest.raises(AssertionError, match=r"is damaged.*`dvc repro -f -s"):
        command(repository, "", "dvc", "repro", "-q", "-f", "-s", reader)
    command(repository, "", "dvc", "repro", "-q", "-f", "-s", stage)
    assert processes.bytes_of(repository / out) == before
    command(repository, "", "dvc", "repro", "-q", "cache@mdct")
    assert processes.bytes_of(repository / out) == before
