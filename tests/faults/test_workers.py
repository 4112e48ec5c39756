"""Workers that die: what they had is done again; a unit that always kills is named, or stands in quarantine."""

import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from stages import cache
from stages.pipeline import workers
from tests.faults import processes, small, units, victims

CONFIG = cache.Config("mdct", {"num_bins": 64}, 3)


@pytest.mark.fault("worker")
@pytest.mark.parametrize("how", ["kill", "memory"])
def test_a_shard_whose_worker_was_lost_is_done_again(how, tmp_path, monkeypatch, capfd):
    corpus = small.corpus(tmp_path)
    cache.run(CONFIG, corpus / "audio", corpus / "split", tmp_path / "whole")
    mark = tmp_path / "mark"
    monkeypatch.setattr(cache, "encode", partial(units.encode, mark, how))
    monkeypatch.setattr(workers, "num_cores", lambda: 2)
    cache.run(CONFIG, corpus / "audio", corpus / "split", tmp_path / "struck")
    told = capfd.readouterr().err
    assert mark.exists() and "units are done again" in told
    assert ("killed" if how == "kill" else "out of memory") in told
    assert processes.bytes_of(tmp_path / "struck") == processes.bytes_of(tmp_path / "whole")


@pytest.mark.fault("worker")
def test_a_unit_that_always_kills_is_named_after_all_others_were_saved(capfd):
    with pytest.raises(RuntimeError, match=r"^3: it ended its process 2 times with nothing beside it"):
        workers.map_units(units.deadly, range(8), num_workers=2)
    guard = workers.Guard(1.0, 60, units.instead)
    found = workers.map_units(units.deadly, range(8), num_workers=2, guard=guard)
    assert found[:3] + found[4:] == [0, 1, 4, 16, 25, 36, 49] and "2 times" in found[3]


@pytest.mark.fault("worker")
def test_limits_hold_for_each_unit_and_no_longer():
    """Memory and time, the latter also inside a library that never returns to Python."""
    guard = workers.Guard(0.1, 1, units.instead)
    found = workers.map_units(units.greedy, range(6), num_workers=2, guard=guard)
    assert found[:3] + found[5:] == [0, 1, 4, 25]
    assert found[3] == "it needs more than 0.1 GB of memory"
    assert "out of memory or time" in found[4]
    assert workers.map_units(units.greedy, [3, 5], num_workers=2) == [25_000_000, 25]


@pytest.mark.fault("worker")
def test_with_a_guard_nothing_runs_here():
    assert os.getpid() not in workers.map_units(units.process_of, [1], guard=workers.Guard(1.0, 60, units.instead))
    assert workers.map_units(units.process_of, [], guard=workers.Guard(1.0, 60, units.instead)) == []


def test_one_process_does_one_unit_after_the_other_and_is_replaced_when_it_was_killed():
    """As it waited, which is no unit's fault; an error leaves it, and what had not begun is not done."""
    guard = workers.Guard(1.0, 60, units.instead)
    (first,) = workers.map_units(units.process_of, [1], guard=guard)
    assert workers.map_units(units.process_of, [1, 2], num_workers=1, guard=guard) == [first, first]
    with pytest.raises(ZeroDivisionError):
        workers.map_units(units.reciprocal, [1, 0, 2], num_workers=1, guard=guard)
    os.kill(first, signal.SIGKILL)
    (second,) = workers.map_units(units.process_of, [1], guard=guard)
    assert second not in (first, os.getpid())


@pytest.mark.parametrize("guarded", [False, True])
def test_a_script_that_cannot_be_imported_is_told_so_and_no_unit_blamed(guarded, tmp_path):
    """Python starts a process by importing the main module anew."""
    call = "print(workers.map_units(units.reciprocal, [4], guard=workers.Guard(1.0, 60, units.instead)))"
    head = "from stages.pipeline import workers\nfrom tests.faults import units\n"
    script = tmp_path / "script.py"
    script.write_text(head + ("if __name__ == '__main__':\n    " if guarded else "") + call + "\n")
    root = str(units.__file__).rsplit("/tests/", 1)[0]
    done = subprocess.run(
        [sys.executable, script], env=os.environ | {"PYTHONPATH": root}, capture_output=True, text=True, timeout=120
    )
    if guarded:
        assert done.stdout == "[0.25]\n", done.stderr
    else:
        assert done.returncode and "no worker process starts" in done.stderr and "__main__" in done.stderr


@pytest.mark.fault("orphan")
@pytest.mark.parametrize("num", [1, 2])
def test_workers_end_with_their_main_process(num, tmp_path):
    process = processes.start(victims.beating, tmp_path / "told", tmp_path, num)
    with processes.ending(process):
        processes.until(lambda: len(list(tmp_path.glob("beat_*"))) == num, process)
        os.kill(process.pid, signal.SIGKILL)
        process.join()

    def sizes():
        return {path.name: path.stat().st_size for path in tmp_path.glob("beat_*")}

    time.sleep(10 * workers.WATCH_S)
    before = sizes()
    time.sleep(5 * workers.WATCH_S)
    assert sizes() == before, "an orphan writes on"
