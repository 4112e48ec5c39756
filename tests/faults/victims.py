"""What the processes do that are killed, starved and poisoned; fakes in place of plugins, the rest as in the stages."""

import functools
import os
import resource
import shutil
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - so is this
import safetensors.torch  # noqa: F401 - loaded once, in the process that all others are forked from
import torch
import torch._dynamo  # noqa: F401 - optimisers load it on their first step, in a second

from stages import cache, publish, render, report, sample, train
from stages.media import fetch
from stages.pipeline import checkpoints, params, plugins, tracking, workers
from stages.pipeline.store import Store
from stages.protocols.model import Batch, Loss
from stages.training import fitting, loader, loop
from stages.training.config import TrainConfig
from tests import fakes, synthetic_reports
from tests.faults import units

CONFIG = TrainConfig(
    num_steps=60,
    batch_size=4,
    learning_rate=1e-2,
    num_threads=1,
    seed=3,
    crop_steps=7,
    num_warmup_steps=4,
    log_every=1,
    validate_every=20,
    checkpoint_every=8,
    num_micro_batches=2,
)
KEPT = "kept"
"""The work folder after success, which the stage removes: optimiser state and averages are in it alone."""


def training(
    folder: Path, family: str, depth: int = 2, room: int | None = None, optimizer: str = "adamw", num_steps: int = 60
) -> None:
    """The train stage of one fake experiment in `folder`, which holds its cache; `depth`: batches read ahead.

    `room`: the largest file this process may write, bytes.
    """
    plugins.load = fakes.load
    loop.ahead = functools.partial(loader.ahead, depth=depth)
    fitting.shutil = SimpleNamespace(copyfile=shutil.copyfile, rmtree=lambda work: work.rename(work.with_name(KEPT)))
    if room is not None:
        limit_files(room)
    config = train.Config(
        "fake",
        fakes.PAIRS[family],
        family,
        fakes.plain(family),
        replace(CONFIG, optimizer=optimizer, num_steps=num_steps),
    )
    train.run(config, folder / "cache", Path("models/scratch"), folder / "model", folder / "work")


def ranked(folder: Path, num: int = 2, num_steps: int = 60) -> None:
    """The train stage of a real codec in `num` processes, which it starts itself; folder/cache is there."""
    family = plugins.load("families", "autoencoder")
    small = {"latent_dim": 4, "width": 8, "depth": 1, "num_codebooks": 2, "codebook_size": 16, "code_dim": 4}
    model = params.plain(family.Config(network="convnext", dropout=0.1, **small))
    settings = replace(CONFIG, crop_steps=20, batch_size=3, num_micro_batches=1, processes=num, num_steps=num_steps)
    config = train.Config("ranked", "mdct", "autoencoder", model, settings)
    train.run(config, folder / "cache", Path("models/scratch"), folder / "model", folder / "work")


def limit_files(num_bytes: int) -> None:
    """Writing beyond fails as on a full disk: EFBIG, since Python ignores SIGXFSZ."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))


def saving(folder: Path, step: int, die_at: int) -> None:
    """Save a checkpoint, and die by SIGKILL at the `die_at`-th time that a file or folder is touched on the way."""
    touched = 0

    def listen(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal touched
        if event in TOUCHES and str(folder) in str(arguments[0]):
            touched += 1
            if touched == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(listen)
    checkpoints.save(folder, checkpoint(step))


TOUCHES = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "shutil.rmtree", "tempfile.mkdtemp"}


def checkpoint(step: int) -> checkpoints.Checkpoint:
    """Its numbers tell its step."""
    return checkpoints.Checkpoint(
        step, {"a": torch.full((1000,), float(step)), "b": torch.arange(step)}, {"step": step}
    )


def poisoned(folder: Path, kind: str) -> None:
    """Training in which one clip's loss, or its gradient alone, is not finite after 30 steps."""
    plain = fakes.Coupling.loss

    def loss(self: fakes.Coupling, batch: Batch, player: str, step: int) -> Loss:
        found = plain(self, batch, player, step)
        zero = 0 * next(self.parameters()).sum()
        wrong = zero.sqrt() if kind == "gradient" else zero / 0  # 0 of infinite slope, or NaN
        bad = torch.stack([wrong if name == "sound2" and step >= 30 else zero for name in batch.ids])
        return replace(found, total=found.total + bad)

    fakes.Coupling.loss = loss
    training(folder, "coupling")


