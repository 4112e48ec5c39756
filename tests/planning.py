"""What `python -m stages.plan` and `dvc status` say of a copy of the repo, without starting Python for each answer."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

from dvc.repo import Repo

from stages import plan
from stages.pipeline import artifacts


def planned(pipeline: Path, code: Path) -> dict[str, Any]:
    """The plan files by path, of the pipeline in this folder and the code in that one."""
    with patch.object(plan, "CODE", code):
        return {path.as_posix(): content for path, content in plan.make(pipeline).items()}


def write(pipeline: Path, code: Path) -> None:
    for path, content in planned(pipeline, code).items():
        artifacts.write_json(pipeline / path, content)


def stale(pipeline: Path) -> set[str]:
    """The stages that `dvc repro` would run first: those whose own dependencies or outs have changed."""
    with Repo(str(pipeline)) as repo:
        return {name.rpartition(":")[2] for name in repo.status()}
