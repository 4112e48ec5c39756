"""No room: the error names the out, nothing half-written is left, and with room the same command ends the same."""

import os
import shutil

import pytest

from stages.pipeline import plugins
from tests import fakes, synthetic_reports
from tests.faults import processes, small, victims
from tests.pipeline.test_store import corpus

pytestmark = pytest.mark.fault("full")


def hidden(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_in_the_cache(tmp_path):
    small.corpus(tmp_path)
    told = processes.fail(victims.encode_cache, tmp_path / "told", tmp_path, 20_000)
    assert "NoRoom" in told and "no room to write" in told and "/cache" in told
    assert not (tmp_path / "cache").exists() and not hidden(tmp_path)
    processes.run(victims.encode_cache, tmp_path / "told", tmp_path)
    assert (tmp_path / "cache/test/index.json").is_file()


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """(a folder with data/raw, the bytes rendered from it, the size of the largest file that goes into a pack)."""
    folder = tmp_path_factory.mktemp("rendered")
    corpus(folder / "raw", 3)
    processes.run(victims.rendering, folder / "told", folder)
    kept = processes.bytes_of(folder / "store")
    return folder, processes.bytes_of(folder / "audio"), max(len(kept[name]) for name in kept if name.endswith(".flac"))


@pytest.mark.parametrize("room", ["for no rendering", "for renderings, and no pack of them"])
def test_in_renderings(room, rendered, tmp_path):
    made, whole, largest = rendered
    shutil.copytree(made / "raw", tmp_path / "raw")
    size = 10_000 if room == "for no rendering" else largest + 10
    told = processes.fail(victims.rendering, tmp_path / "told", tmp_path, size)
    assert "NoRoom" in told and "no room to write" in told
    assert not (tmp_path / "audio").exists() and not hidden(tmp_path)
    processes.run(victims.rendering, tmp_path / "told", tmp_path)
    assert processes.bytes_of(tmp_path / "audio") == whole


def test_in_a_checkpoint(tmp_path):
    for name in ("whole", "cut"):
        fakes.cache(tmp_path / name / "cache", "two_players")
    processes.run(victims.training, tmp_path / "told", tmp_path / "whole", "two_players")
    folder = tmp_path / "cut"
    process = processes.start(victims.training, tmp_path / "told", folder, "two_players")
    with processes.ending(process):
        processes.until(lambda: (folder / "work/checkpoints/step_000000016").exists(), process)
    before = processes.bytes_of(folder / "work/checkpoints")
    (size,) = {path.stat().st_size for path in folder.glob("work/checkpoints/*/tensors.safetensors")}
    told = processes.fail(victims.training, tmp_path / "told", folder, "two_players", 2, size - 1)
    assert "no room to write" in told and f"{folder / 'work'}{os.sep}" in told
    assert processes.bytes_of(folder / "work/checkpoints") == before, "nothing half-written, nothing lost"
    assert "going on from step" in processes.run(victims.training, tmp_path / "told", folder, "two_players")
    for name in ("model", victims.KEPT):
        assert processes.bytes_of(folder / name) == processes.bytes_of(tmp_path / "whole" / name)


def test_in_the_samples(tmp_path, monkeypatch):
    fakes.cache(tmp_path / "cache", "energy")
    processes.run(victims.training, tmp_path / "told", tmp_path, "energy", 2, None, "adamw", 8)
    (tmp_path / "streams").mkdir()
    (tmp_path / "streams/index.json").write_text('{"streams": []}')
    told = processes.fail(victims.sampling, tmp_path / "told", tmp_path, 2_000)
    assert "no room to write" in told and "/samples" in told
    assert not (tmp_path / "samples").exists() and not [name for name in hidden(tmp_path) if "samples" in name]
    processes.run(victims.sampling, tmp_path / "told", tmp_path)
    monkeypatch.setattr(plugins, "load", fakes.load)
    assert len(list((tmp_path / "samples/new").iterdir())) == 6


def test_in_the_report(tmp_path):
    synthetic_reports.build(tmp_path, num_clips=1)
    told = processes.fail(victims.reporting, tmp_path / "told", tmp_path, 5_000)
    assert "no room to write" in told
    assert not (tmp_path / "index.html").exists() and not hidden(tmp_path)
    processes.run(victims.reporting, tmp_path / "told", tmp_path)
    first = (tmp_path / "index.html").read_bytes()
    size = max(path.stat().st_size for path in (tmp_path / "assets").rglob("*") if path.is_file())
    told = processes.fail(victims.reporting, tmp_path / "told", tmp_path, max(size, len(first) // 2))
    assert "no room to write" in told and "index.html" in told
    assert (tmp_path / "index.html").read_bytes() == first and not hidden(tmp_path)
