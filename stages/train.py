"""Fit one experiment's model to its representation's cache; the only generative training.

With `train.processes` above 1 the stage starts so many, each of which calls `run` again; where torchrun has started
them already, on one machine or many, it finds itself one of them (pipeline/ranks.py).
"""

import re
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.pipeline import launch, ranks, stage, tracking
from stages.pipeline.params import SCRATCH, Params, plain
from stages.pipeline.stage import Needs
from stages.training import family_config, fitting, start
from stages.training.config import TrainConfig


@dataclass(frozen=True)
class Config:
    """One experiment, resolved."""

    name: str
    representation: str
    """The module in stages/representations."""
    family: str
    model: Mapping[str, Any]
    """The family's Config as plain data."""
    train: TrainConfig
    start_from: str = SCRATCH
    """The experiment whose model fills the part that both have, or scratch."""


def configure(params: Params, key: str | None) -> Needs | None:
    """The experiment `key`, with every name and number checked."""
    experiment = params.experiment(str(key))
    if not re.fullmatch("[a-z0-9_]+", str(key)):
        params.problem(f"experiments.{key}: a name is made of [a-z0-9_]")
    if experiment is None:
        return None
    train = params.shared("train", TrainConfig, experiment.train, where=f"experiments.{key}.train")
    module = params.mapping(f"representations.{experiment.representation}").get("module")
    model = family_config.of(params, str(key), experiment)
    origin = start.checked(params, str(key), experiment, model) if model else None
    if train is None or model is None or origin is None:
        return None
    loads = [("families", experiment.family), ("representations", str(module))]
    loads += [("networks", experiment.network)] if experiment.network else []
    own = Config(str(key), str(module), experiment.family, plain(model), train, experiment.start_from)
    return Needs(own, (*loads, *origin))


def run(config: Config, cache: Path, origin: Path, model: Path, work: Path) -> None:
    """Train, going on from `work` where an earlier run was cut off, and write the model folder.

    `origin`: the model folder to start from, which nobody looks at where config.start_from is scratch.
    """
    if config.train.processes > 1 and not ranks.launched():
        return launch.together(config.train.processes, run, config, cache, origin, model, work)
    with ranks.joined(config.train.processes):
        fit(config, cache, origin, model, work)


def fit(config: Config, cache: Path, origin: Path, model: Path, work: Path) -> None:
    """As one process, or one of the ranks."""
    task = fitting.Task(config.representation, config.family, config.model, config.train)
    begun = None if config.start_from == SCRATCH else origin
    fitting.fit(task, cache, begun, work, lambda of: of.save(model, config.name, config.start_from), live(config, work))


def live(config: Config, work: Path) -> fitting.Listen:
    """Who hears the log's rows while training."""
    return tracking.live(config.name, plain(config), work) if ranks.first() else nullcontext(lambda row: None)


if __name__ == "__main__":
    stage.main(run, work=True)
