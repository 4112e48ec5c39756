"""GPUs are names here: who gets which, and who waits."""

import os
import threading
import time
from contextlib import ExitStack

import pytest

from stages.pipeline import gpus


@pytest.fixture(autouse=True)
def three(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0, GPU-b,MIG-c/1")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(gpus, "WATCH_S", 0.01)


def test_a_lease_hides_the_others_and_ends(monkeypatch):
    with gpus.leased(2) as taken:
        assert taken == ["0", "GPU-b"] and os.environ["CUDA_VISIBLE_DEVICES"] == "0,GPU-b"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0, GPU-b,MIG-c/1"
    with gpus.leased(3) as taken:
        assert len(taken) == 3


def test_two_jobs_share_none_and_the_second_waits_for_enough(capfd):
    found, second = gpus.visible(), []
    with ExitStack() as first:
        assert gpus.take(2, found, first) == ["0", "GPU-b"]
        with ExitStack() as other:
            assert gpus.take(1, found, other) == ["MIG-c/1"]

        def wait():
            with ExitStack() as held:
                second.extend(gpus.take(2, found, held))

        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.1)
        assert not second
    waiting.join(10)
    assert second == ["0", "GPU-b"] and "waiting for 2 of the GPUs" in capfd.readouterr().err


def test_fewer_than_processes_is_refused():
    with pytest.raises(ValueError, match=r"train.processes = 4, but 3 GPUs are visible \(0, GPU-b, MIG-c/1\)"):
        with gpus.leased(4):
            pass


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_without_gpus_nothing_is_leased(hidden, monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    with gpus.leased(4) as taken:
        assert taken == () and os.environ["CUDA_VISIBLE_DEVICES"] == hidden
    assert not list(tmp_path.iterdir())
