"""MLflow on a real PostgreSQL, as docs/clusters.md has it; on a Unix socket, so that no port is opened.

PostgreSQL refuses to run as root: there it runs as the user of Debian's package.
"""

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from stages.pipeline import tracking
from tests.faults import processes, victims
from tests.pipeline.test_publish import evaluate, time_it

ROOT = Path(__file__).resolve().parents[2]


def programs():
    """The folder of initdb and postgres, which Debian keeps off PATH; None where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else on_path and Path(on_path).parent


def user():
    """Who runs it: we, or root's stand-in."""
    if os.geteuid():
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def die_with_us():
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG; to PostgreSQL: disconnect all and stop


@pytest.fixture(scope="module")
def uri():
    """Of an empty database, whose server stops with the tests, or with this process."""
    place = programs()
    if place is None:
        pytest.skip("no PostgreSQL here (Debian: apt-get install postgresql)")
    pytest.importorskip("psycopg", reason="no driver for PostgreSQL here: pip install 'psycopg[binary]'")
    folder = Path(tempfile.mkdtemp(prefix="partita-pg-"))  # pytest's own are closed to other users
    if user():
        shutil.chown(folder, user())
    try:
        made = [place / "initdb", "-D", folder / "data", "-U", "partita", "-A", "trust", "--no-sync"]
        done = subprocess.run(made, user=user(), cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        words = [place / "postgres", "-D", folder / "data", "-k", folder, "-c", "listen_addresses=", "-F"]
        with (folder / "told").open("wb") as told:
            server = subprocess.Popen(words, user=user(), cwd=folder, stdout=told, stderr=told, preexec_fn=die_with_us)
        with processes.ending(server):
            ask = [place / "createdb", "-h", folder, "-U", "partita", "mlflow"]
            processes.until(lambda: not subprocess.run(ask, stderr=subprocess.DEVNULL).returncode, pause_s=0.2)
            yield f"postgresql+psycopg://partita@/mlflow?host={folder}"
            server.send_signal(signal.SIGINT)
            assert server.wait(processes.PATIENCE_S) == 0, (folder / "told").read_text()
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def places(uri, tmp_path, monkeypatch):
    """Two repositories with the same results."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for name in ("PARTITA_TRACKING", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    for place in ("a", "b"):
        for name in ("one", "left"):
            evaluate(tmp_path / place, name)
            time_it(tmp_path / place, 0.01, name)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "a"))
    tracking.connect()  # makes the tables: two machines at once would collide, see docs/clusters.md
    return tmp_path / "a", tmp_path / "b"


def publish_at_once(uri, told, *places):
    settings = [{"MLFLOW_TRACKING_URI": uri, "DVC_ROOT": str(place)} for place in places]
    started = [
        processes.start(victims.publishing, told, place, variables, ("left", "one"))
        for place, variables in zip(places, settings, strict=True)
    ]
    with processes.ending(*started):
        assert [processes.finish(one) for one in started] == [0] * len(places), told.read_text()
    assert "warning" not in told.read_text(), told.read_text()


def published():
    return sorted(run.info.run_name for run in tracking.runs(tracking.connect(), tracking.RESULTS, ""))


@pytest.mark.fault("tracking")
def test_publishes_at_once_leave_one_run_of_each_result(uri, places, tmp_path):
    """From one repository, where a lock parts them, and from two, where the last to finish tidies up."""
    first, second = places
    publish_at_once(uri, tmp_path / "told", first, first)
    assert published() == ["left", "one"]
    for place in places:
        evaluate(place, latent_dim=128)
    publish_at_once(uri, tmp_path / "told", first, second)
    assert published() == ["left", "one", "one"]
    client = tracking.connect()
    runs = tracking.runs(client, tracking.RESULTS, "tags.mlflow.runName = 'one'")
    assert sorted(run.data.params["model.latent_dim"] for run in runs) == ["128", "64"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert all(len(client.get_metric_history(run.info.run_id, "train/loss")) == 3 for run in runs)


def test_of_two_who_wrote_the_same_the_older_stays(places):
    """The same race, without the luck: the second looks before the first has finished."""
    client = tracking.connect()
    ids = [tracking.create(client, tracking.RESULTS, "twin", {tracking.KEY: "k"}) for _ in range(2)]
    for run_id in reversed(ids):
        client.set_terminated(run_id, "FINISHED")
    kept = tracking.settle(client, "k")
    assert kept in ids and published().count("twin") == 1 and tracking.settle(client, "k") == kept
    client.delete_run(kept)
