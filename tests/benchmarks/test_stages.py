"""Every stage that meets the corpus, at 1, 10 and 100 times twelve short pieces: time grows with it, memory does not.

Times are CPU seconds of the stage and its workers, without starting them; memory is private,
of the main process or of the largest worker, whichever grew more.
Training does the same number of steps at every size, so its time stays. Rendering stops at ten times, and so does what
follows the excerpts (`compress` to `baseline`), of which a real corpus has no more than params.yaml says.
"""

from pathlib import Path

import pytest

from stages.pipeline import artifacts
from tests.benchmarks import sizes, table
from tests.faults import processes

pytestmark = pytest.mark.bench
FAR, NEAR = (1, 10, 100), (1, 10)
STAGES = {"download": FAR, "render": NEAR, "split": FAR, "cache": FAR, "train": FAR}
STAGES |= {"compress": NEAR, "sample": NEAR, "evaluate": NEAR, "baseline": NEAR}
NUM_REPEATS = 5


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("sizes")
    for size in FAR:
        chain = sizes.Chain(root / str(size), size)
        chain.songs()
        chain.judge()
    return root


def prepare(root: Path, stage: str) -> None:
    """What rendering does not bring at the largest size."""
    if stage == "cache":
        sizes.Chain(root / "100", 100).borrow(sizes.Chain(root / "10", 10))


@pytest.mark.parametrize("stage", STAGES)
def test_cost(figure, root, stage, monkeypatch):
    """In the order of the pipeline: each stage reads what the one before has left."""
    monkeypatch.setattr(processes, "PATIENCE_S", 600.0)
    prepare(root, stage)
    processes.run(sizes.measured, root / f"{stage}.told", root, stage, STAGES[stage], NUM_REPEATS)
    found = artifacts.read_json(root / f"{stage}.json")
    small = found["1"]
    for size in STAGES[stage][1:]:
        (large,) = found[str(size)]
        growth = 1 if stage == "train" else size
        times = [large["cpu_s"] / (growth * one["cpu_s"]) for one in small]
        memory = [max(large[kind] / one[kind] for kind in ("main_mb", "worker_mb") if one[kind]) for one in small]
        told = "of the time at 1x" if growth == 1 else f"of {size} times the time at 1x"
        figure(table.of(f"{stage}_time_{size}x", times, f"{told} ({large['cpu_s']:.2f} s CPU)", must=1.2, aim=1.0))
        unit = f"of the peak at 1x ({large['main_mb']:.0f} MB, workers {large['worker_mb']:.0f} MB)"
        figure(table.of(f"{stage}_memory_{size}x", memory, unit, must=1.2, aim=1.05))
