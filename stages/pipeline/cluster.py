"""Units of work on the workers of a Dask cluster: PARTITA_WORKERS=tcp://scheduler:8786, a fact of the machine.

A Dask worker only lends its processor: it runs `python -m stages.pipeline.cluster` in this folder, with this code and
this interpreter, so neither what it has imported, nor its own folder, nor its threads can reach a result; limits of
memory and time hold in that process. So folder, code and environment must lie on a file system that all share, under
the same paths. A *beat*, a file that this process touches, proves that they do: who does not see it is refused, and
who does not see it change for a minute ends, since an orphan would go on writing.

Dask gives the units of a worker that is lost to another one. What kills the lent process itself comes back as LOST.
Units and results are pickles, which travel from this process to the lent one and back and are never a file; whoever
can reach a Dask scheduler can run code on its workers, so keep it within a network that is yours.
"""

import gc
import math
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import stages

if TYPE_CHECKING:
    from distributed import Client, Future

VARIABLE = "PARTITA_WORKERS"
CONNECT_S, WORKERLESS_S = 5, 60
"""How long a scheduler may take to answer, and how long there may be no worker."""
BEAT_S, SILENCE_S = 5.0, 60.0
CHUNKS = 4
"""Per processor: starting Python is paid once for each, and what is lost with a worker is one."""
ONE_THREAD = tuple(f"{name}_NUM_THREADS" for name in ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMBA", "NUMEXPR")) + (
    "VECLIB_MAXIMUM_THREADS",
)
REMEDY = f"mend it, or unset {VARIABLE} to use the processes of this machine"


def address() -> str | None:
    return os.environ.get(VARIABLE) or None


def spread(call: Callable[[Any], Any], units: Sequence[Any]) -> Iterator[Any]:
    """Results in order, as they come. RuntimeError where the cluster cannot be used, BrokenProcessPool for a loss."""
    import cloudpickle

    with connected(str(address())) as client, beating() as beat:
        size = math.ceil(len(units) / (CHUNKS * max(sum(client.nthreads().values()), 1)))  # type: ignore[union-attr]
        packed = [cloudpickle.dumps((call, units[k : k + size])) for k in range(0, len(units), size)]
        for future in [lend(client, beat, data) for data in packed]:
            yield from unpacked(finished(client, future))


@contextmanager
def connected(where: str) -> Iterator["Client"]:
    """A client of the scheduler at `where`, which has at least one worker."""
    client = client_of(where)
    with client:
        staffed(client)
        yield client


def client_of(where: str) -> "Client":
    from distributed import Client

    try:
        return Client(where, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TypeError) as problem:
        told = str(problem) or type(problem).__name__
    gc.collect()  # the half-made client closes now: in the middle of making the next one it would wait for itself
    raise RuntimeError(f"{VARIABLE} = {where}: no Dask scheduler answers there ({told}); {REMEDY}")


def staffed(client: "Client") -> None:
    try:
        client.wait_for_workers(1, timeout=WORKERLESS_S)
    except TimeoutError as problem:
        told = f"the scheduler has had no worker for {WORKERLESS_S} s; start some with `dask worker {address()}`"
        raise RuntimeError(f"{VARIABLE} = {address()}: {told}; {REMEDY}") from problem


@contextmanager
def beating() -> Iterator[Path]:
    """A file under .work that changes for as long as this process lives, and goes with it."""
    folder = Path(".work/cluster").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder)
    os.close(handle)
    over, beat = threading.Event(), Path(name)

    def go_on() -> None:
        while not over.wait(BEAT_S):
            beat.write_text(str(time.monotonic()))

    thread = threading.Thread(target=go_on, daemon=True, name="beat")
    thread.start()
    try:
        yield beat
    finally:
        over.set()
        thread.join()
        beat.unlink(missing_ok=True)


def lend(client: "Client", beat: Path, data: bytes) -> "Future":
    """Have some worker start a process here; it needs none of our code for that."""
    code = Path(stages.__file__).resolve().parent.parent
    root = Path(os.environ.get("DVC_ROOT", ".")).absolute()
    settings = [f"{name}=1" for name in ONE_THREAD] + [f"PYTHONPATH={code}", f"DVC_ROOT={root}"]
    command = ["env", *settings, sys.executable, "-m", __name__, str(beat)]
    return client.submit(subprocess.run, command, input=data, capture_output=True, cwd=str(Path.cwd()), pure=False)


def finished(client: "Client", future: "Future") -> "subprocess.CompletedProcess[bytes]":
    """What the lent process has left."""
    from distributed import KilledWorker

    while True:
        try:
            return future.result(timeout=WORKERLESS_S)  # type: ignore[return-value]
        except TimeoutError:
            staffed(client)
        except KilledWorker as problem:
            raise BrokenProcessPool(str(problem)) from problem
        except CancelledError as problem:
            raise RuntimeError(f"{VARIABLE} = {address()}: the scheduler has gone; {REMEDY}") from problem
        except OSError as problem:
            raise RuntimeError(f"a worker of {address()} cannot start a process here: {problem}; {SHARED}") from problem


SHARED = f"folder, code and .venv must lie on a file system that all workers share, under the same paths; {REMEDY}"


def unpacked(done: "subprocess.CompletedProcess[bytes]") -> Sequence[Any]:
    """Its results, or the error that a unit raised; what it said to stderr is said here too."""
    told = done.stderr.decode(errors="replace")
    if done.returncode < 0:
        raise BrokenProcessPool(f"ended by {signal.Signals(-done.returncode).name}")
    if done.returncode:
        raise RuntimeError(f"a worker of {address()} cannot work here: {told.strip() or done.returncode}; {SHARED}")
    sys.stderr.write(told)
    good, content = pickle.loads(done.stdout)
    if not good:
        raise content
    return content


def main() -> None:
    """The lent process: units from stdin, results to stdout, where nothing else may write."""
    from stages.pipeline.workers import follow

    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    beat = Path(sys.argv[1])
    if not beat.is_file():
        sys.exit(f"{os.uname().nodename} does not see {beat}")
    follow(os.getppid())
    threading.Thread(target=listen, args=(beat,), daemon=True, name="listen").start()
    call, units = pickle.load(sys.stdin.buffer)
    with out:
        out.write(answer(call, units))


def answer(call: Callable[[Any], Any], units: Sequence[Any]) -> bytes:
    """Pickled (True, results) or (False, the error)."""
    import cloudpickle

    try:
        return cloudpickle.dumps((True, [call(unit) for unit in units]))
    except Exception as problem:
        problem.add_note(f"on {os.uname().nodename}:\n{traceback.format_exc()}")
        return cloudpickle.dumps((False, problem))


def listen(beat: Path) -> None:
    """End this process once the beat has gone, or stands still."""
    last, since = "", time.monotonic()
    while True:
        try:
            found = beat.read_text()  # opening it asks a network file system anew, stat might not
        except FileNotFoundError:
            os._exit(1)
        if found != last:
            last, since = found, time.monotonic()
        if time.monotonic() - since > SILENCE_S:
            os._exit(1)
        time.sleep(BEAT_S)


if __name__ == "__main__":
    main()
