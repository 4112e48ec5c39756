"""The cache stage on a small corpus of noise: excerpts in turn, references untouched, any number of cores."""

import hashlib

import numpy as np
import pytest
import soundfile

from stages import cache
from stages.media import excerpts
from stages.media.excerpts import Stretch
from stages.pipeline import artifacts, params, shards, workers
from stages.representations.mdct import Mdct

RATE = 8000
CONFIG = cache.Config("mdct", {"num_bins": 32, "window": "sine", "rate_hz": RATE}, num_shards=3)


@pytest.fixture
def corpus(tmp_path):
    """(data/audio/x, data/split/x): 9 pieces of 2 renderings, a second or so each."""
    pieces = {f"p{i}": ("train", "valid", "test")[i % 3] for i in range(9)}
    clips = []
    for number, piece in enumerate(sorted(pieces)):
        for rendering in range(2):
            path = tmp_path / f"audio/files/{piece}-{rendering}.flac"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.Generator(np.random.Philox(2 * number + rendering))
            soundfile.write(path, noise.integers(-32768, 32767, RATE + 777 * number, dtype=np.int16), RATE)
            about = {"id": path.stem, "piece": piece, "path": f"files/{path.name}", "num_samples": RATE + 777 * number}
            clips.append(about | {"sha256": artifacts.sha256(path), "instruments": [1], "conditions": {}})
    artifacts.write_json(tmp_path / "audio/manifest.json", {"rate_hz": RATE, "clips": clips})
    split = {"pieces": pieces, "groups": {}, "num_excerpts": 10, "excerpt_duration_s": 0.5}
    artifacts.write_json(tmp_path / "split/split.json", split)
    return tmp_path / "audio", tmp_path / "split"


def whole(name, num_samples):
    return Stretch(name, name, f"{name}.flac", "", 0, num_samples)


def test_excerpts_are_taken_in_turn():
    found = excerpts.in_turn([whole("b", 30), whole("a", 29), whole("c", 4)], 6, 10)
    assert [part.id for part in found] == ["a@0", "b@0", "c@0", "a@10", "b@10", "b@20"]
    assert [part.num_samples for part in found] == [10, 10, 4, 10, 10, 10]
    assert [part.id for part in excerpts.in_turn([whole("b", 30), whole("a", 29)], 3, 10)] == ["a@0", "b@0", "a@10"]


def test_excerpts_never_overlap_and_stay_inside():
    for length in (1, 7, 10, 29, 30, 31):
        found = excerpts.in_turn([whole("b", 30)], 100, length)
        ends = [part.start + part.num_samples for part in found]
        assert max(ends) <= 30
        assert all(end <= part.start for end, part in zip(ends, found[1:], strict=False))


def test_what_is_written_is_what_was_there(corpus, tmp_path):
    audio, split = corpus
    cache.run(CONFIG, audio, split, tmp_path / "cache")
    representation = Mdct.load(tmp_path / "cache/representation")
    found = {
        name: shards.Shards(tmp_path / "cache" / name, representation.spec.version)
        for name in ("train", "valid", "test")
    }
    assert sorted(found["train"].ids) == [f"p{i}-{r}" for i in (0, 3, 6) for r in (0, 1)]
    assert sorted(found["valid"].ids) == [f"p{i}-{r}" for i in (1, 4, 7) for r in (0, 1)]
    for name in ("train", "valid"):
        for code in found[name]:
            original, _ = soundfile.read(audio / f"files/{code.id}.flac", dtype="float32")
            decoded = representation.decode(code).samples
            assert len(decoded) == len(original)
            assert np.mean((decoded - original) ** 2) < 1e-6 * np.mean(original**2)
    references = artifacts.read_json(tmp_path / "cache/references/manifest.json")["clips"]
    assert sorted(found["test"].ids) == [clip["id"] for clip in references] and len(references) == 10


