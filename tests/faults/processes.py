"""Real processes that may be killed, at a fraction of what starting Python costs: forked from one that has torch."""

import multiprocessing
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.faults.victims"])
PATIENCE_S = 240.0
"""Longer than anything here takes on a busy machine."""


def start(victim: Callable[..., Any], told: Path, *arguments: Any) -> Any:
    """A process that calls victim(*arguments), which must be importable; its stderr goes to the end of `told`."""
    process = CONTEXT.Process(target=call, args=(victim, told, arguments), daemon=False)
    process.start()
    return process


def call(victim: Callable[..., Any], told: Path, arguments: tuple[Any, ...]) -> None:
    handle = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 2)
    os.environ["PARTITA_TRACKING"] = "off"
    os.setpgid(0, 0)  # so that a signal to its group reaches its workers and nobody else
    try:
        victim(*arguments)
        code = 0
    except SystemExit as problem:
        code = int(problem.code)
    except BaseException:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))  # to tell all of it
        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    os._exit(code)  # as at once as a kill: a process of multiprocessing would wait for the workers of its pools


def finish(process: Any) -> int:
    """Its exit code, as multiprocessing counts: negative for a signal."""
    process.join(PATIENCE_S)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def run(victim: Callable[..., Any], told: Path, *arguments: Any) -> str:
    """Call it in a process that must end well. Returns what it told."""
    process = start(victim, told, *arguments)
    assert finish(process) == 0, told.read_text()
    return told.read_text()


def fail(victim: Callable[..., Any], told: Path, *arguments: Any) -> str:
    """Call it in a process that must end with an error. Returns what it told."""
    process = start(victim, told, *arguments)
    assert finish(process) == 1, told.read_text()
    return told.read_text()


def until(condition: Callable[[], Any], process: Any = None, pause_s: float = 0.001) -> Any:
    """Wait for it; the process must live meanwhile."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came"
        assert process is None or process.exitcode is None, f"it ended with {process.exitcode} before"
        time.sleep(pause_s)
    return found


@contextmanager
def ending(*processes: Any):
    """Whatever happens inside, they are gone afterwards."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            (process.join if hasattr(process, "join") else process.wait)(PATIENCE_S)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
