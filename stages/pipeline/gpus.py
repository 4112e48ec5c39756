"""Which GPUs there are, and who has them: a lock per GPU, so that jobs of one repository never share one."""

import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import takewhile
from pathlib import Path

WATCH_S = 1.0


def visible() -> list[str]:
    """What CUDA_VISIBLE_DEVICES lists before the first name that is none, else every GPU of the driver, if any."""
    if (listed := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return list(takewhile(lambda name: name not in ("", "-1"), map(str.strip, listed.split(","))))
    devices = sorted(Path("/proc/driver/nvidia/gpus").glob("*")) if sys.platform == "linux" else []
    return [str(index) for index in range(len(devices))]


@contextmanager
def leased(num: int) -> Iterator[Sequence[str]]:
    """Inside, `num` of the visible GPUs are this process's, and CUDA_VISIBLE_DEVICES lists them; none without GPUs.

    Waits for others to give theirs back. ValueError where there are fewer.
    """
    found = visible()
    if not found:
        yield ()
        return
    if num > len(found):
        raise ValueError(
            f"train.processes = {num}, but {len(found)} GPUs are visible ({', '.join(found)}): each process needs one; "
            "lower train.processes, list more in CUDA_VISIBLE_DEVICES, or hide all of them with CUDA_VISIBLE_DEVICES="
        )
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    with ExitStack() as held:
        taken = take(num, found, held)
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
        try:
            yield taken
        finally:
            del os.environ["CUDA_VISIBLE_DEVICES"]
            os.environ |= {} if before is None else {"CUDA_VISIBLE_DEVICES": before}


def take(num: int, found: Sequence[str], held: ExitStack) -> list[str]:
    """Lock the first `num` that are free, all or none, so that two who wait never block each other."""
    folder = Path(os.environ.get("DVC_ROOT", ".")) / ".work" / "gpus"
    folder.mkdir(parents=True, exist_ok=True)
    told = False
    while True:
        with ExitStack() as locks:
            free = []
            for name in found:
                lock = locks.enter_context((folder / f"{socket.gethostname()}-{name.replace('/', '-')}.lock").open("w"))
                if len(free) < num and locked(lock.fileno()):
                    free.append(name)
            if len(free) == num:
                held.push(locks.pop_all())
                return free
        if not told:
            print(f"waiting for {num} of the GPUs {', '.join(found)}", file=sys.stderr)
            told = True
        time.sleep(WATCH_S)


def locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
