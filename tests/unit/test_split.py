"""The split: whole melody groups, stable as the corpus grows, never an empty part."""

import hashlib

import numpy as np
import pytest

from stages import split
from stages.media import midi
from stages.pipeline import artifacts
from stages.split import Config, assign

PEDALS = np.zeros((0, 2), dtype=np.int64)


def groups(num, salt=""):
    return {hashlib.sha256(f"{salt}{k}".encode()).hexdigest() for k in range(num)}


def corpus(folder, melodies):
    """A corpus of one MIDI piece per melody, and one recording."""
    (folder / "files").mkdir(parents=True)
    pieces = [{"id": "recording", "path": "files/recording.wav", "kind": "audio"}]
    for name, pitches in melodies.items():
        notes = np.array([[480 * k, 480 * k + 400, pitch, 90] for k, pitch in enumerate(pitches)], dtype=np.int64)
        bass = notes - [0, 0, 30, 0]
        voices = (midi.Voice("bass", 0, False, bass, PEDALS), midi.Voice("soprano", 0, False, notes, PEDALS))
        score = midi.Score(name, 480, np.array([[0, 500_000]]), voices)
        (folder / f"files/{name}.mid").write_bytes(midi.write(score))
        sha256 = artifacts.sha256(folder / f"files/{name}.mid")
        pieces.append({"id": name, "path": f"files/{name}.mid", "kind": "midi", "sha256": sha256})
    artifacts.write_json(folder / "manifest.json", {"pieces": pieces})
    return folder


def test_groups_do_not_know_the_key(tmp_path):
    rng = np.random.default_rng(0)
    opening = rng.integers(55, 70, 17).tolist()
    melodies = {
        "plain": [*opening, 60],
        "higher": [pitch + 5 for pitch in opening] + [80, 81],
        "other_end": [*opening[:-1], opening[-1] + 1],
        "short": [60, 62],
        "one": [60],
    }
    raw, out = corpus(tmp_path / "raw", melodies), tmp_path / "split"
    split.run(Config(), raw, out)
    told = artifacts.read_json(out / "split.json")
    found = told["groups"]
    assert found["plain"] == found["higher"]
    assert len(set(found.values())) == 5
    assert told["pieces"]["plain"] == told["pieces"]["higher"]
    assert {"train", "valid", "test"} == set(told["pieces"].values())
    assert (told["num_excerpts"], told["excerpt_duration_s"]) == (24, 10.0)
    assert sorted(path.name for path in out.iterdir()) == ["split.json"]


def test_a_melody_of_the_corpus_own_test_part_is_tested_whole(tmp_path):
    opening = list(range(60, 77))
    melodies = {"plain": opening, "higher": [pitch + 5 for pitch in opening]}
    melodies |= {f"other{k}": [60 + k + (k + step) % 5 for step in range(17)] for k in range(4)}
    raw = corpus(tmp_path / "raw", melodies)
    manifest = artifacts.read_json(raw / "manifest.json")
    for piece in manifest["pieces"]:
        piece["split"] = "test" if piece["id"] == "plain" else "train"
    artifacts.write_json(raw / "manifest.json", manifest)
    split.run(Config(), raw, tmp_path / "split")
    places = artifacts.read_json(tmp_path / "split/split.json")["pieces"]
    assert {name for name, place in places.items() if place == "test"} == {"plain", "higher"}


def test_places_stay_as_the_corpus_grows():
    small, large = groups(200), groups(200) | groups(800, "more")
    before, after = assign(small, 0.1, 0.2), assign(large, 0.1, 0.2)
    assert all(after[group] == place for group, place in before.items())


def test_fractions_hold_on_many_groups():
    """5 standard deviations of a binomial."""
    n = 20_000
    places = list(assign(groups(n), 0.1, 0.2).values())
    for name, fraction in (("valid", 0.1), ("test", 0.2), ("train", 0.7)):
        assert abs(places.count(name) / n - fraction) < 5 * np.sqrt(fraction * (1 - fraction) / n)


@pytest.mark.parametrize("num", [3, 4, 5, 10])
def test_no_part_is_ever_empty(num):
    for salt in range(50):
        for fractions in ((0.1, 0.2), (0.01, 0.01), (0.5, 0.49), (0.01, 0.98), (0.98, 0.01)):
            assert set(assign(groups(num, str(salt)), *fractions).values()) == {"train", "valid", "test"}


def test_too_few_groups_say_what_to_do():
    with pytest.raises(ValueError, match="at least three files"):
        assign(groups(2), 0.1, 0.2)


@pytest.mark.parametrize(
    "wrong",
    [{"valid_fraction": 0.0}, {"test_fraction": 0.9}, {"num_excerpts": 0}, {"excerpt_duration_s": 0.0}],
)
def test_config_refuses(wrong):
    with pytest.raises(ValueError, match="expected"):
        Config(**wrong)
