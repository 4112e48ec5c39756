"""From a cache to a trained model, for every stage that trains: what a killed run leaves in `work` is gone on from."""

import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stages.pipeline import artifacts, checkpoints, plugins, ranks, shards
from stages.pipeline.params import SCRATCH, parse, plain
from stages.protocols.model import GenerativeModel
from stages.protocols.representation import Representation
from stages.protocols.spec import Statistics
from stages.training import device, loop, model_folder, start
from stages.training.config import TrainConfig
from stages.training.loader import Dataset

Listen = AbstractContextManager[Callable[[loop.Row], None]]


@dataclass(frozen=True)
class Task:
    """What is trained, and how."""

    representation: str
    """The module in stages/representations."""
    family: str
    model: Mapping[str, Any]
    """The family's Config as plain data."""
    train: TrainConfig


@dataclass(frozen=True)
class Fitted:
    """A trained model and what it was made of."""

    task: Task
    model: GenerativeModel
    representation: Representation
    statistics: Statistics
    best: loop.Best
    log: Path

    def save(self, folder: Path, name: str, start_from: str = SCRATCH) -> None:
        """As a model folder, called `name`."""
        task, training = self.task, plain(self.task.train) | {"selected": plain(self.best)}
        facts = model_folder.Facts(name, task.family, task.representation, training, start_from)
        with artifacts.new_folder(folder) as draft:
            shutil.copyfile(self.log, draft / loop.LOG)
            model_folder.save(draft, self.model, self.representation, self.statistics, facts)
        print(f"{folder}: {self.best}", file=sys.stderr)


def fit(
    task: Task,
    cache: Path,
    origin: Path | None,
    work: Path,
    keep: Callable[[Fitted], None],
    live: Listen | None = None,
) -> None:
    """Train from the model folder `origin` or from scratch, then `keep` what came out and clear `work`.

    `live`: inside, rows of the log are heard. Of several ranks the first alone keeps.
    """
    representation = plugins.load("representations", task.representation).load(cache / "representation")
    spec, statistics = representation.spec, shards.load_statistics(cache / "statistics.safetensors")
    train, valid = (
        Dataset(shards.Shards(cache / split, spec.version), spec, representation.view) for split in ("train", "valid")
    )
    with checkpoints.alone(work), device.repeatable(task.train.num_threads):
        torch.manual_seed(task.train.seed)  # the initial weights
        family = plugins.load("families", task.family)
        settings = parse(family.Config, task.model, where="model")
        model = family(settings, spec, statistics, representation.signal)
        if origin is not None:
            part = start.take_over(model, model_folder.load(origin))
            print(f"the {part} is that of {origin}", file=sys.stderr)
        model.to(device.best())
        with live or nullcontext(lambda row: None) as listen:
            best = loop.fit(model, train, valid, task.train, work, listen)
        if not ranks.first():
            return
        keep(Fitted(task, model, representation, statistics, best, work / loop.LOG))
        shutil.rmtree(work)
