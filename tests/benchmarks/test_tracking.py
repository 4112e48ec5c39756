"""A dead tracking server against tracking that is off: what the default training, 1,600 steps, takes in CPU time.

What a dead server costs, it costs once: MLflow is imported, the server tried, and the thread gives up; a row after that
is dropped. So seven steps are trained with it and without, in turn, each in a process of its own that lives until the
thread has ended, and the difference is added to the whole training's time.
"""

import os
import socket
import threading
import time
from pathlib import Path

import pytest

from stages.pipeline import artifacts, params, tracking
from tests.benchmarks import default, table
from tests.faults import processes

pytestmark = pytest.mark.bench
NUM_STEPS, NUM_FIRST, NUM_PAIRS = 7, 3, 6
PATIENCE_S = 40.0


def training(folder: Path, uri: str) -> None:
    """Seconds of CPU that `live` around a few steps takes, and that a step takes, to cost.json."""
    os.environ["PARTITA_TRACKING"] = "on" if uri else "off"
    os.environ |= {"MLFLOW_TRACKING_URI": uri, "DVC_ROOT": str(folder)}
    told: list[tracking.Row] = []
    run, reader = default.ready(folder, told.append)
    batches = [reader.batch(step) for step in range(NUM_STEPS)]
    run.step(0, batches[0])  # what a first step alone pays is not tracking's
    before = set(threading.enumerate())
    begun = time.process_time()
    with tracking.live("bench", params.plain(default.config()), folder) as listen:
        run.listen = listen
        mirrors = set(threading.enumerate()) - before
        for step in range(1, NUM_STEPS):
            if step == NUM_FIRST:
                later = time.process_time()
            run.step(step, batches[step])
        steps_s = time.process_time() - later
    for thread in mirrors:
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "it never gives up"
    cost = {"live_s": time.process_time() - begun, "step_s": steps_s / (NUM_STEPS - NUM_FIRST)}
    artifacts.write_json(folder / "cost.json", cost)


def measured(folder: Path, uri: str) -> dict[str, float]:
    folder.mkdir()
    processes.run(training, folder.with_suffix(".told"), folder, uri)
    return artifacts.read_json(folder / "cost.json")


def test_a_dead_server(figure, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "PATIENCE_S", 600.0)
    measured(tmp_path / "warm", "")
    with socket.create_server(("127.0.0.1", 0)) as hung, socket.create_server(("127.0.0.1", 0)) as closed:
        uris = {kind: f"http://127.0.0.1:{s.getsockname()[1]}" for kind, s in (("refused", closed), ("hung", hung))}
        closed.close()
        rounds = [
            {kind: measured(tmp_path / f"{kind}{number}", uri) for kind, uri in ({"off": ""} | uris).items()}
            for number in range(NUM_PAIRS)
        ]
    num_steps = default.config().train.num_steps
    for kind in uris:
        more = [one[kind]["live_s"] - one["off"]["live_s"] for one in rounds]
        whole = [num_steps * one["off"]["step_s"] for one in rounds]
        ratios = [1 + extra / seconds for extra, seconds in zip(more, whole, strict=True)]
        figure(table.of(f"tracking_{kind}", ratios, "of the default training's CPU time without", 1.02, 1.005))
        figure(table.of(f"tracking_{kind}_once", more, "s CPU more, once"))
