"""The training log: one JSON object per line and logged step, in bytes that depend on the run alone (no clock).

A resumed run cuts the file where its checkpoint was taken and goes on, so that the whole file equals an unbroken run's.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.pipeline.artifacts import Damaged, room_for


class Log:
    """A file of rows, and who else wants them."""

    def __init__(self, path: Path, position: int = 0, sha256: str | None = None) -> None:
        """Go on after `position` bytes of what is there; Damaged where they have not the sha256 of the checkpoint."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self.path = path
        self.file = path.open("r+b")
        kept = self.file.read(position)
        self.sha256 = hashlib.sha256(kept)
        if len(kept) < position or sha256 not in (None, self.sha256.hexdigest()):
            self.file.close()
            raise Damaged(f"{path} is not what its checkpoint says; delete {path.parent} to train from the start")
        self.file.truncate(position)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row; refuses NaN and infinity, which JSON cannot hold."""
        line = json.dumps(row, allow_nan=False).encode() + b"\n"
        with room_for(self.path):
            self.file.write(line)
            self.file.flush()
        self.sha256.update(line)

    def position(self) -> int:
        """Bytes so far, safely on disk."""
        os.fsync(self.file.fileno())
        return self.file.tell()

    def close(self) -> None:
        with room_for(self.path):  # what could not be written is tried again
            self.file.close()


def means(terms: Mapping[str, list[Tensor]]) -> dict[str, float]:
    """The mean over clips of each term, over micro-batches [B] each.

    NaN says that a term does not apply to a clip, infinity that it overflowed: a mean that is not finite is left out.
    """
    values = {name: torch.nanmean(torch.cat(parts).double()) for name, parts in terms.items()}
    return {name: value.item() for name, value in values.items() if value.isfinite()}
