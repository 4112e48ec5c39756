"""Packs: the bytes that went in, the same archive from the same files, one of them changed by one more file."""

import hashlib
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.pipeline import artifacts, packs
from tests.faults import processes

NAMES = st.from_regex(r"[A-Za-z0-9_.-]{1,20}\.mid", fullmatch=True)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def files(folder, contents):
    """The contents as files, and the digests of their paths."""
    (folder / "files").mkdir(parents=True)
    for name, data in contents.items():
        (folder / "files" / name).write_bytes(data)
    return {f"files/{name}": sha256(data) for name, data in contents.items()}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents=st.dictionaries(NAMES, st.binary(max_size=200), min_size=1, max_size=30))
def test_what_goes_in_comes_out(contents, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packs")
    moved = packs.pack(folder, files(folder, contents))
    assert [path.name for path in folder.iterdir()] == ["packs"]
    for name, data in contents.items():
        assert packs.read(folder, moved[f"files/{name}"], sha256(data), "") == data
        with zipfile.ZipFile(folder / moved[f"files/{name}"].rpartition("/")[0]) as archive:
            about = archive.getinfo(name)
            assert archive.testzip() is None and about.compress_type == zipfile.ZIP_STORED
            assert about.date_time == (1980, 1, 1, 0, 0, 0)


def test_the_bytes_depend_on_the_files_alone(tmp_path):
    contents = {f"p{number}.mid": bytes([number]) * number for number in range(40)}
    for name, order in (("one", 1), ("two", -1)):
        packs.pack(tmp_path / name, files(tmp_path / name, dict(list(contents.items())[::order])))
    assert processes.bytes_of(tmp_path / "one") == processes.bytes_of(tmp_path / "two")


def test_one_more_file_changes_one_pack(tmp_path):
    contents = {f"p{number}.mid": b"%d" % number for number in range(300)}
    packs.pack(tmp_path / "few", files(tmp_path / "few", contents))
    packs.pack(tmp_path / "more", files(tmp_path / "more", contents | {"new.mid": b"new"}))
    few, more = (processes.bytes_of(tmp_path / name) for name in ("few", "more"))
    assert len([name for name in more if more[name] != few.get(name)]) == 1 and 150 < len(few) < 200


def test_large_files_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(packs, "LARGEST", 10)
    digests = files(tmp_path, {"small.mid": b"0123456789", "large.mid": b"01234567890"})
    assert set(packs.pack(tmp_path, digests)) == {"files/small.mid"}
    assert packs.source(tmp_path, "files/large.mid", sha256(b"01234567890"), "") == tmp_path / "files/large.mid"
    with pytest.raises(artifacts.Damaged, match=r"large.mid is damaged.*do that"):
        packs.source(tmp_path, "files/large.mid", sha256(b"else"), "do that")


def test_two_files_of_one_name_are_refused(tmp_path):
    files(tmp_path / "a", {"x.mid": b"1"}), files(tmp_path / "b", {"x.mid": b"2"})
    with pytest.raises(ValueError, match=r"a/files/x.mid and b/files/x.mid"):
        packs.pack(tmp_path, {"a/files/x.mid": sha256(b"1"), "b/files/x.mid": sha256(b"2")})


@pytest.mark.fault("damage")
def test_every_flipped_bit_is_noticed_or_harmless(tmp_path):
    """Never other bytes, and never another error than the one that names the file."""
    data = b"a melody of some length"
    moved = packs.pack(tmp_path, files(tmp_path, {"x.mid": data}))["files/x.mid"]
    path = tmp_path / moved.rpartition("/")[0]
    whole, noticed = path.read_bytes(), 0
    for place in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            assert packs.read(tmp_path, moved, sha256(data), "do that") == data
        except artifacts.Damaged as problem:
            noticed += 1
            assert "x.mid is damaged" in str(problem) and "do that" in str(problem)
    assert noticed >= 8 * len(data)
