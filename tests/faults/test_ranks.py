"""Several processes of one training, started by torchrun or by the stage: killed, stopped, orphaned."""

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stages.pipeline import artifacts, checkpoints, shards
from stages.pipeline.launch import LOOPBACK
from tests.faults import processes, victims
from tests.faults.test_dvc import alive, fill_cache

pytestmark = pytest.mark.fault("ranks")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(a folder with a cache, the bytes of the model that two undisturbed ranks make of it), started by torchrun.

    On several machines the stage cannot start its ranks itself; the bytes below are the same.
    """
    folder = tmp_path_factory.mktemp("whole")
    fill_cache(folder / "cache")
    words = f"-m torch.distributed.run --standalone --local-addr 127.0.0.1 --nproc-per-node 2 {victims.__file__}"
    variables = {"GLOO_SOCKET_IFNAME": LOOPBACK, "PARTITA_TRACKING": "off", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *words.split(), folder],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=processes.PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    return folder, processes.bytes_of(folder / "model")


@pytest.fixture
def folder(whole, tmp_path):
    shutil.copytree(whole[0] / "cache", tmp_path / "cache")
    return tmp_path


def ranks_of(process):
    """The process ids of its ranks, in their order."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process.pid and b"spawn_main" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return sorted(found)


def saved(folder):
    """The step of the last checkpoint."""
    return max((int(path.name[5:]) for path in checkpoints.found(folder / "work/checkpoints")), default=0)


def done(folder):
    """The last step in the log."""
    return max(map(int, re.findall(r'"step": (\d+)', (folder / "work/log.jsonl").read_text())))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_is_started_again_with_the_others(rank, whole, folder, lost_steps):
    process = processes.start(victims.ranked, folder / "told", folder)
    with processes.ending(process):
        processes.until(lambda: saved(folder), process)
        os.kill(ranks_of(process)[rank], signal.SIGKILL)
        begun = max(done(folder) - saved(folder), 0)
        assert processes.finish(process) == 0, (folder / "told").read_text()
    assert re.search(r"going on from step (8|16|24|32|40|48|56) ", (folder / "told").read_text())
    assert processes.bytes_of(folder / "model") == whole[1]
    lost_steps(begun)


def test_a_stage_that_is_stopped_or_killed_or_loses_a_rank_ends_the_same(whole, folder, lost_steps, record_property):
    """SIGTERM, then the same command and SIGKILL, then the same command, of which a rank is killed.

    Nobody can tell afterwards, and no rank is left behind.
    """
    record_property("trials", 3)
    for number, code in ((signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        before = saved(folder)
        process = processes.start(victims.ranked, folder / "told", folder)
        with processes.ending(process):
            processes.until(lambda known=before: saved(folder) > known, process)
            ranks = ranks_of(process)
            assert len(ranks) == 2
            os.kill(process.pid, number)
            assert processes.finish(process) == code, (folder / "told").read_text()
            processes.until(lambda known=ranks: not any(map(alive, known)), pause_s=0.05)
        assert saved(folder) == done(folder) and not (folder / "model").exists()
    before = saved(folder)
    process = processes.start(victims.ranked, folder / "told", folder)
    with processes.ending(process):
        processes.until(lambda: saved(folder) > before, process)
        os.kill(ranks_of(process)[1], signal.SIGKILL)
        begun = max(done(folder) - saved(folder), 0)
        assert processes.finish(process) == 0, (folder / "told").read_text()
    assert (folder / "told").read_text().count("going on from step") == 3
    assert processes.bytes_of(folder / "model") == whole[1]
    lost_steps(begun)


def test_what_a_rank_raises_is_told_and_not_tried_again(folder):
    """One of the three clips of every batch, which is one rank's."""
    version = artifacts.read_json(folder / "cache/train/index.json")["version"]
    codes = [
        replace(code, data=np.full_like(code.data, np.nan)) if code.id == "clip2" else code
        for code in shards.Shards(folder / "cache/train", version)
    ]
    bad = shards.write_shard(folder / "cache/train", 0, codes)
    shards.write_index(folder / "cache/train", version, [bad])
    told = processes.fail(victims.ranked, folder / "told", folder)
    reason = r"NotFinite: step \d+, player model: the loss is not finite on clip2; nothing was updated"
    assert re.search(rf"\nRuntimeError: {reason}", told)
    assert len(re.findall(rf"\nstages.training.loop.{reason}", told)) == 2, "once by each rank"
    assert not (folder / "model").exists()
