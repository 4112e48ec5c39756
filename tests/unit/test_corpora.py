"""Corpora on this machine: music21's, a folder of the user's, and what the download stage makes of them."""

import errno
import io
import re
import shutil

import mido
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from stages import download
from stages.corpora import chorales
from stages.media import midi, tree
from stages.pipeline import artifacts, packs, workers
from stages.pipeline.params import Params
from stages.protocols.corpus import Piece, Refused


def write_midi(path, pitch=60):
    path.parent.mkdir(parents=True, exist_ok=True)
    file = mido.MidiFile(ticks_per_beat=480)
    file.tracks.append(mido.MidiTrack())
    for k in range(4):
        file.tracks[0].append(mido.Message("note_on", note=pitch + k, velocity=80, time=0))
        file.tracks[0].append(mido.Message("note_off", note=pitch + k, velocity=0, time=480))
    file.save(path)


def write_audio(path, frequency=440.0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    t = np.arange(12_000) / 24_000
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * frequency * t), 24_000, **options)


def collect(tmp_path, source, **settings):
    out = tmp_path / "raw"
    download.run(download.Config(source, settings), out, tmp_path / "work")
    pieces = artifacts.read_json(out / "manifest.json")["pieces"]
    refused = artifacts.read_json(out / "quarantine.json")["refused"]
    return {piece["id"]: piece for piece in pieces}, {item["path"]: item["reason"] for item in refused}, out


def test_chorales_are_midi_that_others_read(tmp_path):
    pieces, refused, out = collect(tmp_path, "chorales", num_pieces=3)
    assert list(pieces) == ["bwv1.6", "bwv2.6", "bwv3.6"] and not refused
    for piece in pieces.values():
        data = packs.read(out, piece["path"], piece["sha256"], "")
        assert mido.MidiFile(file=io.BytesIO(data)).length == pytest.approx(piece["duration_s"], abs=1e-3)
        score = midi.read(data, "a")
        assert midi.write(score) == data and not score.mended
        assert "Soprano" in [voice.name for voice in score.voices]
        assert piece["licence"]
    first = pieces["bwv1.6"]
    soprano = midi.melody(midi.read(packs.read(out, first["path"], first["sha256"], ""), "a"))
    assert soprano[:8].tolist() == [65, 72, 69, 65, 72, 74, 74, 72]  # Wie schoen leuchtet der Morgenstern


def test_chorales_come_out_alike_twice(tmp_path):
    first, _, out = collect(tmp_path / "a", "chorales", num_pieces=2)
    second, _, _ = collect(tmp_path / "b", "chorales", num_pieces=3)
    assert all(second[name] == piece for name, piece in first.items())
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "packs", "quarantine.json"]


def test_music21_has_the_pieces_that_params_yaml_tells_of():
    paths = chorales.candidates("bach")
    stems = [path.stem for path in paths]
    assert len(paths) == len(set(stems)) == 410
    assert not any(path.suffix == ".rntxt" for path in paths)
    assert stems.index("bwv2.6") < stems.index("bwv10.7")  # natural order


def test_an_encoding_that_music21_cannot_write_is_refused_with_a_reason():
    """Badly formed repeats in the Humdrum encoding of bwv277."""
    broken = chorales.candidates("bach")[0].with_name("bwv277.krn")
    written = chorales.convert(broken)
    assert not written.scores
    assert written.refused[0].path == "bach/bwv277.krn" and "repeat" in written.refused[0].reason
    assert "Copyright 1994, Center for Computer Assisted Research" in written.licence


def test_an_unreadable_encoding_is_refused_with_a_reason(tmp_path):
    (tmp_path / "odd.mxl").write_bytes(b"not a zip")
    (refused,) = chorales.convert(tmp_path / "odd.mxl").refused
    assert "music21 cannot read it" in refused.reason


def test_composers_are_chosen_by_name():
    assert len(chorales.candidates("palestrina")) > 100
    with pytest.raises(ValueError, match="try monteverdi"):
        chorales.candidates("monteverde")
    with pytest.raises(ValueError, match="no scores"):
        chorales.candidates("")


