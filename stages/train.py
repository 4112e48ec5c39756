"""Fit one experiment's model to its representation's cache; the only generative training.

With `train.processes` above 1 the stage starts so many, each of which calls `run` again; where torchrun has started
them already, on one machine or many, it finds itself one of them (pipeline/ranks.py).
"""

import dataclasses
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
from stages.pipeline.params import Experiment, Params, parse, plain
from stages.pipeline.stage import Needs
from stages.training import device, loop, model_folder
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


def configure(params: Params, key: str | None) -> Needs | None:
    """The experiment `key`, with every name and number checked."""
    experiment = params.experiment(str(key))
    if not re.fullmatch("[a-z0-9_]+", str(key)):
        params.problem(f"experiments.{key}: a name is made of [a-z0-9_]")
    if experiment is None:
        return None
    train = params.shared("train", TrainConfig, experiment.train, where=f"experiments.{key}.train")
    module = params.mapping(f"representations.{experiment.representation}").get("module")
    model = model_config(params, str(key), experiment)
    if train is None or model is None:
        return None
    loads = [("families", experiment.family), ("representations", str(module))]
    loads += [("networks", experiment.network)] if experiment.network else []
    return Needs(Config(str(key), str(module), experiment.family, plain(model), train), tuple(loads))


def model_config(params: Params, key: str, experiment: Experiment) -> Any | None:
    """The family's Config from the shared section `model` and the experiment; its `network` is the experiment's."""
    where = f"experiments.{key}"
    try:
        family = plugins.load("families", experiment.family)
    except ValueError as problem:
        params.problem(f"{where}.family: {problem}")
        return None
    takes_network = "network" in {field.name for field in dataclasses.fields(family.Config)}
    if takes_network != (experiment.network is not None):
        verb = "runs on a network, name one of " + ", ".join(plugins.names("networks"))
        params.problem(f"{where}.network: {experiment.family} {verb if takes_network else 'takes none, remove it'}")
        return None
    if experiment.network is not None and experiment.network not in plugins.names("networks"):
        names = ", ".join(plugins.names("networks"))
        params.problem(f"{where}.network = {experiment.network!r}: there is no such network; there are {names}")
        return None
    overrides = dict(experiment.model) | ({"network": experiment.network} if takes_network else {})
    return params.shared("model", family.Config, overrides, where=f"{where}.model")


def run(config: Config, cache: Path, model: Path, work: Path) -> None:
    """Train, going on from `work` where an earlier run was cut off, and write the model folder."""
    if config.train.processes > 1 and not ranks.launched():
        return launch.together(config.train.processes, run, config, cache, model, work)
    with ranks.joined(config.train.processes):
        fit(config, cache, model, work)


def fit(config: Config, cache: Path, model: Path, work: Path) -> None:
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
        network = family(settings, spec, statistics, representation.signal).to(device.best())
        with live(config, work) as listen:
            best = loop.fit(network, train, valid, config.train, work, listen)
        if not ranks.first():
            return
        with artifacts.new_folder(model) as draft:
            shutil.copyfile(work / loop.LOG, draft / loop.LOG)
            training = plain(config.train) | {"selected": plain(best)}
            facts = model_folder.Facts(config.name, config.family, config.representation, training)
            model_folder.save(draft, network, representation, statistics, facts)
        shutil.rmtree(work)
    print(f"{model}: {best}", file=sys.stderr)


def live(config: Config, work: Path) -> AbstractContextManager[Callable[[loop.Row], None]]:
    """Who hears the log's rows while training."""
    return tracking.live(config.name, plain(config), work) if ranks.first() else nullcontext(lambda row: None)


if __name__ == "__main__":
    stage.main(run, work=True)
