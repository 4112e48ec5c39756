"""What a call costs this process and the workers it has: CPU seconds and private memory.

Private memory is RssAnon, looked at every 20 ms: pages of mapped files are the kernel's to take back. Linux only. A
worker that begins during the call counts from its start, so call once before measuring.
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
EVERY_S = 0.02


@dataclass(frozen=True)
class Cost:
    cpu_s: float
    main_mb: float
    worker_mb: float
    """The peaks of this process and of the largest worker; 0 where there was none."""


def of(function: Callable[[], Any]) -> Cost:
    over, peaks = threading.Event(), [(0.0, 0.0)]

    def watch() -> None:
        while not over.wait(EVERY_S):
            peaks.append(memory_mb())

    watcher = threading.Thread(target=watch)
    before = cpu_s()
    watcher.start()
    function()
    peaks.append(memory_mb())
    over.set()
    watcher.join()
    return Cost(cpu_s() - before, *map(max, zip(*peaks, strict=True)))


def memory_mb() -> tuple[float, float]:
    main, *workers = map(private_mb, family())
    return main, max(workers, default=0.0)


def family() -> list[int]:
    """This process and all below it that live."""
    found = [os.getpid()]
    for number in found:
        for path in Path(f"/proc/{number}/task").glob("*/children"):
            found += map(int, read(path).split())
    return found


def cpu_s() -> float:
    """Of this process, of the children it has waited for, and of those that live."""
    ended = os.times()
    return time.process_time() + ended.children_user + ended.children_system + sum(map(alive_cpu_s, family()[1:]))


def alive_cpu_s(number: int) -> float:
    fields = read(Path(f"/proc/{number}/stat")).rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S if fields else 0.0


def private_mb(number: int) -> float:
    for line in read(Path(f"/proc/{number}/status")).splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return 0.0


def read(path: Path) -> str:
    """Empty where the process has ended meanwhile."""
    try:
        return path.read_text()
    except OSError:
        return ""
