"""doctor: what must be mended is found, each with what to do; a sound repository passes."""

import fcntl
import json
import os
import shutil
import socket
import sqlite3
import subprocess
from pathlib import Path

import pytest
from dvc.repo import Repo

from stages.pipeline import doctor

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(tmp_path, monkeypatch):
    for name in ("constraints.txt", "params.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\nstages: {plan: {cmd: x}}\n")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    subprocess.run(["git", "-C", tmp_path, "config", "user.name", "t"], check=True)
    subprocess.run(["git", "-C", tmp_path, "config", "user.email", "t@example.org"], check=True)
    for name in ("MLFLOW_TRACKING_URI", "PARTITA_TRACKING", "GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".dvc/config").write_text(f"[core]\n    site_cache_dir = {tmp_path}/state\n")
    monkeypatch.delenv("DVC_SITE_CACHE_DIR", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    return tmp_path


def found(findings, kind="mend"):
    return [finding.what for finding in findings if finding.kind == kind]


def test_a_sound_repository_has_nothing_to_mend(root):
    findings = [item for item in doctor.examine(root) if "GPU" not in item.what and "GB free" not in item.what]
    assert found(findings) == [] and len(found(findings, "good")) >= 6
    assert all(item.remedy for item in findings if item.kind == "mend")


def test_versions(root):
    text = (root / "constraints.txt").read_text()
    (root / "constraints.txt").write_text(text.replace("joblib==", "joblib==0.0."))
    (finding,) = doctor.versions(root)
    assert finding.kind == "mend" and "joblib" in finding.what and "make install" in finding.remedy


def test_a_missing_library_is_named_and_a_missing_tool_is_not(root):
    text = (root / "pyproject.toml").read_text()
    (root / "pyproject.toml").write_text(
        text.replace('"joblib"', '"no_such-library>=2"').replace('"ruff"', '"no_tool"')
    )
    (finding,) = doctor.versions(root)
    assert finding == doctor.Finding("mend", "not installed: no_such-library", "`make install`")


def test_a_folder_that_cannot_be_written_to(root, monkeypatch):
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: (path, mode) != (root, os.W_OK))
    assert "cannot be written to" in found(doctor.disk(root))[0]


@pytest.mark.parametrize(("free_gb", "kind"), [(0.5, "mend"), (5, "note"), (50, "good")])
def test_disk(root, monkeypatch, free_gb, kind):
    usage = shutil._ntuple_diskusage(1e12, 0, free_gb * 1e9)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    assert [item.kind for item in doctor.disk(root)] == [kind]


def test_more_threads_than_cores_are_noted(root, monkeypatch):
    monkeypatch.setattr(doctor.workers, "num_cores", lambda: 1)
    text = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(text.replace("num_threads:", "num_threads: 9 #"))
    assert found(doctor.threads(root), "note") == ["train.num_threads = 9, 1 cores"]


def test_a_damaged_or_locked_database(root):
    path = root / "mlflow.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE a (b)")
    connection.commit()
    assert found(doctor.mlflow(root)) == []
    connection.execute("BEGIN EXCLUSIVE")
    (what,) = found(doctor.mlflow(root))
    assert "locked" in what
    connection.close()
    path.write_bytes(b"no database at all" * 100)
    (what,) = found(doctor.mlflow(root))
    assert "damaged" in what


def test_a_server_that_is_not_there(root, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed.getsockname()[1]}")
    monkeypatch.setenv("DVC_ROOT", str(root))
    (what,) = found(doctor.mlflow(root))
    assert "127.0.0.1" in what


def test_a_conflict_in_dvc_lock_and_who_holds_the_lock(root):
    (root / "dvc.lock").write_text("<<<<<<< HEAD\na: 1\n=======\na: 2\n>>>>>>> x\n: [")
    owners = {"x": {"write": {"pid": os.getpid(), "cmd": "dvc repro"}}, "y": {"read": [{"pid": 2**30, "cmd": "gone"}]}}
    (root / ".dvc/tmp/rwlock").write_text(json.dumps(owners))
    findings = list(doctor.dvc(root))
    assert found(findings) == ["dvc.lock is not whole"]
    assert found(findings, "note") == [f"dvc works here now: dvc repro (process {os.getpid()})"]
    shutil.rmtree(root / ".dvc")
    assert found(doctor.dvc(root)) == ["no DVC repository"]


def test_results_that_are_not_on_disk(root):
    (root / "data").mkdir()
    (root / "dvc.lock").write_text(
        "stages: {a: {outs: [{path: data}, {path: models/x}]}, b: {outs: [{path: y}]}, c: {}}"
    )
    assert found(doctor.dvc(root), "note") == ["2 results of dvc.lock are not on disk: models/x, y"]


def test_a_damaged_state_of_dvc(root, monkeypatch):
    assert found(doctor.state(root)) == []
    with Repo(str(root)) as repo:
        path = Path(repo.site_cache_dir) / "links/cache.db"
    assert root / "state" in path.parents
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"no database at all" * 100)
    (finding,) = doctor.state(root)
    assert finding.kind == "mend" and str(path) in finding.what and f"rm -r {path.parents[1]}" in finding.remedy
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(root / "state"))
    (finding,) = doctor.state(root)
    assert finding.kind == "mend" and str(root / "state") in finding.what


def test_a_broken_config_of_dvc(root):
    (root / ".dvc/config").write_text("[core\n")
    (what,) = found(doctor.state(root))
    assert "cannot open" in what


def test_dvcs_lock_is_held_by_a_process_or_left_behind(root):
    path = root / ".dvc/tmp/lock"
    path.write_text("123")
    assert found(doctor.dvc(root), "note") == []
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert found(doctor.dvc(root), "note") == ["dvc works here now: a command that holds .dvc/tmp/lock"]


def test_git_without_a_name(root):
    subprocess.run(["git", "-C", root, "config", "--unset", "user.email"], check=True)
    (what,) = found(doctor.identity(root))
    assert "user.email" in what


def test_exit_1_where_something_must_be_mended(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    for kind, code in (("mend", 1), ("note", 0)):
        monkeypatch.setattr(doctor, "examine", lambda path, kind=kind: [doctor.Finding(kind, "what", "remedy")])
        with pytest.raises(SystemExit) as ended:
            doctor.main()
        assert ended.value.code == code
    assert "mend  what: remedy" in capsys.readouterr().out
