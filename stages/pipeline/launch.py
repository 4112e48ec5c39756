"""Start a stage's work as several ranks on this machine, by torchrun's agent, and see it through.

    a rank is killed        the agent ends the others and starts all again, NUM_RESTARTS times at most; they go on from
                            the last checkpoint
    a rank raises           nothing is tried again: it would come again. The error is raised here
    SIGTERM, SIGINT here    passed on; the ranks agree on the step after which they save, and the exit code is theirs
    this process dies       the ranks are told by the kernel (Linux), and do the same

They meet by files, and gloo talks over the loopback interface, so nothing listens to the network. Ranks of several
machines are started by torchrun itself, see docs/clusters.md; pipeline/ranks.py cannot tell the difference.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from stages.pipeline import gpus, ranks, stage, workers

NUM_RESTARTS = 10
SIGNALS = (signal.SIGTERM, signal.SIGINT)
LOOPBACK = "lo" if sys.platform == "linux" else "lo0"


def together(num: int, run: Callable[..., None], *arguments: Any) -> None:
    """Call run(*arguments), which pickle, in `num` processes. SystemExit with the ranks' code where they stopped early.

    RuntimeError tells what a rank raised, or that too many were lost.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with gpus.leased(num), tempfile.TemporaryDirectory(prefix="partita-ranks-") as name:
        folder = Path(name)
        (folder / "ended").mkdir()
        settings = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=num,
            run_id=folder.name,
            rdzv_backend="c10d",
            rdzv_endpoint=str(folder / "agent"),
            rdzv_configs={"store_type": "file"},
            local_addr="127.0.0.1",
            max_restarts=NUM_RESTARTS,
            signals_to_handle="SIGHUP,SIGQUIT",  # its way with the others gives ranks 30 s to save
        )
        with passed_on(folder / "ended"):
            try:
                codes = elastic_launch(settings, enter)(folder, run, *arguments)
            except ChildFailedError as problem:
                raise RuntimeError(f"the ranks were lost more than {NUM_RESTARTS} times: {problem}") from problem
        finish(folder / "ended", max(codes.values()))


def finish(ended: Path, code: int) -> None:
    """Raise what the ranks ended with."""
    reasons = sorted({path.read_text() for path in ended.glob("rank_*")})
    if reasons:
        raise RuntimeError("; ".join(reasons))
    for path in ended.glob("signal_*"):
        code = code or 128 + int(path.name.removeprefix("signal_"))
    if code:
        sys.exit(code)


def enter(folder: Path, run: Callable[..., None], *arguments: Any) -> int:
    """What each rank does; returns its exit code."""
    agent = os.getppid()
    stage.die_with_parent()
    stage.keep_memory()
    os.setpgid(0, 0)  # Ctrl-C reaches the process that started us, which passes it on: twice would not wait for a save
    if any((folder / "ended").iterdir()):
        return 0  # the agent starts us again whatever happened, and this is not to be tried again
    os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)
    os.environ.setdefault("NCCL_SOCKET_IFNAME", LOOPBACK)
    os.environ[ranks.MEETING] = str(folder / f"ranks_{os.environ['TORCHELASTIC_RESTART_COUNT']}")
    try:
        run(*arguments)
    except SystemExit as stopped:
        if not isinstance(stopped.code, str):
            return int(stopped.code or 0)
        (folder / "ended" / f"rank_{ranks.rank()}").write_text(stopped.code)
        sys.exit(1)
    except ranks.Lost:
        raise
    except Exception as problem:
        traceback.print_exc()
        (folder / "ended" / f"rank_{ranks.rank()}").write_text(f"{type(problem).__name__}: {problem}")
        sys.exit(1)
    finally:
        workers.follow(agent)  # or torch would wait for a dead agent to read what this returns
    return 0


@contextmanager
def passed_on(ended: Path) -> Iterator[None]:
    """Inside, the ranks hear the signals that this process does."""
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number: int, frame: FrameType | None) -> None:
        (ended / f"signal_{number}").touch()
        for child in multiprocessing.active_children():
            if child.pid is not None:
                os.kill(child.pid, number)

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
