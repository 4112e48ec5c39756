"""Live tracking: it mirrors when it can, and changes nothing, stalls nothing and stops nothing when it cannot."""

import http.server
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from stages import train
from stages.pipeline import plugins, tracking
from stages.training.config import TrainConfig
from tests import fakes
from tests.faults import processes, victims

ROOT = Path(__file__).resolve().parents[2]
CONFIG = TrainConfig(
    num_steps=6, batch_size=4, learning_rate=1e-2, num_threads=1, seed=0, crop_steps=7, validate_every=3, log_every=1
)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """Made once: it takes MLflow seconds."""
    folder = tmp_path_factory.mktemp("database")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        tracking.connect()
    return folder / "mlflow.db"


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path, database):
    shutil.copyfile(database, tmp_path / "mlflow.db")
    monkeypatch.setattr(plugins, "load", fakes.load)
    monkeypatch.setattr(tracking, "TIMEOUT_S", 30)  # a busy machine is not a dead server
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    for name in ("MLFLOW_TRACKING_URI", "PARTITA_TRACKING", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)


def row(step, loss=1.0, split="train", player="model"):
    return {"step": step, "split": split, "player": player, "loss": loss}


def live_runs(client):
    return tracking.runs(client, tracking.LIVE, "")


def history(client, run, key):
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)]


def bytes_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def trained(folder):
    cache = fakes.cache(folder / "cache", "two_players")
    (folder / "work").mkdir()
    config = train.Config("fake", "frames", "two_players", fakes.plain("two_players"), CONFIG)
    begun = time.monotonic()
    train.run(config, cache, Path("models/scratch"), folder / "model", folder / "work")
    return bytes_of(folder / "model"), time.monotonic() - begun


@pytest.fixture
def hung():
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []
        thread = threading.Thread(target=accept, args=(server, held), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


class Slow(http.server.BaseHTTPRequestHandler):
    """Takes its time, then fails."""

    def do_GET(self):  # noqa: N802
        time.sleep(0.7)
        self.send_error(503)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *arguments):
        pass


@pytest.fixture
def slow():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def locked(tmp_path, database):
    """A database that somebody else writes to without end."""
    path = tmp_path / "locked.db"
    shutil.copyfile(database, path)
    connection = sqlite3.connect(path)
    connection.execute("BEGIN EXCLUSIVE")
    yield f"sqlite:///{path}"
    connection.close()


def accept(server, held):
    while True:
        try:
            held.append(server.accept())
        except OSError:
            return


