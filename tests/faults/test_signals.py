"""SIGTERM and SIGINT, two runs at once, and numbers that are no numbers."""

import os
import re
import signal

import pytest

from tests import fakes
from tests.faults import processes, small, victims


@pytest.mark.fault("signal")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_a_checkpoint_and_the_next_run_goes_on(number, code, tmp_path, lost_steps):
    for name in ("whole", "cut"):
        fakes.cache(tmp_path / name / "cache", "recurrent")
    processes.run(victims.training, tmp_path / "told", tmp_path / "whole", "recurrent")
    folder = tmp_path / "cut"
    process = processes.start(victims.training, tmp_path / "told", folder, "recurrent")
    with processes.ending(process):
        processes.until(lambda: (folder / "work/checkpoints/step_000000008").exists(), process)
        os.kill(process.pid, number)
        assert processes.finish(process) == code
    saved = max(int(path.name[5:]) for path in (folder / "work/checkpoints").glob("step_*"))
    done = max(map(int, re.findall(r'"step": (\d+)', (folder / "work/log.jsonl").read_text())))
    assert saved == done and not (folder / "model").exists()
    assert f"going on from step {saved}" in processes.run(victims.training, tmp_path / "told", folder, "recurrent")
    for name in ("model", victims.KEPT):
        assert processes.bytes_of(folder / name) == processes.bytes_of(tmp_path / "whole" / name)
    lost_steps(done - saved)


@pytest.mark.fault("signal")
def test_a_stage_without_checkpoints_leaves_nothing_half_written(tmp_path):
    small.corpus(tmp_path)
    process = processes.start(victims.encode_cache, tmp_path / "told", tmp_path)
    with processes.ending(process):
        processes.until(lambda: list(tmp_path.glob(".cache.*/*")), process)
        os.kill(process.pid, signal.SIGTERM)
        assert processes.finish(process) == -signal.SIGTERM  # which a shell reports as 143
    assert not (tmp_path / "cache").exists()
    processes.run(victims.encode_cache, tmp_path / "told", tmp_path)
    found = processes.bytes_of(tmp_path / "cache")
    assert not list(tmp_path.glob(".cache.*")), "the draft of the killed run is gone"
    processes.run(victims.encode_cache, tmp_path / "told", tmp_path)
    assert processes.bytes_of(tmp_path / "cache") == found


@pytest.mark.fault("twice")
def test_the_second_of_two_trainings_says_so_and_waits(tmp_path):
    fakes.cache(tmp_path / "cache", "quantised")
    first = processes.start(victims.waiting, tmp_path / "told", tmp_path / "work")
    with processes.ending(first):
        processes.until(lambda: (tmp_path / "work/entered").exists(), first)
        second = processes.start(victims.training, tmp_path / "told", tmp_path, "quantised")
        with processes.ending(second):
            processes.until(lambda: "another process works in" in (tmp_path / "told").read_text(), second)
            assert not (tmp_path / "work/log.jsonl").exists()
            first.kill()
            assert processes.finish(second) == 0, (tmp_path / "told").read_text()


@pytest.mark.fault("finite")
@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_what_is_not_finite_stops_before_the_step_and_names_the_clip(kind, tmp_path, lost_steps):
    for name in ("whole", "cut"):
        fakes.cache(tmp_path / name / "cache", "coupling")
    processes.run(victims.training, tmp_path / "told", tmp_path / "whole", "coupling")
    folder = tmp_path / "cut"
    told = processes.fail(victims.poisoned, tmp_path / "told", folder, kind)
    (step,) = re.findall(rf"step (\d+), player model: the {kind} is not finite on sound2; nothing was updated", told)
    assert int(step) >= 30
    saved = max(int(path.name[5:]) for path in (folder / "work/checkpoints").glob("step_*"))
    assert f"going on from step {saved}" in processes.run(victims.training, tmp_path / "told", folder, "coupling")
    for name in ("model", victims.KEPT):
        assert processes.bytes_of(folder / name) == processes.bytes_of(tmp_path / "whole" / name)
    lost_steps(int(step) - saved)
