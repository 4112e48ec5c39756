"""Work on a Dask cluster of two processes: the same bytes as here, though one is killed; errors that say why."""

import time
from functools import partial

import pytest

from stages import cache
from stages.pipeline import cluster, workers
from tests.faults import processes, small, units

CONFIG = cache.Config("mdct", {"num_bins": 64}, 3)


@pytest.fixture(scope="module")
def dask():
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as found:
        yield found


@pytest.fixture
def on_it(dask, monkeypatch, tmp_path):
    root = str(processes.__file__).rsplit("/tests/", 1)[0]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", root)
    monkeypatch.setenv(cluster.VARIABLE, dask.scheduler_address)
    monkeypatch.setattr(workers, "num_cores", lambda: 2)
    return dask


def pids(found):
    return [found.workers[name].pid for name in found.workers]


@pytest.mark.fault("worker")
def test_a_shard_whose_dask_worker_was_killed_is_done_again(on_it, tmp_path, monkeypatch):
    corpus = small.corpus(tmp_path)
    folders = [corpus / "audio", corpus / "split"]
    victim = pids(on_it)[0]
    monkeypatch.setattr(cache, "encode", partial(units.kill_once, tmp_path / "mark", victim))
    cache.run(CONFIG, *folders, tmp_path / "dask")
    monkeypatch.undo()
    assert (tmp_path / "mark").exists()
    processes.until(lambda: victim not in pids(on_it), pause_s=0.1)
    cache.run(CONFIG, *folders, tmp_path / "loky")
    monkeypatch.setattr(workers, "num_cores", lambda: 1)
    cache.run(CONFIG, *folders, tmp_path / "serial")
    dask, loky, serial = (processes.bytes_of(tmp_path / name) for name in ("dask", "loky", "serial"))
    assert dask == loky == serial and len(serial) > 5


@pytest.mark.fault("worker")
def test_limits_hold_on_the_cluster_and_its_workers_live(on_it, capfd):
    before = pids(on_it)
    guard = workers.Guard(0.1, 1, units.instead)
    found = workers.map_units(units.greedy, range(6), guard=guard)
    assert found[:3] + found[5:] == [0, 1, 4, 25]
    assert found[3] == "it needs more than 0.1 GB of memory" and "out of memory or time" in found[4]
    assert pids(on_it) == before
    with pytest.raises(RuntimeError, match=r"^3: it ended its process 2 times"):
        workers.map_units(units.deadly, range(8))


def test_errors_travel_with_their_kind_and_place(on_it):
    with pytest.raises(ZeroDivisionError) as found:
        workers.map_units(units.reciprocal, [1, 0])
    assert "in reciprocal" in "".join(found.value.__notes__)


def test_units_run_in_this_folder_with_relative_paths(on_it, tmp_path):
    workers.map_units(units.leave, ["a", "b"])
    assert sorted(path.name for path in tmp_path.glob("left_*")) == ["left_a", "left_b"]


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense", "tcp://"])
def test_an_address_where_nobody_answers_is_an_error_within_seconds(address, monkeypatch):
    monkeypatch.setenv(cluster.VARIABLE, address)
    monkeypatch.setattr(cluster, "CONNECT_S", 1)
    start = time.monotonic()
    with pytest.raises(RuntimeError, match="no Dask scheduler answers there.*unset PARTITA_WORKERS"):
        workers.map_units(units.reciprocal, [1, 2], num_workers=2)
    assert time.monotonic() - start < 20


def test_a_worker_that_does_not_see_our_files_is_refused(on_it, monkeypatch):
    lend = cluster.lend
    monkeypatch.setattr(cluster, "lend", lambda client, beat, data: lend(client, beat.with_name("elsewhere"), data))
    with pytest.raises(RuntimeError, match="does not see .*elsewhere; folder, code and .venv must lie on"):
        workers.map_units(units.reciprocal, [1, 2])


def test_a_cluster_without_workers_is_named(monkeypatch):
    from distributed import LocalCluster

    with LocalCluster(n_workers=0, dashboard_address=None, processes=False) as empty:
        monkeypatch.setenv(cluster.VARIABLE, empty.scheduler_address)
        monkeypatch.setattr(cluster, "WORKERLESS_S", 1)
        with pytest.raises(RuntimeError, match=r"has had no worker for 1 s; start some with `dask worker"):
            workers.map_units(units.reciprocal, [1, 2], num_workers=2)
