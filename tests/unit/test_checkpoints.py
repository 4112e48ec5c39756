"""Checkpoints: exact round trip, nothing half written, every flipped byte noticed."""

import pytest
import torch

from stages.pipeline import artifacts, checkpoints
from stages.pipeline.checkpoints import Checkpoint

TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b/c": torch.tensor([True, False]),
    "empty": torch.zeros(0, 2, dtype=torch.int64),
    "scalar": torch.tensor(3.5, dtype=torch.bfloat16),
    "turned": torch.arange(6.0).reshape(2, 3).T,
}


def test_round_trip(tmp_path):
    checkpoints.save(tmp_path, Checkpoint(7, TENSORS, {"players": ["a"], "best": None}))
    found = checkpoints.newest(tmp_path)
    assert found.step == 7 and found.facts == {"players": ["a"], "best": None}
    assert found.tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert torch.equal(found.tensors[name], value) and found.tensors[name].dtype == value.dtype


def test_tensors_that_share_memory_are_kept_apart(tmp_path):
    whole = torch.arange(4.0)
    checkpoints.save(tmp_path, Checkpoint(1, {"whole": whole, "half": whole[:2]}, None))
    assert torch.equal(checkpoints.newest(tmp_path).tensors["half"], whole[:2])


def test_nothing_there(tmp_path):
    assert checkpoints.newest(tmp_path) is None and checkpoints.newest(tmp_path / "none") is None


def test_the_newest_two_are_kept_also_beyond_nine_digits_of_order(tmp_path):
    for step in (8, 9, 10, 100):
        checkpoints.save(tmp_path, Checkpoint(step, TENSORS, step))
    assert [path.name for path in checkpoints.found(tmp_path)] == ["step_000000100", "step_000000010"]


@pytest.mark.parametrize("name", [*checkpoints.FILES, "index.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_harm_is_named_and_the_one_before_serves(name, harm, tmp_path, capfd):
    checkpoints.save(tmp_path, Checkpoint(1, TENSORS, {"value": 1}))
    checkpoints.save(tmp_path, Checkpoint(2, TENSORS, {"value": 2}))
    path = tmp_path / "step_000000002" / name
    data = path.read_bytes()
    if harm == "remove":
        path.unlink()
    else:
        place = len(data) // 2
        path.write_bytes(data[:place] + (bytes([data[place] ^ 1]) + data[place + 1 :] if harm == "flip" else b""))
    with pytest.raises(artifacts.Damaged, match="step_000000002"):
        checkpoints.read(path.parent)
    assert checkpoints.newest(tmp_path).facts == {"value": 1}
    assert "step_000000002" in capfd.readouterr().err
    assert not path.parent.exists(), "what is damaged will not be tried again"


def test_an_interrupted_save_leaves_the_one_before(tmp_path, monkeypatch):
    checkpoints.save(tmp_path, Checkpoint(1, TENSORS, 1))

    def fail(path, value):
        raise OSError("disk full")

    monkeypatch.setattr(artifacts, "write_json", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoints.save(tmp_path, Checkpoint(2, TENSORS, 2))
    assert checkpoints.newest(tmp_path).step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000001"]
