"""publish: one MLflow run per result, however often and from wherever it runs, and whatever interrupts it."""

import json
import os
import shutil
import socket
from pathlib import Path

import pytest

from stages import publish
from stages.pipeline import artifacts, params, tracking
from tests.faults import processes, victims

ROOT = Path(__file__).resolve().parents[2]
CONFIG = publish.Config(("one",))
CURVE = [
    {"step": step, "split": split, "player": "model", "loss": 1 / step}
    for step in (1, 10, 20)
    for split in ("train", "valid")
]


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    folder = tmp_path_factory.mktemp("database")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        tracking.connect()
    return folder


@pytest.fixture
def place(monkeypatch, tmp_path, database):
    """A repository with an empty database and the results of experiments `one` and `left`, which params lacks."""
    shutil.copyfile(database / "mlflow.db", tmp_path / "mlflow.db")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    for name in ("MLFLOW_TRACKING_URI", "PARTITA_TRACKING", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("one", "left"):
        evaluate(tmp_path, name, latent_dim=64)
        time_it(tmp_path, 0.01, name)
    return tmp_path


def evaluate(place, name="one", latent_dim=64):
    folder = place / "experiments" / name
    shutil.rmtree(folder, ignore_errors=True)
    artifacts.write_json(folder / "params.json", {"model.latent_dim": latent_dim, "train.seed": 0})
    metrics = {"si_sdr_db": latent_dim / 8, "pesq_wb_failures": {"no utterances": 2}, "pesq_wb_num": 10}
    artifacts.write_json(folder / "metrics.json", metrics)
    artifacts.write_bytes(folder / "training.jsonl", "".join(json.dumps(row) + "\n" for row in CURVE).encode())
    artifacts.write_bytes(folder / "figures/curve.png", b"png")
    artifacts.write_bytes(folder / "audio/new/a.flac", b"flac")


def time_it(place, rtf, name="one"):
    artifacts.write_json(place / "speed" / f"{name}.json", {"encode_rtf": rtf, "num_threads": 1})


def publish_it(place, config=CONFIG):
    publish.run(config, place / "experiments", place / "speed")


def results():
    client = tracking.connect()
    return client, tracking.runs(client, tracking.RESULTS, "")


def test_a_run_holds_everything(place, monkeypatch, database):
    monkeypatch.setenv("DVC_EXP_NAME", "brave-owl")
    publish_it(place)
    client, (run,) = results()
    assert run.info.run_name == "one" and run.info.status == "FINISHED"
    assert run.data.params == {"model.latent_dim": "64", "train.seed": "0"}
    assert run.data.metrics["si_sdr_db"] == 8.0 and run.data.metrics["encode_rtf"] == 0.01
    assert run.data.tags["DVC_EXP_NAME"] == "brave-owl"
    for split in ("train", "valid"):
        points = client.get_metric_history(run.info.run_id, f"{split}/loss")
        assert [(point.step, point.value) for point in points] == [(1, 1.0), (10, 0.1), (20, 0.05)]
    listed = [
        item.path for folder in ("figures", "audio/new") for item in client.list_artifacts(run.info.run_id, folder)
    ]
    assert listed == ["figures/curve.png", "audio/new/a.flac"]
    assert Path(client.download_artifacts(run.info.run_id, "audio/new/a.flac")).read_bytes() == b"flac"
    assert (database / "mlartifacts/results" / run.info.run_id).is_dir()


def test_there_and_back_again_makes_two_runs(place):
    for latent_dim in (64, 64, 128, 64, 128, 64):
        evaluate(place, latent_dim=latent_dim)
        publish_it(place)
    _, runs = results()
    assert sorted(run.data.params["model.latent_dim"] for run in runs) == ["128", "64"]


def test_new_timings_are_no_new_result(place):
    publish_it(place)
    time_it(place, 0.02)
    publish_it(place)
    publish_it(place)
    client, (run,) = results()
    assert run.data.metrics["encode_rtf"] == 0.02
    assert [p.value for p in client.get_metric_history(run.info.run_id, "encode_rtf")] == [0.01, 0.02]
    assert len(client.get_metric_history(run.info.run_id, "si_sdr_db")) == 1


def test_other_bytes_or_another_name_are_another_result(place):
    publish_it(place, publish.Config(("left", "one")))
    artifacts.write_bytes(place / "experiments/one/audio/new/a.flac", b"other")
    publish_it(place)
    _, runs = results()
    assert sorted(run.info.run_name for run in runs) == ["left", "one", "one"]


@pytest.mark.fault("tracking")
@pytest.mark.parametrize("where", ["log_params", "log_points"])
def test_what_a_killed_publish_left_is_deleted_and_written_again(place, monkeypatch, where):
    with monkeypatch.context() as patch:

        def die(*arguments):
            raise KeyboardInterrupt

        patch.setattr(tracking, where, die)
        with pytest.raises(KeyboardInterrupt):
            publish_it(place)
    assert [run.info.status for run in results()[1]] == ["RUNNING"]
    publish_it(place)
    client, (run,) = results()
    assert run.info.status == "FINISHED" and run.data.metrics["si_sdr_db"] == 8.0


def test_a_half_written_run_of_a_result_that_is_gone_is_deleted_too(place, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

        def die(*arguments):
            raise KeyboardInterrupt

        patch.setattr(tracking, "log_points", die)
        publish_it(place)
    evaluate(place, latent_dim=32)
    publish_it(place)
    _, (run,) = results()
    assert run.data.params["model.latent_dim"] == "32"


def test_removed_experiments_are_not_published_and_missing_results_are_said(place, capfd):
    publish_it(place, publish.Config(("absent", "one")))
    assert [run.info.run_name for run in results()[1]] == ["one"]
    assert "absent: no results yet" in capfd.readouterr().err


@pytest.mark.fault("tracking")
def test_a_dead_server_is_a_warning(place, monkeypatch, capfd):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed.getsockname()[1]}")
    publish_it(place)
    assert "warning: nothing more was published" in capfd.readouterr().err


def test_a_broken_database_is_a_warning(place, capfd):
    (place / "mlflow.db").write_bytes(b"no database at all" * 100)
    publish_it(place)
    assert "warning: nothing more was published" in capfd.readouterr().err


def test_off_touches_nothing(place, monkeypatch):
    monkeypatch.setenv("PARTITA_TRACKING", "off")
    before = (place / "mlflow.db").read_bytes()
    publish_it(place)
    assert (place / "mlflow.db").read_bytes() == before


@pytest.mark.fault("tracking")
def test_three_at_once_publish_each_result_once(place):
    told, variables = place / "told", {"DVC_ROOT": str(place)}
    at_once = [processes.start(victims.publishing, told, place, variables, ("left", "one")) for _ in range(3)]
    with processes.ending(*at_once):
        assert [processes.finish(one) for one in at_once] == [0] * 3, told.read_text()
    assert told.read_text().count("created") == 2, told.read_text()
    assert sorted(run.info.run_name for run in results()[1]) == ["left", "one"]


def test_many_curves_go_in_one_piece(place):
    rows = [{"step": step, "split": "train", "player": "model", "a": step, "b": 1.0} for step in range(1, 1301)]
    path = place / "experiments/one/training.jsonl"
    artifacts.write_bytes(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
    publish_it(place)
    client, (run,) = results()
    assert [point.value for point in client.get_metric_history(run.info.run_id, "train/a")] == list(range(1, 1301))


def test_configure_takes_the_experiments_of_params():
    needs = publish.configure(params.Params({"experiments": {"b": {}, "a": {}}}), None)
    assert needs.config == publish.Config(("a", "b"))
    assert os.environ.get("MLFLOW_DISABLE_TELEMETRY") == "true"
