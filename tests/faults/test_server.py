"""`make ui` from outside, and a server that is killed while a training tells it of its curves."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from stages import publish
from stages.pipeline import tracking
from tests import fakes
from tests.faults import processes, victims
from tests.pipeline.test_publish import evaluate, time_it

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """(process, folder, port): what `make ui` starts, in a folder that has no results, with a secret beside it."""
    folder = tmp_path_factory.mktemp("ui")
    shutil.copy(ROOT / "Makefile", folder)
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "stages").mkdir()
    (folder / "stages/publish.py").write_text("")
    (folder / "secret").write_text("the secret")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = launch(folder, port)
    yield process, folder, port
    end(process)


def launch(folder, port):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    with (folder / "told").open("wb") as told:
        process = subprocess.Popen(
            ["make", "ui", f"PORT={port}", "-o", f"{folder}/.venv/installed"],
            cwd=folder,
            env=environment,
            stdout=told,
            stderr=told,
            start_new_session=True,
        )
    try:
        processes.until(lambda: answers(port) or process.poll() is not None, pause_s=0.2)
        assert process.poll() is None, (folder / "told").read_text()
    except BaseException:
        end(process)
        raise
    return process


def answers(port):
    try:
        return requests.get(f"http://127.0.0.1:{port}/health", timeout=2).ok
    except requests.RequestException:
        return False


def end(process):
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(processes.PATIENCE_S)


def listening(port):
    """Local addresses on which somebody listens at this port, as /proc has them."""
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return {words[1].split(":")[0] for words in lines if words[3] == "0A" and int(words[1].split(":")[1], 16) == port}


@pytest.mark.fault("ui")
def test_it_listens_on_this_machine_alone(server):
    assert listening(server[2]) == {"0100007F"}


@pytest.mark.fault("ui")
def test_a_foreign_host_is_refused(server):
    """Else any page in the researcher's browser could ask it, by a name that it lets point here."""
    for path in ("/", "/api/2.0/mlflow/experiments/get?experiment_id=0"):
        here = requests.get(f"http://127.0.0.1:{server[2]}{path}", timeout=20)
        foreign = requests.get(f"http://127.0.0.1:{server[2]}{path}", headers={"Host": "evil.example"}, timeout=20)
        assert here.status_code == 200 and foreign.status_code == 403, (here.text, foreign.text)


@pytest.mark.fault("ui")
def test_artifacts_end_at_their_folder(server):
    _, folder, port = server
    url = f"http://127.0.0.1:{port}"
    made = requests.post(f"{url}/api/2.0/mlflow/runs/create", json={"experiment_id": "0"}, timeout=20).json()
    run = made["run"]["info"]["run_id"]
    ways = ("../../../secret", "../../../../secret", "..%2f..%2f..%2fsecret", f"{folder}/secret", "/etc/passwd")
    for way in ways:
        for address in (
            f"{url}/get-artifact?path={way}&run_uuid={run}",
            f"{url}/api/2.0/mlflow-artifacts/artifacts/{way}",
            f"{url}/static-files/{way}",
        ):
            prepared = requests.Request("GET", address).prepare()
            prepared.url = address  # as it stands: requests would tidy the dots away
            with requests.Session() as session:
                found = session.send(prepared, timeout=20)
            assert found.status_code >= 400 or "<html" in found.text[:500].lower(), (address, found.text[:200])
            assert "the secret" not in found.text and "root:" not in found.text


@pytest.mark.fault("ui")
def test_pickle_and_telemetry_are_off(server):
    """In the environment of every process of it."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(path.name)) == server[0].pid and b"mlflow" in (path / "cmdline").read_bytes():
                found.append((path / "environ").read_bytes().split(b"\0"))
        except OSError:
            continue
    assert found
    for variables in found:
        assert b"MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false" in variables
        assert b"MLFLOW_DISABLE_TELEMETRY=true" in variables


@pytest.mark.fault("tracking")
def test_a_server_killed_in_the_middle_changes_no_byte_and_the_results_come_later(server, tmp_path, monkeypatch):
    process, folder, port = server
    for name in ("whole", "struck"):
        fakes.cache(tmp_path / name / "cache", "recurrent")
    processes.run(victims.training, tmp_path / "told", tmp_path / "whole", "recurrent")
    struck = tmp_path / "struck"
    training = processes.start(victims.tracked, tmp_path / "told", struck, f"http://127.0.0.1:{port}")
    with processes.ending(training):
        processes.until(lambda: (struck / "seen").exists(), training)
        end(process)
        assert processes.finish(training) == 0, (tmp_path / "told").read_text()
    assert re.search("live tracking failed|live tracking is off", (tmp_path / "told").read_text())
    assert processes.bytes_of(struck / "model") == processes.bytes_of(tmp_path / "whole/model")
    monkeypatch.setenv("DVC_ROOT", str(struck))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")  # a busy machine is not a dead server
    monkeypatch.delenv("PARTITA_TRACKING", raising=False)
    evaluate(struck)
    time_it(struck, 0.01)
    again = launch(folder, port)
    try:
        for _ in range(2):
            publish.run(publish.Config(("one",)), struck / "experiments", struck / "speed")
        client = tracking.connect()
        assert [run.info.status for run in tracking.runs(client, tracking.RESULTS, "")] == ["FINISHED"]
        assert [run.info.status for run in tracking.runs(client, tracking.LIVE, "")] == ["KILLED"]
    finally:
        end(again)
