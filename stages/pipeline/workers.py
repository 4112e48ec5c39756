"""Work units are pure functions of a shard or a piece; this spreads them over processes.

One thread per process: pools of threads inside pools of processes only fight. Results keep the order of the units.
"""

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from joblib import Parallel, delayed, parallel_config

Unit = TypeVar("Unit")
Result = TypeVar("Result")


def num_cores() -> int:
    """Cores this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0))


def map_units(
    function: Callable[[Unit], Result], units: Sequence[Unit], num_workers: int | None = None
) -> list[Result]:
    """Apply a picklable pure function to every unit in worker processes, every core used unless told otherwise."""
    workers = min(num_workers or num_cores(), len(units))
    if workers <= 1:
        return [function(unit) for unit in units]
    with parallel_config(backend="loky", inner_max_num_threads=1):
        return list(Parallel(n_jobs=workers)(delayed(function)(unit) for unit in units))  # type: ignore[arg-type]