def test_references_are_the_untouched_samples(corpus, tmp_path):
    audio, split = corpus
    cache.run(CONFIG, audio, split, tmp_path / "cache")
    for entry in artifacts.read_json(tmp_path / "cache/references/manifest.json")["clips"]:
        clip, start = entry["id"].split("@")
        original, _ = soundfile.read(audio / f"files/{clip}.flac", dtype="int16")
        path = tmp_path / "cache/references" / entry["path"]
        kept, rate_hz = soundfile.read(path, dtype="int16")
        np.testing.assert_array_equal(kept, original[int(start) : int(start) + entry["num_samples"]])
        assert entry == {
            "id": entry["id"],
            "path": f"{entry['id']}.flac",
            "piece": clip.split("-")[0],
            "num_samples": RATE // 2,
            "rate_hz": rate_hz,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
    assert [c.id for c in excerpts.read_references(tmp_path / "cache/references")] == sorted(
        part["id"] for part in artifacts.read_json(tmp_path / "cache/references/manifest.json")["clips"]
    )


def test_statistics_are_of_the_train_split_alone(corpus, tmp_path):
    audio, split = corpus
    cache.run(CONFIG, audio, split, tmp_path / "cache")
    train = np.concatenate([code.data for code in shards.Shards(tmp_path / "cache/train")]).astype(np.float64)
    found = shards.load_statistics(tmp_path / "cache/statistics.safetensors")
    np.testing.assert_allclose(found.std, train.std(axis=0), rtol=1e-10)
    np.testing.assert_array_equal(found.num, len(train))


def test_one_core_and_two_write_the_same_bytes(corpus, tmp_path, monkeypatch):
    def contents(num_cores):
        monkeypatch.setattr(workers, "num_cores", lambda: num_cores)
        out = tmp_path / f"cache{num_cores}"
        cache.run(CONFIG, *corpus, out)
        return {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}

    one, two = contents(1), contents(2)
    assert one == two and len(one) > 10


def test_renderings_of_a_piece_share_a_shard(corpus, tmp_path):
    cache.run(CONFIG, *corpus, tmp_path / "cache")
    for shard in shards.Shards(tmp_path / "cache/train").shards:
        assert {f"{name[:-1]}{r}" for name in shard.ids for r in (0, 1)} == set(shard.ids)


def test_a_changed_audio_file_is_named(corpus, tmp_path):
    path = corpus[0] / "files/p0-0.flac"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(artifacts.Damaged, match=r"p0-0\.flac"):
        cache.run(CONFIG, *corpus, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_split_without_training_clips_says_what_to_do(corpus, tmp_path):
    split = artifacts.read_json(corpus[1] / "split.json")
    artifacts.write_json(corpus[1] / "split.json", split | {"pieces": dict.fromkeys(split["pieces"], "test")})
    with pytest.raises(ValueError, match="num_pieces"):
        cache.run(CONFIG, *corpus, tmp_path / "cache")


def configured(**block):
    block = {"module": "mdct", "corpus": "music", "clips": "audio"} | block
    tree = params.Params({"corpora": {"music": {}}, "representations": {"mdct": block}})
    return cache.configure(tree, "mdct"), tree.problems


def test_configure_takes_the_block_apart():
    needs, problems = configured(num_bins=64, num_shards=5)
    assert not problems
    assert needs.config == cache.Config("mdct", {"num_bins": 64, "window": "sine", "rate_hz": 24000}, 5)
    assert needs.plugins == (("representations", "mdct"), ("clips", "audio"))


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"num_bin": 64}, "representations.mdct.num_bin: unknown key; did you mean 'num_bins'"),
        ({"num_bins": 7}, "num_bins = 7: expected an even number"),
        ({"window": "sin"}, "did you mean 'sine'"),
        ({"module": "mdtc"}, "did you mean 'mdct'"),
        ({"corpus": "musik"}, "did you mean 'music'"),
        ({"clips": "raw"}, "data/audio"),
        ({"num_shards": 0}, "num_shards = 0"),
    ],
)
def test_configure_names_what_is_wrong(wrong, said):
    _, problems = configured(**wrong)
    assert any(said in problem for problem in problems), problems