def encode_cache(folder: Path, room: int | None = None) -> None:
    """The cache stage on folder/audio, with the real MDCT."""
    if room is not None:
        limit_files(room)
    config = cache.Config("mdct", {"num_bins": 64}, 4)
    cache.run(config, folder / "audio", folder / "split", folder / "cache")


def rendering(folder: Path, room: int | None = None) -> None:
    """The render stage on folder/raw in one worker, which keeps what it finishes in folder/store."""
    workers.num_cores = lambda: 1
    if room is not None:
        limit_files(room)
    render.run(render.Config(), folder / "raw", folder / "audio", Store(folder / "store", "code"))


def sampling(folder: Path, room: int | None = None) -> None:
    """The sample stage on folder/model, which makes new clips."""
    plugins.load = fakes.load
    if room is not None:
        limit_files(room)
    config = sample.Config(sample.Own(6, 1.0, 5), params.plain(fakes.Energy.Sampling()))
    sample.run(config, folder / "streams", folder / "model", folder / "samples")


def reporting(folder: Path, room: int | None = None) -> None:
    """The report stage on a synthetic tree of results."""
    if room is not None:
        limit_files(room)
    inputs = (folder / name for name in ("experiments", "baselines", "speed"))
    outs = (folder / name for name in ("index.html", "assets", "leaderboard.json"))
    report.run(report.Config(synthetic_reports.EXPERIMENTS, ()), *inputs, *outs)


def beating(folder: Path, num: int) -> None:
    """So many workers that write for ever."""
    guard = workers.Guard(1.0, 600, units.instead)
    workers.map_units(functools.partial(units.beat, folder), range(num), num_workers=num, guard=guard)


def waiting(work: Path) -> None:
    """Be alone in a work folder until killed."""
    with checkpoints.alone(work):
        (work / "entered").touch()
        time.sleep(600)


def fetching(*arguments: object) -> None:
    """One file over https."""
    fetch.fetch(*arguments)


def tracked(folder: Path, uri: str) -> None:
    """Training that tells a server of its curves and, once that has some, waits until it is gone."""
    os.environ |= {"MLFLOW_TRACKING_URI": uri, "DVC_ROOT": str(folder), "PARTITA_TRACKING": "on"}
    add = tracking.LiveRun.add

    def told(run: tracking.LiveRun, rows: Sequence[tracking.Row], status: str) -> None:
        add(run, rows, status)
        (folder / "seen").touch()

    tracking.LiveRun.add = told
    note = loop.Run.note

    def slowly(run: loop.Run, row: loop.Row) -> None:
        note(run, row)
        while row["step"] == 30 and server_lives(uri):
            time.sleep(0.05)

    loop.Run.note = slowly
    training(folder, "recurrent")


def publishing(place: Path, variables: Mapping[str, str], experiments: tuple[str, ...]) -> None:
    """The publish stage on the results in `place`."""
    in_the_open(variables)
    publish.run(publish.Config(experiments), place / "experiments", place / "speed")


def connecting(variables: Mapping[str, str]) -> None:
    """Find MLflow's database, or make it."""
    in_the_open(variables)
    tracking.connect()


def told_of(name: str, variables: Mapping[str, str]) -> None:
    """A run that stays open until it is killed, after its first point."""
    in_the_open(variables)
    with tracking.live(name, {}, Path(name)) as listen:
        listen({"step": 1, "split": "train", "player": "model", "loss": 1.0})
        time.sleep(600)


def in_the_open(variables: Mapping[str, str]) -> None:
    """Tracking on, its environment as told and nothing of before."""
    for name in ("MLFLOW_TRACKING_URI", "PARTITA_TRACKING", "DVC_EXP_NAME", "DVC_ROOT"):
        os.environ.pop(name, None)
    os.environ |= variables


def server_lives(uri: str) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", int(uri.rsplit(":", 1)[1])), 1.0):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    ranked(Path(sys.argv[1]))
