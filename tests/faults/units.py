"""Units of work that end badly; their own module, since every worker process imports it."""

import os
import signal
import time
from pathlib import Path

import numpy as np

from stages import cache
from stages.pipeline import artifacts


def beat(folder: Path, unit: int) -> None:
    """Write for ever."""
    while True:
        with (folder / f"beat_{unit}_{os.getpid()}").open("ab") as file:
            file.write(b".")
        time.sleep(0.01)


def encode(mark: Path, how: str, *arguments: object) -> dict:
    """cache.encode, whose first shard of the train split ends badly once: `mark` is there afterwards."""
    unit = arguments[-1]
    if unit.split == "train" and not mark.exists():
        mark.touch()
        if how == "kill":
            folder = Path(str(arguments[-2]), unit.split)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f".shard_{unit.number:03d}.safetensors.x{artifacts.DRAFT}").write_bytes(b"half of it")
            os.kill(os.getpid(), signal.SIGKILL)
        raise MemoryError
    return ENCODE(*arguments)


ENCODE = cache.encode


def kill_once(mark: Path, worker: int, *arguments: object) -> dict:
    """cache.encode, in the middle of whose first shard this Dask worker is killed."""
    if not mark.exists():
        mark.touch()
        os.kill(worker, signal.SIGKILL)
        time.sleep(1.0)
    return ENCODE(*arguments)


def reciprocal(unit: int) -> float:
    return 1 / unit


def leave(name: str) -> None:
    """A file at a relative path."""
    Path(f"left_{name}").touch()


def deadly(unit: int) -> int:
    """Unit 3 ends its process whenever it is tried."""
    if unit == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return unit * unit


def greedy(unit: int) -> int:
    """Unit 3 asks for 0.2 GB, and unit 4 for ever."""
    if unit == 3:
        return int(np.ones(25_000_000).sum())
    while unit == 4:
        np.ones(1_000_000).sum()
    return unit * unit


def instead(unit: int, reason: str) -> str:
    return reason


def process_of(unit: int) -> int:
    """Where it is done."""
    return os.getpid()
