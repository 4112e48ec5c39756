"""Ranks that train together, without torchrun: forked from a process that has torch, in a fraction of a second."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages.pipeline import ranks
from tests.faults import processes


def run(num: int, folder: Path, function: Callable[..., Any], *arguments: Any) -> list[int]:
    """Call function(*arguments), which must be importable, as each of `num` ranks; their exit codes.

    What rank r says goes to folder/told_r.
    """
    meeting = folder / "meeting"
    started = [
        processes.start(as_rank, folder / f"told_{rank}", rank, num, meeting, function, arguments)
        for rank in range(num)
    ]
    with processes.ending(*started):
        return [processes.finish(process) for process in started]


def as_rank(rank: int, num: int, meeting: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """What torchrun says by the environment, and then the function."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(num), "LOCAL_RANK": str(rank), ranks.MEETING: str(meeting)}
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    with ranks.joined(num):
        function(*arguments)
