"""MLflow, and the only import of it: a mirror of files that are the truth, which can never stall or stop a stage.

Live curves of a training run go to the experiment "live" through a bounded queue and a daemon thread: a full
queue drops rows, three failures in a row stop the thread, and leaving waits a few seconds at most. Results go to the
experiment "results", one run per key (publish.py). PARTITA_TRACKING=off turns all of it off.

The server is MLFLOW_TRACKING_URI, else a sqlite file in $DVC_ROOT, whose creation is not safe for two processes at
once: a file lock goes around it. A live run holds another lock while its process lives; a RUNNING run whose lock is
free was killed, and the next client says so.
"""

import contextlib
import fcntl
import logging
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.pipeline import artifacts
from stages.pipeline.params import leaves

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

LIVE, RESULTS = "live", "results"
TIMEOUT_S = 5
NUM_FAILURES = 3
QUEUE_LENGTH = 1000
BATCH = 1000
"""Metrics per request: the most MLflow takes; params and tags: 100."""
KEY, SPEED, WORK, HOST = "partita.key", "partita.speed", "partita.work", "partita.host"
Row = Mapping[str, Any]


class Unreachable(RuntimeError):
    """The tracking server or database did not answer, or refused."""


@dataclass(frozen=True)
class Result:
    """One experiment's results, as publish mirrors them."""

    name: str
    key: str
    """Digest of name, params and result files: equal results are one run."""
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    curves: Sequence[Row]
    """Rows of the training log."""
    artifacts: Sequence[tuple[Path, str]]
    """Folders and where they go in the run."""
    speed: Mapping[str, float] = field(default_factory=dict)
    """Timings, which vary without being another result."""


def wanted() -> bool:
    return os.environ.get("PARTITA_TRACKING", "on").lower() not in ("off", "0", "false", "no")


