"""What docs/clusters.md says: a DVC remote (a folder here, s3:// by the same commands), torchrun around the stage."""

import shutil
from pathlib import Path

import pytest

from stages.pipeline import artifacts
from tests.faults import processes
from tests.faults.test_dvc import ENVIRONMENT, NAME, command, made  # noqa: F401 - a fixture


def test_what_was_pushed_is_pulled_by_a_fresh_clone_and_nothing_runs_again(made, tmp_path):  # noqa: F811
    repo = Path(shutil.copytree(made, tmp_path / "repo"))
    command(repo, "dvc", "remote", "add", "-d", "store", str(tmp_path / "store"))
    command(repo, "dvc", "repro")
    command(repo, "git", "add", "-A")
    command(repo, "git", "commit", "-qm", "results")
    command(repo, "dvc", "push")
    shutil.rmtree(repo / ".dvc/cache")  # nothing can come from there by accident
    command(tmp_path, "git", "clone", "-q", str(repo), "clone")
    clone = tmp_path / "clone"
    assert not (clone / "models" / NAME).exists()
    command(clone, "dvc", "pull")
    assert processes.bytes_of(clone / "models") == processes.bytes_of(repo / "models")
    assert "up to date" in command(clone, "dvc", "status")
    assert "up to date" in command(clone, "dvc", "repro")
    assert not (clone / ".work").exists(), "nothing was trained"


@pytest.mark.slow
def test_ranks_that_torchrun_started_make_what_the_stage_would_and_dvc_takes_it(made, tmp_path, monkeypatch):  # noqa: F811
    """On several machines the stage cannot start its ranks; the numbers are the same, and so are the bytes."""
    own, theirs = (Path(shutil.copytree(made, tmp_path / name)) for name in ("own", "theirs"))
    for repo in (own, theirs):
        plan = artifacts.read_json(repo / f"data/plan/train/{NAME}.json")
        plan["config"]["train"]["processes"] = 2
        artifacts.write_json(repo / f"data/plan/train/{NAME}.json", plan)
    command(own, "dvc", "repro")
    monkeypatch.setitem(ENVIRONMENT, "GLOO_SOCKET_IFNAME", "lo")
    words = "torchrun --standalone --local-addr 127.0.0.1 --nproc-per-node 2 -m stages.train"
    command(theirs, *words.split(), NAME)
    assert processes.bytes_of(theirs / "models" / NAME) == processes.bytes_of(own / "models" / NAME)
    command(theirs, "dvc", "commit", "--force", f"train@{NAME}")
    assert "up to date" in command(theirs, "dvc", "status")
