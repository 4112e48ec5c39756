"""Outs appear whole or not at all, and a changed byte is named when the file is read."""

import pytest

from stages.pipeline import artifacts


def test_json_is_sorted_whole_and_finite(tmp_path):
    path = tmp_path / "deep/x.json"
    artifacts.write_json(path, {"b": 1, "a": "é"})
    assert path.read_text() == '{\n  "a": "é",\n  "b": 1\n}\n'
    assert artifacts.read_json(path) == {"a": "é", "b": 1}
    with pytest.raises(ValueError):
        artifacts.write_json(path, float("nan"))
    assert artifacts.read_json(path) == {"a": "é", "b": 1}
    assert [item.name for item in path.parent.iterdir()] == ["x.json"]


def test_half_a_json_is_named(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"a":')
    with pytest.raises(artifacts.Damaged, match="x.json"):
        artifacts.read_json(path)


def test_a_folder_appears_only_when_whole(tmp_path):
    out = tmp_path / "out"
    with artifacts.new_folder(out) as draft:
        (draft / "a").write_text("1")
        assert not out.exists()
    with pytest.raises(RuntimeError), artifacts.new_folder(out) as draft:
        (draft / "a").write_text("2")
        raise RuntimeError
    assert (out / "a").read_text() == "1"
    assert list(tmp_path.iterdir()) == [out]


def test_check_names_missing_and_changed_files(tmp_path):
    path = tmp_path / "x"
    with pytest.raises(artifacts.Damaged, match="missing; run"):
        artifacts.check(path, "0", "run")
    path.write_bytes(b"abc")
    artifacts.check(path, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "run")
    path.write_bytes(b"abd")
    with pytest.raises(artifacts.Damaged, match="damaged.*; run"):
        artifacts.check(path, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "run")
