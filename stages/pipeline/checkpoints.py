"""Resume state on disk: whole or not there, checked when read, and the one before it kept in case.

A checkpoint is a folder step_<k> of tensors.safetensors, facts.json and index.json, which holds the sha256 of both. It
appears by one rename; a flipped bit or a missing file makes it damaged, and then the previous one serves. One that is
whole but of another form, other params or another plan is refused with the difference: the work folder's name keeps
them apart, so somebody has put it there.
"""

import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.pipeline import artifacts, ranks

if TYPE_CHECKING:
    from torch import Tensor

NUM_KEPT = 2
FORM = 1
"""Rises when the same files come to mean something else."""
FILES = ("facts.json", "tensors.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """What was saved after `step` steps."""

    step: int
    tensors: Mapping[str, "Tensor"]
    """On the CPU."""
    facts: Any
    """JSON data."""
    made_by: Mapping[str, Any] = field(default_factory=dict)
    """What must be the same for a run that goes on from here; dotted keys, JSON data."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Inside, no other process is inside for the same folder: queued experiments may share a training. Others wait.

    Rank 0 asks for all ranks, which wait for it when they first speak.
    """
    if not ranks.first():
        yield
        return
    with artifacts.alone(folder.with_name(f"{folder.name}.lock"), f"works in {folder}"):
        folder.mkdir(exist_ok=True)
        yield


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write step_<k>, then drop all but the newest two."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in checkpoint.tensors.items()}
    with artifacts.new_folder(folder / f"step_{checkpoint.step:09d}") as draft:
        save_file(tensors, draft / "tensors.safetensors")
        content = {"form": FORM, "made_by": dict(checkpoint.made_by), "facts": checkpoint.facts}
        artifacts.write_json(draft / "facts.json", content)
        artifacts.write_json(draft / "index.json", {name: artifacts.sha256(draft / name) for name in FILES})
    for old in found(folder)[NUM_KEPT:]:
        shutil.rmtree(old)


def found(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    return sorted(folder.glob("step_*"), reverse=True)


def newest(folder: Path, made_by: Mapping[str, Any] | None = None) -> Checkpoint | None:
    """The newest checkpoint that is whole; damaged ones are named on stderr and removed. None where there is none.

    ValueError where it was not made by `made_by`, with the differences.
    """
    for path in found(folder):
        try:
            checkpoint = read(path)
            require_same(path, checkpoint.made_by, made_by or {})
            return checkpoint
        except artifacts.Damaged as problem:
            print(f"{problem}", file=sys.stderr)
            shutil.rmtree(path)
    return None


def read(path: Path) -> Checkpoint:
    """Raises Damaged where a byte is not what was written."""
    remedy = "the checkpoint before it is used instead"
    if not (path / "index.json").is_file():
        raise artifacts.Damaged(f"{path} has no index.json; {remedy}")
    index = artifacts.read_json(path / "index.json")
    for name in FILES:
        artifacts.check(path / name, str(index.get(name)), remedy)
    content = artifacts.read_json(path / "facts.json")
    if not isinstance(content, dict) or content.get("form") != FORM:
        found = content.get("form") if isinstance(content, dict) else None
        raise ValueError(f"{path} has form {found}, this program reads form {FORM}: {remove(path)}")
    tensors = artifacts.read_tensors(path / "tensors.safetensors", remedy)
    return Checkpoint(int(path.name.removeprefix("step_")), tensors, content["facts"], content["made_by"])


def require_same(path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """ValueError with every difference."""
    differing = [
        f"{key} is {there.get(key)!r} there, {here.get(key)!r} here"
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key)
    ]
    if differing:
        raise ValueError(f"{path} is of another training: {'; '.join(differing)}. {remove(path)}")


def remove(path: Path) -> str:
    return f"Delete {path.parent} to train from the start"
