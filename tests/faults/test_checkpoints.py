"""Checkpoints that were cut short, harmed, or are of another run: named, and the one before serves; or refused."""

import json
import re
import shutil
import signal

import pytest
import torch

from stages.pipeline import artifacts, checkpoints
from tests import fakes
from tests.faults import processes, victims

pytestmark = pytest.mark.fault("checkpoint")
FILES = (*checkpoints.FILES, "index.json")


def test_killed_at_every_touch_of_a_file(tmp_path, record_property):
    """Whole old or whole new, nothing between; and the next save works."""
    for die_at in range(1, 200):
        folder = tmp_path / str(die_at)
        for step in (1, 2):
            checkpoints.save(folder, victims.checkpoint(step))
        process = processes.start(victims.saving, tmp_path / "told", folder, 3, die_at)
        code = processes.finish(process)
        assert code in (0, -signal.SIGKILL), (tmp_path / "told").read_text()
        found = checkpoints.newest(folder)
        assert found.step in (2, 3) and found.facts == {"step": found.step}
        assert torch.equal(found.tensors["a"], torch.full((1000,), float(found.step)))
        checkpoints.save(folder, victims.checkpoint(3))
        assert checkpoints.newest(folder).step == 3
        assert [path.name for path in folder.iterdir() if not path.name.startswith("step_")] == []
        if code == 0:
            break
    assert found.step == 3 and die_at > 12
    record_property("trials", die_at)


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """A training killed after step 32, and what its uninterrupted twin leaves."""
    folder = tmp_path_factory.mktemp("cut")
    fakes.cache(folder / "cache", "two_players")
    whole = shutil.copytree(folder, folder.with_name("whole"))
    processes.run(victims.training, whole / "told", whole, "two_players")
    process = processes.start(victims.training, folder / "told", folder, "two_players")
    with processes.ending(process):
        processes.until(lambda: (folder / "work/checkpoints/step_000000032").exists(), process)
    return folder, processes.bytes_of(whole / "model"), processes.bytes_of(whole / victims.KEPT)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_harm_is_named_and_the_one_before_serves(name, harm, cut, tmp_path, lost_steps):
    folder = shutil.copytree(cut[0], tmp_path / "harmed")
    newest, before = checkpoints.found(folder / "work/checkpoints")[:2]
    path = newest / name
    data = path.read_bytes()
    place = len(data) // 2
    path.write_bytes(data[:place] + (bytes([data[place] ^ 4]) + data[place + 1 :] if harm == "flip" else b""))
    if harm == "remove":
        path.unlink()
    told = processes.run(victims.training, tmp_path / "told", folder, "two_players")
    assert newest.name in told and f"going on from step {int(before.name[5:])}" in told
    assert processes.bytes_of(folder / "model") == cut[1]
    assert processes.bytes_of(folder / victims.KEPT) == cut[2]
    lost_steps(int(newest.name[5:]) - int(before.name[5:]))


def test_without_any_good_one_training_starts_again(cut, tmp_path, lost_steps):
    folder = shutil.copytree(cut[0], tmp_path / "harmed")
    all_found = checkpoints.found(folder / "work/checkpoints")
    for path in all_found:
        (path / "tensors.safetensors").write_bytes(b"")
    told = processes.run(victims.training, tmp_path / "told", folder, "two_players")
    assert all(f"{path}" in told for path in all_found) and "going on" not in told
    assert processes.bytes_of(folder / victims.KEPT) == cut[2]
    lost_steps(int(all_found[0].name[5:]))


def test_one_of_other_params_is_refused_with_the_difference(cut, tmp_path):
    folder = shutil.copytree(cut[0], tmp_path / "other")
    before = processes.bytes_of(folder / "work")
    told = processes.fail(victims.training, tmp_path / "told", folder, "two_players", 2, None, "muon", 61)
    assert "train.num_steps is 60 there, 61 here; train.optimizer is 'adamw' there, 'muon' here" in told
    assert "to train from the start" in told
    assert processes.bytes_of(folder / "work") == before and not (folder / "model").exists()


def test_one_of_another_plan_is_refused(cut, tmp_path):
    """Code, data and params are hashed into the name of the work folder: a copy under another name is not taken."""
    folder = shutil.copytree(cut[0], tmp_path / "moved")
    moved = (folder / "work").rename(folder / "a-0123")
    (folder / "work").symlink_to(moved)
    content = json.loads((checkpoints.found(moved / "checkpoints")[0] / "facts.json").read_bytes())
    assert content["made_by"]["work"] == "work"
    with pytest.raises(ValueError, match="work is 'work' there, 'a-0123' here"):
        checkpoints.newest(moved / "checkpoints", content["made_by"] | {"work": moved.name})


def test_one_of_another_form_is_refused(cut, tmp_path):
    """With right digests: it was written so, by a later or earlier program."""
    folder = shutil.copytree(cut[0], tmp_path / "other")
    newest = checkpoints.found(folder / "work/checkpoints")[0]
    content = json.loads((newest / "facts.json").read_bytes())
    artifacts.write_json(newest / "facts.json", content | {"form": 99})
    artifacts.write_json(newest / "index.json", {name: artifacts.sha256(newest / name) for name in checkpoints.FILES})
    told = processes.fail(victims.training, tmp_path / "told", folder, "two_players")
    assert re.search(r"step_\d+ has form 99, this program reads form 1", told)


def test_a_log_that_is_not_the_checkpoints_is_named(cut, tmp_path):
    folder = shutil.copytree(cut[0], tmp_path / "harmed")
    log = folder / "work/log.jsonl"
    data = bytearray(log.read_bytes())
    data[200] ^= 1
    log.write_bytes(data)
    told = processes.fail(victims.training, tmp_path / "told", folder, "two_players")
    assert "log.jsonl is not what its checkpoint says; delete" in told
