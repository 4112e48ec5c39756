"""Work units are pure functions of a shard or a piece; this spreads them over processes, some of which may die.

The processes are this machine's (loky; a single one is the standard library's, which starts in half the time), or with
PARTITA_WORKERS those of a Dask cluster (pipeline/cluster.py); the bytes are the same. One thread per process: pools of
threads inside pools of processes only fight. Results keep the order of the units.

A worker that is killed (out of memory, a crash inside a library) takes its pool with it; one that is only told that
there is no memory does not, but has no result either. The units without a result are then done again, the first of them
alone: if it ends a process of its own too, it is to blame. So every loss brings at least one unit to its end, and what
comes out is what an undisturbed run gives. Workers end with their main process.
"""

import multiprocessing
import os
import reprlib
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, TypeVar

from stages.pipeline import cluster

Unit = TypeVar("Unit")
Result = TypeVar("Result")
LOST = (BrokenProcessPool, MemoryError)
NUM_ATTEMPTS = 2
"""Of a unit alone, before it is given up."""
WATCH_S = 0.1


@dataclass(frozen=True)
class Guard:
    """For units that may do harm, such as strangers' files: limits of each, and what stands for one lost by them."""

    memory_gb: float
    """More than the worker had at the unit's start (Linux)."""
    cpu_s: int
    lost: Callable[[Any, str], Any]
    """(unit, reason) -> its result."""


def num_cores() -> int:
    """Cores this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def map_units(
    function: Callable[[Unit], Result],
    units: Sequence[Unit],
    num_workers: int | None = None,
    guard: Guard | None = None,
) -> list[Result]:
    """Apply a pure function, which can be imported, to every unit in worker processes, on every core unless told else.

    With a guard never in this process. A single unit stays on this machine.
    RuntimeError names a unit that ends its process whenever it is tried.
    """
    workers = min(num_workers or num_cores(), len(units))
    if workers <= 1 and guard is None:
        return [function(unit) for unit in units]
    call = partial(work, function, guard)
    spread = across if cluster.address() and workers > 1 else here
    results: list[Result] = []
    while len(results) < len(units):
        try:
            for result in spread(call, units[len(results) :], workers):
                results.append(result)
        except LOST as problem:
            rest, what = len(units) - len(results), "out of memory" if isinstance(problem, MemoryError) else "killed"
            print(f"a worker process was {what}; {rest} of {len(units)} units are done again", file=sys.stderr)
            results.append(alone(partial(spread, call, workers=1), units[len(results)], guard))
    return results


def here(call: Callable[[Any], Result], units: Sequence[Any], workers: int) -> Iterator[Result]:
    """Results in order, as they come, from this machine's processes."""
    led = partial(following, os.getpid(), call)
    if workers == 1:
        yield from by_one(led, units)
        return
    from joblib import Parallel, delayed, parallel_config

    with parallel_config(backend="loky", inner_max_num_threads=1):
        pool = Parallel(n_jobs=workers, return_as="generator")
        yield from pool(delayed(led)(unit) for unit in units)  # type: ignore[arg-type, misc]


def by_one(call: Callable[[Any], Result], units: Sequence[Any]) -> Iterator[Result]:
    """The same from a single process, which waits for the next units as loky's do."""
    for unit in units:
        pool, number = started()
        try:
            result = pool.submit(call, unit).result()
        except BrokenProcessPool:
            single.cache_clear()
            raise
        except (KeyboardInterrupt, SystemExit):  # else Python would wait for it
            os.kill(number, signal.SIGKILL)
            single.cache_clear()
            raise
        yield result


def started() -> tuple[ProcessPoolExecutor, int]:
    """The single process, which has been heard of, and its id; a new one where the last was killed as it waited."""
    for _ in range(2):
        try:
            with one_thread():
                return single(), single().submit(os.getpid).result()
        except BrokenProcessPool:
            single.cache_clear()
    told = "free some memory; in a script of your own, keep what it does under `if __name__ == '__main__':`"
    raise RuntimeError(f"no worker process starts: {told}")


@cache
def single() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


@contextmanager
def one_thread() -> Iterator[None]:
    """Processes started inside compute in one thread."""
    before = {name: os.environ.get(name) for name in cluster.ONE_THREAD}
    os.environ.update(dict.fromkeys(cluster.ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def across(call: Callable[[Any], Result], units: Sequence[Any], workers: int) -> Iterator[Result]:
    """The same from a cluster's, which has as many as it has."""
    return cluster.spread(call, units)


def alone(spread: Callable[..., Iterator[Result]], unit: Any, guard: Guard | None) -> Result:
    """One unit with nothing beside it."""
    for _ in range(NUM_ATTEMPTS):
        with suppress(*LOST):
            (result,) = spread(units=[unit])
            return result
    reason = f"it ended its process {NUM_ATTEMPTS} times with nothing beside it: out of memory or time, or a crash"
    if guard is None:
        raise RuntimeError(f"{reprlib.repr(unit)}: {reason}; free some memory and run the same command again")
    return guard.lost(unit, reason)


def following(main: int, call: Callable[[Any], Result], unit: Any) -> Result:
    follow(main)
    return call(unit)


def work(function: Callable[[Unit], Result], guard: Guard | None, unit: Unit) -> Result:
    """What a worker does with one unit."""
    if guard is None:
        return function(unit)
    with limits(guard):
        try:
            return function(unit)
        except MemoryError:
            return guard.lost(unit, f"it needs more than {guard.memory_gb:g} GB of memory")


@cache
def follow(main: int) -> None:
    """End this process soon after its main process, however that ends: an orphan would go on writing."""

    def watch() -> None:
        while os.getppid() == main:
            time.sleep(WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="follow").start()


@contextmanager
def limits(guard: Guard) -> Iterator[None]:
    """Inside, allocations beyond the guard's fail, and the kernel ends the process when its CPU time is over."""
    kinds = (resource.RLIMIT_CPU, resource.RLIMIT_DATA, resource.RLIMIT_CORE)
    before = [resource.getrlimit(kind) for kind in kinds]
    wanted = [int(time.process_time() + guard.cpu_s) + 1, data_bytes() + int(guard.memory_gb * 1e9), 0]
    for kind, limit, (soft, hard) in zip(kinds, wanted, before, strict=True):
        if kind != resource.RLIMIT_DATA or sys.platform == "linux":
            free = soft == resource.RLIM_INFINITY
            resource.setrlimit(kind, (limit if free else min(limit, soft), hard))
    try:
        yield
    finally:
        for kind, limit in zip(kinds, before, strict=True):
            resource.setrlimit(kind, limit)


def data_bytes() -> int:
    """Private memory this process has asked for, as RLIMIT_DATA counts it."""
    if sys.platform != "linux":
        return 0
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[5]) * resource.getpagesize()
