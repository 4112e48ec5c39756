"""The figures of `make bench`: rows in reports/benchmarks.json, and the same as text.

A row has a value with its interval, and what it must and should reach; where `aim` lies under `must`, less is better.
Nothing here fails a test: a busy machine is not a bug.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stages.numerics import timing
from stages.pipeline import artifacts

ROOT = Path(__file__).resolve().parents[2]
REPORT = ROOT / "reports/benchmarks.json"
COLUMNS = ("name", "value", "low", "high", "unit", "must", "aim", "verdict")


@dataclass(frozen=True)
class Row:
    name: str
    value: float
    low: float
    high: float
    unit: str
    must: float | None = None
    aim: float | None = None


def of(name: str, values: Iterable[float], unit: str, must: float | None = None, aim: float | None = None) -> Row:
    """The median of the values with its 95 % interval."""
    median = timing.median(list(values))
    return Row(name, median.value, median.low, median.high, unit, must, aim)


def keep(row: Row, path: Path = REPORT) -> None:
    """Put the row into the report, in place of an older one of its name."""
    rows = artifacts.read_json(path) if path.is_file() else []
    rows = [old for old in rows if old["name"] != row.name] + [asdict(row)]
    artifacts.write_json(path, sorted(rows, key=lambda entry: entry["name"]))


def verdict(row: Row) -> str:
    if row.must is None or row.aim is None:
        return ""
    sign = 1 if row.aim >= row.must else -1
    if sign * row.value >= sign * row.aim:
        return "aim"
    return "must" if sign * row.value >= sign * row.must else "MISSED"


def text(rows: Iterable[Row]) -> str:
    """A table for the terminal."""

    def shown(value: Any) -> str:
        return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)

    lines = [COLUMNS, *(tuple(map(shown, (*asdict(row).values(), verdict(row)))) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


Clock = Callable[[], float]


def seconds(function: Callable[[], Any], clock: Clock = time.process_time) -> float:
    """Of this process's CPU, or by another clock."""
    start = clock()
    function()
    return clock() - start


def pairs(
    one: Callable[[], Any], other: Callable[[], Any], num: int, clock: Clock = time.process_time
) -> list[tuple[float, float]]:
    """Seconds of both, in turn, so that what disturbs one disturbs the other; each is warmed up first."""
    one(), other()
    return [(seconds(one, clock), seconds(other, clock)) for _ in range(num)]
