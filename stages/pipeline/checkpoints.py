"""Resume state on disk: whole or not there, checked when read, and the one before it kept in case.

A checkpoint is a folder step_<k> of tensors.safetensors, facts.json and index.json, which holds the sha256 of both. It
appears by one rename; a flipped bit or a missing file makes it damaged, and then the previous one serves.
"""

import fcntl
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.pipeline import artifacts

if TYPE_CHECKING:
    from torch import Tensor

NUM_KEPT = 2
FILES = ("facts.json", "tensors.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """What was saved after `step` steps."""

    step: int
    tensors: Mapping[str, "Tensor"]
    """On the CPU."""
    facts: Any
    """JSON data."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Inside, no other process is inside for the same folder: queued experiments may share a training. Others wait."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another process works in {folder}; waiting for it", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        folder.mkdir(exist_ok=True)
        yield


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write step_<k>, then drop all but the newest two."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in checkpoint.tensors.items()}
    with artifacts.new_folder(folder / f"step_{checkpoint.step:09d}") as draft:
        save_file(tensors, draft / "tensors.safetensors")
        artifacts.write_json(draft / "facts.json", checkpoint.facts)
        artifacts.write_json(draft / "index.json", {name: artifacts.sha256(draft / name) for name in FILES})
    for old in found(folder)[NUM_KEPT:]:
        shutil.rmtree(old)


def found(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    return sorted(folder.glob("step_*"), reverse=True)


def newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; damaged ones are named on stderr and removed. None where there is none."""
    for path in found(folder):
        try:
            return read(path)
        except artifacts.Damaged as problem:
            print(f"{problem}", file=sys.stderr)
            shutil.rmtree(path)
    return None


def read(path: Path) -> Checkpoint:
    """Raises Damaged where a byte is not what was written."""
    from safetensors.torch import load_file

    remedy = "the checkpoint before it is used instead"
    if not (path / "index.json").is_file():
        raise artifacts.Damaged(f"{path} has no index.json; {remedy}")
    index = artifacts.read_json(path / "index.json")
    for name in FILES:
        artifacts.check(path / name, str(index.get(name)), remedy)
    facts = artifacts.read_json(path / "facts.json")
    return Checkpoint(int(path.name.removeprefix("step_")), load_file(path / "tensors.safetensors"), facts)
