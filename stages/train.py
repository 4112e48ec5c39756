"""Fit one experiment's model to its representation's cache; the only generative training.

With `train.processes` above 1 the stage starts so many, each of which calls `run` again; where torchrun has started
them already, on one machine or many, it finds itself one of them (pipeline/ranks.py).
"""

import re
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stages.pipeline import artifacts, checkpoints, launch, plugins, ranks, shards, stage, tracking
from stages.pipeline.params import Params, parse, plain
from stages.pipeline.stage import Needs
from stages.training import device, family_config, loop, model_folder, start
from stages.training.config import TrainConfig
from stages.training.loader import Dataset


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
    start_from: str = start.SCRATCH
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
    """As one process, or one of the ranks, of which the first writes."""
    representation = plugins.load("representations", config.representation).load(cache / "representation")
    spec, statistics = representation.spec, shards.load_statistics(cache / "statistics.safetensors")
    train, valid = (
        Dataset(shards.Shards(cache / split, spec.version), spec, representation.view) for split in ("train", "valid")
    )
    with checkpoints.alone(work), device.repeatable(config.train.num_threads):
        torch.manual_seed(config.train.seed)  # the initial weights
        family = plugins.load("families", config.family)
        settings = parse(family.Config, config.model, where="model")
        network = family(settings, spec, statistics, representation.signal)
        if config.start_from != start.SCRATCH:
            part = start.take_over(network, model_folder.load(origin))
            print(f"the {part} is that of {origin}", file=sys.stderr)
        network.to(device.best())
        with live(config, work) as listen:
            best = loop.fit(network, train, valid, config.train, work, listen)
        if not ranks.first():
            return
        with artifacts.new_folder(model) as draft:
            shutil.copyfile(work / loop.LOG, draft / loop.LOG)
            training = plain(config.train) | {"selected": plain(best)}
            facts = model_folder.Facts(config.name, config.family, config.representation, training, config.start_from)
            model_folder.save(draft, network, representation, statistics, facts)
        shutil.rmtree(work)
    print(f"{model}: {best}", file=sys.stderr)


def live(config: Config, work: Path) -> AbstractContextManager[Callable[[loop.Row], None]]:
    """Who hears the log's rows while training."""
    return tracking.live(config.name, plain(config), work) if ranks.first() else nullcontext(lambda row: None)


if __name__ == "__main__":
    stage.main(run, work=True)