@pytest.fixture
def songs(tmp_path):
    home = tmp_path / "songs"
    write_midi(home / "one.mid")
    write_midi(home / "deep/er/zwei drei.MIDI", 50)
    write_audio(home / "tone.wav")
    write_audio(home / "tone 2.flac", 220)
    write_audio(home / "deep/tone.ogg", 330, format="OGG", subtype="VORBIS")
    write_audio(home / "tone.mp3", 550, format="MP3")
    shutil.copy(home / "tone.wav", home / "copy of tone.wav")
    (home / "notes.txt").write_text("not music")
    (home / "._one.mid").write_bytes(b"a hidden file")
    (home / "broken.mid").write_bytes(b"MThd and no more")
    (home / "broken.wav").write_bytes(b"RIFF")
    (home / "empty.flac").write_bytes(b"")
    whole = (home / "tone 2.flac").read_bytes()
    (home / "truncated.flac").write_bytes(whole[: len(whole) // 2])
    return home


def test_folder(tmp_path, songs):
    pieces, refused, out = collect(tmp_path, "folder", path=str(songs), licence="mine")
    told = sorted(
        (re.sub("-[0-9a-f]{8}$", "", name), piece["kind"], piece["licence"]) for name, piece in pieces.items()
    )
    assert told == [
        ("copy-of-tone", "audio", "mine"),
        ("deep-er-zwei-drei", "midi", "mine"),
        ("deep-tone", "audio", "mine"),
        ("one", "midi", "mine"),
        ("tone-2", "audio", "mine"),
    ]
    assert [piece["duration_s"] for piece in pieces.values() if piece["kind"] == "midi"] == [2.0, 2.0]
    assert all(0.45 < piece["duration_s"] < 0.56 for piece in pieces.values() if piece["kind"] == "audio")
    assert {"broken.mid", "broken.wav", "empty.flac", "truncated.flac", "tone.mp3"} < set(refused)
    assert refused["tone.mp3"] == "the same piece as tone.wav"
    assert "the same bytes as" in refused["files/tone.wav"]
    assert not (out / "files").exists()
    assert all(packs.read(out, piece["path"], piece["sha256"], "") for piece in pieces.values())
    assert sorted(path.name for path in songs.iterdir() if path.is_file())[0] == "._one.mid"  # nothing was moved


def test_a_file_that_breaks_off_on_its_way_is_refused_and_leaves_nothing(tmp_path, songs):
    def bring(path, target):
        shutil.copyfile(path, target)
        if "tone" in target.name:
            raise OSError(errno.EIO, "the disk has a hole")

    (tmp_path / "raw").mkdir()
    found = tree.gather(songs, tmp_path / "raw", tmp_path / "work", "audio", 0, "", bring)
    reasons = [item.reason for item in found.refused if "hole" in item.reason]
    assert not found.pieces and len(reasons) == 4 and not list((tmp_path / "raw/files").iterdir())


def test_what_was_looked_through_is_not_looked_through_again(tmp_path, songs, monkeypatch):
    """By its content, in whichever place it lies; and damage to what is kept of it is noticed."""
    looked = []
    length = tree.looked_through
    monkeypatch.setattr(tree, "looked_through", lambda draft, path: looked.append(path.name) or length(draft, path))
    monkeypatch.setattr(workers, "map_units", lambda function, units, guard: [function(unit) for unit in units])
    first = collect(tmp_path, "folder", path=str(songs))[:2]
    assert len(looked) == 9
    looked.clear()
    (songs / "one.mid").rename(songs / "moved.mid")
    write_midi(songs / "new.mid", 70)
    pieces, refused, _ = collect(tmp_path, "folder", path=str(songs))
    assert looked == ["new.mid"] and refused == first[1]
    assert pieces["moved"] | {"id": "one", "path": first[0]["one"]["path"]} == first[0]["one"]
    looked.clear()
    for made in (tmp_path / "work/lengths").glob("*/made.json"):
        made.chmod(0o644)
        made.write_bytes(made.read_bytes().replace(b"duration_s", b"duration_x"))
    assert collect(tmp_path, "folder", path=str(songs))[:2] == (pieces, refused) and len(looked) == 7


def test_folder_takes_kinds_and_numbers(tmp_path, songs):
    pieces, _, _ = collect(tmp_path / "midi", "folder", path=str(songs), kinds="midi")
    assert {piece["kind"] for piece in pieces.values()} == {"midi"}
    pieces, _, _ = collect(tmp_path / "few", "folder", path=str(songs), num_pieces=2)
    assert len(pieces) == 2


def test_nothing_usable_ends_the_run_saying_why(tmp_path):
    (tmp_path / "songs").mkdir()
    with pytest.raises(ValueError, match="no files at all"):
        collect(tmp_path, "folder", path=str(tmp_path / "songs"))
    (tmp_path / "songs/broken.mid").write_bytes(b"MThd")
    with pytest.raises(ValueError, match="MThd header"):
        collect(tmp_path, "folder", path=str(tmp_path / "songs"))
    with pytest.raises(ValueError, match="no such folder"):
        collect(tmp_path, "folder", path=str(tmp_path / "nowhere"))
    assert not (tmp_path / "raw").exists()


@given(st.lists(st.text(min_size=1, max_size=120).filter(lambda text: "\0" not in text), unique=True, max_size=20))
def test_ids_are_unique_and_plain(stems):
    stems = [stem for stem in stems if stem.isprintable()]
    ids = [tree.id_of(stem) for stem in stems]
    assert len(set(ids)) == len(ids)
    for stem, piece_id in zip(stems, ids, strict=True):
        assert set(piece_id) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
        assert len(piece_id) < 100 and not piece_id.startswith(".")
        assert tree.id_of(stem) == piece_id


def test_enough_goes_on_past_refusals_and_copies(tmp_path):
    (tmp_path / "files").mkdir()
    asked = []

    def take(batch):
        asked.append(list(batch))
        found = []
        for k in batch:
            if k % 3 == 0:
                found.append(Refused(str(k), "a multiple of three"))
                continue
            path = f"files/{k}"
            (tmp_path / path).write_text("")
            found.append(Piece(str(k), path, "midi", 1.0, "same" if k in (1, 2) else str(k)))
        return found

    collected = tree.enough(tmp_path, range(100), 4, take)
    assert [piece.id for piece in collected.pieces] == ["1", "4", "5", "7"]
    assert sum(map(len, asked)) == 8  # 0, 3 and 6 refused, 2 a copy
    assert {path.name for path in (tmp_path / "files").iterdir()} == {"1", "4", "5", "7"}
    assert len(tree.enough(tmp_path, range(30), 0, take, at_once=7).pieces) == 19


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        ({"source": "chorals"}, "did you mean 'chorales'"),
        ({}, "corpora.music.source = None"),
        ({"source": "chorales", "num_pieces": -1}, "num_pieces = -1"),
        ({"source": "chorales", "num_piece": 1}, "did you mean 'num_pieces'"),
        ({"source": "folder"}, "corpora.music.path: missing"),
        ({"source": "url", "url": "http://a.b/c.zip", "sha256": "0" * 64}, "expected https"),
        ({"source": "url", "url": "https://a.b/c.zip", "sha256": "abc"}, "64 hex digits"),
    ],
)
def test_configure_names_the_problem(block, problem):
    params = Params({"corpora": {"music": block}})
    assert download.configure(params, "music") is None
    with pytest.raises(ValueError, match=problem):
        params.finish()


def test_another_source_needs_no_other_block():
    """Keys that other sources read may stay; a key that none reads may not."""
    block = {"source": "folder", "composer": "bach", "num_pieces": 120, "path": "/songs", "url": "https://a.b/c.zip"}
    params = Params({"corpora": {"music": block}})
    needs = download.configure(params, "music")
    params.finish()
    assert needs is not None
    assert needs.config.settings == {"path": "/songs", "kinds": "all", "num_pieces": 120, "licence": ""}


def test_configure_hands_over_the_whole_block():
    params = Params({"corpora": {"music": {"source": "chorales", "num_pieces": 5}}})
    needs = download.configure(params, "music")
    params.finish()
    assert needs is not None
    assert needs.config == download.Config("chorales", {"composer": "bach", "num_pieces": 5})
    assert needs.plugins == (("corpora", "chorales"),)
