"""Sound from datasets: streamed rows, refused ones with reasons, nothing read from outside the dataset."""

import hashlib
import io
import re
import shutil

import numpy as np
import pytest
import soundfile

from stages import download
from stages.corpora import huggingface
from stages.pipeline import artifacts, packs

RATE_HZ = 8000


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """No network and no cache of the user's: these are read at import, hence set in both places."""
    import datasets
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_MODULES_CACHE", tmp_path / "modules")


def recording(frequency_hz, container="WAV", num_samples=RATE_HZ // 4):
    buffer = io.BytesIO()
    samples = 0.3 * np.sin(2 * np.pi * frequency_hz * np.arange(num_samples) / RATE_HZ)
    soundfile.write(buffer, samples, RATE_HZ, format=container)
    return buffer.getvalue()


def parquet(path, audio, **columns):
    from datasets import Dataset

    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict({"audio": audio, **columns}).to_parquet(str(path))
    return path.parent


def run(tmp_path, dataset, **settings):
    config = download.Config("huggingface", {"dataset": str(dataset), **settings})
    shutil.rmtree(tmp_path / "raw", ignore_errors=True)
    download.run(config, tmp_path / "raw", tmp_path / "work")
    pieces = artifacts.read_json(tmp_path / "raw/manifest.json")["pieces"]
    return pieces, artifacts.read_json(tmp_path / "raw/quarantine.json")["refused"]


def test_parquet_rows_become_files_as_they_are(tmp_path):
    good = {"s n/ü 1.raw": recording(200), "two.wav": recording(300, "FLAC"), "three": recording(400, "OGG")}
    long = recording(500, num_samples=3 * RATE_HZ)
    files = [*good.items(), ("broken.wav", b"RIFF and nothing"), ("again.wav", good["two.wav"]), ("long.wav", long)]
    audio = [{"bytes": data, "path": path} for path, data in files] + [{"bytes": None, "path": None}]
    folder = parquet(tmp_path / "set/train.parquet", audio, terms=["CC BY 4.0, by A", None, *["mine"] * 5])
    (folder / "README.md").write_text("---\nlicense: cc0-1.0\n---\nA card.\n")
    pieces, refused = run(tmp_path, folder, licence_column="terms", longest_s=2.0)
    by_sha256 = {piece["sha256"]: piece for piece in pieces}
    assert set(by_sha256) == {hashlib.sha256(data).hexdigest() for data in good.values()}
    assert [re.sub("-[0-9a-f]{12}$", "", piece["id"]) for piece in pieces] == ["1", "three", "two"]
    assert {piece["path"].rsplit(".")[-1] for piece in pieces} == {"wav", "flac", "ogg"}
    assert {piece["licence"] for piece in pieces} == {"CC BY 4.0, by A", "cc0-1.0", "mine"}
    assert all(piece["duration_s"] == 0.25 and piece["kind"] == "audio" for piece in pieces)
    assert all(packs.read(tmp_path / "raw", piece["path"], piece["sha256"], "") for piece in pieces)
    told = {item["path"]: item["reason"] for item in refused}
    assert list(told) == ["row 3 broken.wav", "row 4 again.wav", "row 5 long.wav", "row 6"]
    for reason, words in zip(told.values(), ("not readable", "same bytes", "longest_s", "no sound"), strict=True):
        assert words in reason
    assert run(tmp_path, folder, licence_column="terms", longest_s=2.0) == (pieces, refused)


def test_streams_no_further_than_asked(tmp_path):
    """The second shard is not parquet at all: whoever reads it falls over it."""
    audio = [{"bytes": recording(200 + 10 * k), "path": f"{k}.wav"} for k in range(4)]
    folder = parquet(tmp_path / "set/train-00000.parquet", audio)
    (folder / "train-00001.parquet").write_bytes(b"PAR1 no more")
    few, _ = run(tmp_path, folder, num_pieces=2)
    more, _ = run(tmp_path, folder, num_pieces=4)
    assert [piece["id"][0] for piece in more] == ["0", "1", "2", "3"] and few == more[:2]
    with pytest.raises(ValueError, match=r"cannot be read: .*[Pp]arquet(.|\n)*revision"):
        run(tmp_path, folder, num_pieces=5)


def test_audiofolder_reads_its_own_files_only(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for k in range(3):
        (folder / f"song {k}.flac").write_bytes(recording(200 + 50 * k, "FLAC"))
    (folder / "broken.wav").write_bytes(b"no sound")
    pieces, refused = run(tmp_path, folder)
    assert [piece["id"][:6] for piece in pieces] == ["song_0", "song_1", "song_2"]
    assert [item["path"] for item in refused] == ["row 0 broken.wav"]
    (tmp_path / "packed").mkdir()
    shutil.make_archive(str(tmp_path / "packed/all"), "zip", folder)
    assert run(tmp_path, tmp_path / "packed") == (pieces, refused)
    secret = tmp_path / "secret.wav"
    secret.write_bytes(recording(700))
    inside = [{"bytes": None, "path": str(folder / name)} for name in ("song 0.flac", "../secret.wav", "missing.wav")]
    (tmp_path / "set").rename(tmp_path / "kept")
    folder = parquet(tmp_path / "set/train.parquet", [*inside, {"bytes": None, "path": str(secret)}])
    shutil.copy(tmp_path / "kept/song 0.flac", folder)
    pieces, refused = run(tmp_path, folder)
    assert len(pieces) == 1 and [item["path"][:5] for item in refused] == ["row 1", "row 2", "row 3"]
    assert ["cannot be opened" in item["reason"] for item in refused] == [False, True, False]


def test_datasets_without_sound_say_so(tmp_path):
    links = tmp_path / "links"
    links.mkdir()
    (links / "train.csv").write_text("url,title\nhttps://example.org/watch?v=1,A song\n")
    with pytest.raises(ValueError, match=r"audio_column = 'audio'.* url, title; url holds links.*source: folder"):
        run(tmp_path, links)
    with pytest.raises(ValueError, match="url holds links"):
        run(tmp_path, links, audio_column="url")
    with pytest.raises(ValueError, match=r"audio_column = 'sound': the columns of .* are audio$"):
        run(tmp_path, parquet(tmp_path / "one/train.parquet", [recording(200)]), audio_column="sound")
    with pytest.raises(ValueError, match="licence_column = 'terms'"):
        run(tmp_path, tmp_path / "one", licence_column="terms")
    assert len(run(tmp_path, tmp_path / "one")[0]) == 1
    with pytest.raises(ValueError, match=r"nothing in this corpus is usable:\n  1 x larger than most_bytes = 100"):
        run(tmp_path, tmp_path / "one", most_bytes=100)
    with pytest.raises(ValueError, match=r"Bad split: test(.|\n)*Check dataset, subset, split"):
        run(tmp_path, tmp_path / "one", split="test")
    with pytest.raises(ValueError, match="num_pieces"):
        huggingface.HuggingFaceConfig("owner/name", num_pieces=-1)


def test_an_unreachable_hub_says_what_to_do(tmp_path):
    with pytest.raises(OSError, match=r"'owner/name' cannot be read: (.|\n)*network(.|\n)*HF_TOKEN"):
        run(tmp_path, "owner/name")


def test_of_the_hub_only_the_dataset_itself_is_read(monkeypatch):
    from datasets.utils import file_utils

    opened = []

    def fake(path, mode):
        opened.append(path)
        if "lost" in path:
            raise FileNotFoundError(path)
        if "down" in path:
            raise ConnectionError("Server Disconnected")
        return io.BytesIO(b"sound")

    monkeypatch.setattr(file_utils, "xopen", fake)
    config, home = huggingface.HuggingFaceConfig("owner/name"), "hf://datasets/owner/name@abc"
    for path in (f"{home}/a.wav", f"zip://b.wav::{home}/b.zip"):
        assert huggingface.content(config, path) == b"sound"
    others = (
        "/etc/passwd",
        "hf://datasets/owner/name2@abc/a.wav",
        "https://example.org/a.wav",
        f"http://x::{home}/a",
        "",
    )
    for path in others:
        with pytest.raises(ValueError, match="no sound"):
            huggingface.content(config, path)
    assert len(opened) == 2
    with pytest.raises(ValueError, match="cannot be opened"):
        huggingface.content(config, f"{home}/lost.wav")
    with pytest.raises(OSError, match=r"Server Disconnected\n(.|\n)*HF_TOKEN"):
        huggingface.content(config, f"{home}/down.wav")