def root() -> Path:
    """Where the database, the artifacts and the locks are: the repository, also for stages run in a temporary copy."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Turn whatever tracking fails with into Unreachable."""
    from alembic.util.exc import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, CommandError, OSError) as problem:  # requests' errors are OSErrors
        raise Unreachable(f"{type(problem).__name__}: {str(problem).splitlines()[0][:200]}") from problem


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def connect() -> "MlflowClient":
    """A client with short timeouts; the database is made under a lock, and killed runs are marked."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(TIMEOUT_S))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of every table it makes
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root() / 'mlflow.db'}"
    with guarded(), locked(root() / ".work" / "mlflow.lock"):
        client = MlflowClient(tracking_uri=uri)
        for name in (LIVE, RESULTS):
            if client.get_experiment_by_name(name) is None:
                place = None if uri.startswith("http") else (root() / "mlartifacts" / name).as_uri()
                client.create_experiment(name, artifact_location=place)
        reconcile(client)
    return client


def runs(client: "MlflowClient", experiment: str, condition: str) -> list["Run"]:
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id], condition, max_results=100)) if found else []


def host() -> str:
    """Machine and repository: a process can judge only the runs of its own to be dead."""
    return f"{socket.gethostname()}:{root()}"


def lock_of(run_id: str) -> Path:
    return root() / ".work" / "live" / f"{run_id}.lock"


def reconcile(client: "MlflowClient") -> None:
    """Mark live runs of this machine whose process is gone as KILLED."""
    for run in runs(client, LIVE, f"attributes.status = 'RUNNING' and tags.`{HOST}` = '{host()}'"):
        path = lock_of(run.info.run_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
        client.set_terminated(run.info.run_id, "KILLED")
        path.unlink(missing_ok=True)


def curve(row: Row, timestamp_ms: int) -> list["Metric"]:
    """One row of the training log as points of MLflow curves; the only player needs no name."""
    from mlflow.entities import Metric

    where = row["split"] if row["player"] == "model" else f"{row['split']}/{row['player']}"
    values = {name: value for name, value in row.items() if name not in ("step", "split", "player")}
    return [Metric(f"{where}/{name}", float(value), timestamp_ms, row["step"]) for name, value in values.items()]


@contextlib.contextmanager
def live(name: str, params: Any, work: Path) -> Iterator[Callable[[Row], None]]:
    """Inside, calling with a log row shows it in MLflow some time later, or never; it returns at once and never raises.

    A run that goes on from `work` goes on in the same MLflow run.
    """
    if not wanted():
        yield lambda row: None
        return
    rows: queue.Queue[Row | str] = queue.Queue(QUEUE_LENGTH)
    thread = threading.Thread(target=mirror, args=(name, dict(leaves(params)), work.name, rows), daemon=True)
    thread.start()

    def listen(row: Row) -> None:
        with contextlib.suppress(queue.Full):
            rows.put_nowait(row)

    status = "FAILED"
    try:
        yield listen
        status = "FINISHED"
    except (SystemExit, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        with contextlib.suppress(queue.Full):
            rows.put_nowait(status)
        thread.join(TIMEOUT_S)


def mirror(name: str, params: Mapping[str, Any], work: str, rows: "queue.Queue[Row | str]") -> None:
    """The thread: batches of rows to MLflow until a status ends it, or too many failures do."""
    with contextlib.ExitStack() as stack:
        try:
            run = LiveRun.open(connect(), name, params, work, stack)
        except Unreachable as problem:
            print(f"live tracking is off: {problem}", file=sys.stderr)
            return
        failures, status = 0, ""
        while not status and failures < NUM_FAILURES:
            batch, status = drain(rows)
            try:
                run.add(batch, status)
                failures = 0
            except Unreachable as problem:
                failures += 1
                print(f"live tracking failed {failures} of {NUM_FAILURES} times: {problem}", file=sys.stderr)
        lock_of(run.id).unlink(missing_ok=True)


class LiveRun:
    """One MLflow run that grows while a model trains."""

    def __init__(self, client: "MlflowClient", run_id: str, is_new: bool) -> None:
        self.client = client
        self.id = run_id
        self.is_new = is_new
        self.last_step: dict[str, int] = {}

    @classmethod
    def open(
        cls, client: "MlflowClient", name: str, params: Mapping[str, Any], work: str, stack: contextlib.ExitStack
    ) -> "LiveRun":
        """The unfinished run begun from the same work folder, else a new one; its lock is held until `stack` ends."""
        with guarded(), locked(root() / ".work" / "mlflow.lock"):
            begun = runs(client, LIVE, f"tags.`{WORK}` = '{work}' and attributes.status != 'FINISHED'")
            if begun:
                run_id = begun[0].info.run_id
                client.update_run(run_id, status="RUNNING")
                client.set_tag(run_id, HOST, host())
            else:
                run_id = create(client, LIVE, name, {WORK: work, HOST: host()})
            stack.enter_context(locked(lock_of(run_id)))
        if not begun:
            with guarded():
                log_params(client, run_id, params)
        return cls(client, run_id, not begun)

    def add(self, rows: Sequence[Row], status: str) -> None:
        """Log the points that the run does not have, and its end where there is a status."""
        with guarded():
            points = [point for row in rows for point in curve(row, time.time_ns() // 1_000_000)]
            log_points(self.client, self.id, [point for point in points if point.step > self._last(point.key)])
            if status:
                self.client.set_terminated(self.id, status)

    def _last(self, key: str) -> int:
        """The last step of a curve when this process took the run up."""
        if self.is_new:
            return 0
        if key not in self.last_step:
            history = self.client.get_metric_history(self.id, key)
            self.last_step[key] = max((point.step for point in history), default=0)
        return self.last_step[key]


def drain(rows: "queue.Queue[Row | str]") -> tuple[list[Row], str]:
    """All rows waiting, at least one, and the final status if it was among them."""
    batch: list[Row] = []
    item = rows.get()
    while True:
        if isinstance(item, str):
            return batch, item
        batch.append(item)
        try:
            item = rows.get_nowait()
        except queue.Empty:
            return batch, ""


def create(client: "MlflowClient", experiment: str, name: str, tags: Mapping[str, str]) -> str:
    named = {"DVC_EXP_NAME": os.environ["DVC_EXP_NAME"]} if os.environ.get("DVC_EXP_NAME") else {}
    found = client.get_experiment_by_name(experiment)
    assert found is not None, "connect makes both experiments"
    return client.create_run(found.experiment_id, run_name=name, tags={**tags, **named}).info.run_id


def log_params(client: "MlflowClient", run_id: str, params: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    entries = [Param(key, str(value)) for key, value in params.items()]
    for first in range(0, len(entries), 100):
        client.log_batch(run_id, params=entries[first : first + 100])


def log_points(client: "MlflowClient", run_id: str, points: Sequence["Metric"]) -> None:
    for first in range(0, len(points), BATCH):
        client.log_batch(run_id, metrics=list(points[first : first + BATCH]))


def upsert(client: "MlflowClient", result: Result) -> str:
    """Bring one result into MLflow unless it is there whole. Returns created, kept or timed (new timings only)."""
    from mlflow.entities import Metric

    now = time.time_ns() // 1_000_000
    speed = [Metric(name, float(value), now, 0) for name, value in result.speed.items()]
    timed = artifacts.digest(dict(result.speed))
    with guarded(), locked(root() / ".work" / "publish.lock"):
        for run in runs(client, RESULTS, f"attributes.status = 'RUNNING' and tags.`{HOST}` = '{host()}'"):
            client.delete_run(run.info.run_id)  # the lock is ours, so whoever wrote it was killed
        for run in runs(client, RESULTS, f"tags.`{KEY}` = '{result.key}'"):
            if run.info.status != "FINISHED":
                continue  # another machine or repository writes it
            if run.data.tags.get(SPEED) == timed:
                return "kept"
            log_points(client, run.info.run_id, speed)
            client.set_tag(run.info.run_id, SPEED, timed)
            return "timed"
        metrics = [Metric(name, float(value), now, 0) for name, value in result.metrics.items()]
        run_id = create(client, RESULTS, result.name, {KEY: result.key, SPEED: timed, HOST: host()})
        log_params(client, run_id, result.params)
        log_points(client, run_id, [point for row in result.curves for point in curve(row, now)])
        log_points(client, run_id, metrics + speed)
        for path, place in result.artifacts:
            client.log_artifacts(run_id, str(path), place)
        client.set_terminated(run_id, "FINISHED")
        return "created" if settle(client, result.key) == run_id else "kept"


def settle(client: "MlflowClient", key: str) -> str:
    """Keep the oldest finished run of a key, whose id is returned.

    Our lock holds others in this repository alone; of those who write the same result elsewhere at once, the last to
    finish sees all that did.
    """
    found = runs(client, RESULTS, f"tags.`{KEY}` = '{key}' and attributes.status = 'FINISHED'")
    first, *others = sorted((run.info.start_time, run.info.run_id) for run in found)
    for _, other in others:
        client.delete_run(other)
    return first[1]
