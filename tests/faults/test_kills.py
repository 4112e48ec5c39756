"""kill -9 whenever it comes, and the same command again: nobody can tell afterwards."""

import random
import re
import signal
import time

import pytest

from tests import fakes
from tests.faults import processes, victims

FAMILIES = ("quantised", "two_players", "recurrent")
OPTIMIZERS = ("adamw", "muon")
NUM_KILLS = 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(family, optimizer) -> what the uninterrupted run leaves, made when first asked for."""
    made = {}

    def result(family, optimizer):
        if (family, optimizer) not in made:
            folder = tmp_path_factory.mktemp("whole")
            fakes.cache(folder / "cache", family)
            processes.run(victims.training, folder / "told", folder, family, 2, None, optimizer)
            made[family, optimizer] = outcome(folder)
        return made[family, optimizer]

    return result


def outcome(folder):
    """Model folder; optimiser state, averages and log as the last checkpoint has them."""
    kept = processes.bytes_of(folder / victims.KEPT)
    assert sum(name.startswith("checkpoints/step_000000060/") for name in kept) == 3
    return processes.bytes_of(folder / "model"), kept


def log(folder):
    """What the log holds by now; a run that ends takes it away."""
    try:
        return (folder / "work/log.jsonl").read_bytes()
    except FileNotFoundError:
        return b""


def steps_done(folder):
    return max(map(int, re.findall(rb'"step": (\d+)', log(folder))), default=0)


@pytest.mark.fault("kill")
def test_a_run_that_is_killed_again_and_again_ends_the_same(campaign, whole, tmp_path, lost_steps):
    """At random moments: in a step, in a checkpoint, while starting; the number of batches read ahead changes too."""
    draw = random.Random(campaign)
    family, optimizer = FAMILIES[campaign % 3], OPTIMIZERS[campaign // 3 % 2]
    fakes.cache(tmp_path / "cache", family)
    arguments = (tmp_path, family)
    most = 0
    for _ in range(NUM_KILLS):
        process = processes.start(victims.training, tmp_path / "told", *arguments, draw.randint(1, 5), None, optimizer)
        target = log(tmp_path).count(b"\n") + draw.randint(0, 40)
        with processes.ending(process):
            while process.exitcode is None and log(tmp_path).count(b"\n") < target:
                time.sleep(0.0005)
            time.sleep(draw.uniform(0, 0.01))
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL, (tmp_path / "told").read_text()
        done = steps_done(tmp_path)
        saved = [int(path.name[5:]) for path in (tmp_path / "work/checkpoints").glob("step_*")]
        most = max(most, done - max(saved, default=0))
    if process.exitcode != 0:
        processes.run(victims.training, tmp_path / "told", *arguments, 2, None, optimizer)
    assert outcome(tmp_path) == whole(family, optimizer)
    lost_steps(most)
    assert most <= victims.CONFIG.checkpoint_every