@pytest.mark.fault("tracking")
def test_with_tracking_on_or_off_or_failing_every_byte_is_the_same(
    tmp_path, monkeypatch, hung, slow, locked, capfd, record_property
):
    """And a server that is not there costs seconds at the end at most, where a plain client would cost minutes."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = f"http://127.0.0.1:{closed.getsockname()[1]}"
    settings = {
        "off": {"PARTITA_TRACKING": "off"},
        "on": {},
        "dead": {"MLFLOW_TRACKING_URI": dead},
        "hung": {"MLFLOW_TRACKING_URI": hung},
        "slow": {"MLFLOW_TRACKING_URI": slow},
        "locked": {"MLFLOW_TRACKING_URI": locked},
        "nonsense": {"MLFLOW_TRACKING_URI": "nosuchscheme://x"},
    }
    made = {}
    for name, variables in settings.items():
        with monkeypatch.context() as patch:
            patience_s = 30 if name == "on" else 1
            patch.setattr(tracking, "TIMEOUT_S", patience_s)
            patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(patience_s))  # else that of whoever asked MLflow first
            for key, value in variables.items():
                patch.setenv(key, value)
            (tmp_path / name).mkdir()
            made[name], seconds = trained(tmp_path / name)
            assert seconds < 30
    for name in settings:
        assert made[name] == made["off"], name
    record_property("trials", len(settings) - 2)
    assert "live tracking is off" in capfd.readouterr().err
    client = tracking.connect()
    (run,) = live_runs(client)
    assert run.info.status == "FINISHED"
    assert [step for step, _ in history(client, run, "train/generator/squared_error")] == [1, 2, 3, 4, 5, 6]
    assert run.data.params["train.num_steps"] == "6" and run.info.run_name == "fake"


def test_a_process_ends_while_the_server_hangs(hung, tmp_path):
    """The thread must not keep the interpreter alive."""
    script = (
        "from pathlib import Path; from stages.pipeline import tracking; tracking.TIMEOUT_S = 1\n"
        "with tracking.live('x', {}, Path('w')) as listen: listen({'step': 1, 'split': 'train', 'player': 'model'})"
    )
    variables = os.environ | {"MLFLOW_TRACKING_URI": hung, "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", script], env=variables, cwd=ROOT, check=True, timeout=60)
    assert time.monotonic() - begun < 30


def test_listening_never_waits_and_drops_what_does_not_fit(monkeypatch, hung, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", hung)
    monkeypatch.setattr(tracking, "TIMEOUT_S", 1)
    with tracking.live("x", {}, tmp_path) as listen:
        begun = time.monotonic()
        for step in range(5000):
            listen(row(step))
        assert time.monotonic() - begun < 1


def test_three_failures_in_a_row_end_it(monkeypatch, tmp_path, capfd):
    calls = []

    def fail(client, run_id, points):
        calls.append(len(points))
        raise ConnectionError("gone")

    monkeypatch.setattr(tracking, "log_points", fail)
    with tracking.live("x", {}, tmp_path) as listen:
        for step in range(1, 8):
            listen(row(step))
            time.sleep(0.3)
        time.sleep(3)
    assert len(calls) == 3
    assert capfd.readouterr().err.count("live tracking failed") == 3


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (ValueError, "FAILED"), (SystemExit, "KILLED"), (KeyboardInterrupt, "KILLED")],
)
def test_the_run_ends_as_training_did(error, status, tmp_path):
    try:
        with tracking.live("x", {}, tmp_path) as listen:
            listen(row(1))
            if error:
                raise error
    except BaseException as raised:
        assert type(raised) is error
    (run,) = live_runs(tracking.connect())
    assert run.info.status == status


def test_going_on_logs_no_step_twice(tmp_path):
    work = tmp_path / "train" / "x-0123"
    with pytest.raises(KeyboardInterrupt), tracking.live("x", {"a": 1}, work) as listen:
        for step in range(1, 6):
            listen(row(step, player="critic"))
        listen(row(5, split="valid"))
        raise KeyboardInterrupt
    with tracking.live("x", {"a": 1}, work) as listen:
        for step in range(4, 9):
            listen(row(step, player="critic"))
        listen(row(5, split="valid"))
        listen(row(8, split="valid"))
    client = tracking.connect()
    (run,) = live_runs(client)
    assert [step for step, _ in history(client, run, "train/critic/loss")] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [step for step, _ in history(client, run, "valid/loss")] == [5, 8]
    assert run.info.status == "FINISHED"
    with tracking.live("x", {"a": 1}, work) as listen:
        listen(row(1))
    assert len(live_runs(client)) == 2, "a finished run is not gone on with"


@pytest.mark.fault("tracking")
def test_a_killed_process_is_marked_and_a_living_one_is_not(tmp_path):
    variables = {"DVC_ROOT": str(tmp_path)}
    dies, lives = (processes.start(victims.told_of, tmp_path / "told", name, variables) for name in ("dies", "lives"))
    with processes.ending(dies, lives):
        client = tracking.connect()
        processes.until(lambda: len([r for r in live_runs(client) if r.data.metrics]) == 2, pause_s=0.2)
        dies.kill()
        dies.join()
        found = {run.info.run_name: run.info.status for run in live_runs(tracking.connect())}
        assert found == {"dies": "KILLED", "lives": "RUNNING"}


@pytest.mark.fault("tracking")
def test_processes_that_start_at_once_make_one_database(tmp_path):
    (tmp_path / "mlflow.db").unlink()
    told, variables = tmp_path / "told", {"DVC_ROOT": str(tmp_path)}
    at_once = [processes.start(victims.connecting, told, variables) for _ in range(3)]
    with processes.ending(*at_once):
        assert [processes.finish(one) for one in at_once] == [0] * 3, told.read_text()
    names = [found.name for found in tracking.connect().search_experiments()]
    assert sorted(set(names) - {"Default"}) == ["live", "results"]
    assert (tmp_path / "mlflow.db").is_file()
