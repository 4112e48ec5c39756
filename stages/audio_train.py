"""Train one cell of the audio study: a family from a seed, as long as every other (training/audio_study.py).

The out is a model folder, as `train` leaves it; resuming, repeatability and the loop are the same.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stages.pipeline import artifacts, checkpoints, plugins, shards, stage
from stages.pipeline.params import Params, parse, plain
from stages.pipeline.stage import Needs
from stages.training import audio_study, device, loop, model_folder
from stages.training.config import TrainConfig
from stages.training.loader import Dataset


@dataclass(frozen=True)
class Config:
    name: str
    family: str
    module: str
    """The representation's file in stages/representations."""
    model: Mapping[str, Any]
    train: TrainConfig


def configure(params: Params, key: str | None) -> Needs | None:
    cell = audio_study.cell(params, key)
    if cell is None:
        return None
    return Needs(Config(str(key), cell.family, cell.module, cell.model, cell.train), cell.plugins)


def run(config: Config, cache: Path, model: Path, work: Path) -> None:
    """Train, going on from `work` where an earlier run was cut off, and write the model folder."""
    representation = plugins.load("representations", config.module).load(cache / "representation")
    spec, statistics = representation.spec, shards.load_statistics(cache / "statistics.safetensors")
    train, valid = (
        Dataset(shards.Shards(cache / name, spec.version), spec, representation.view) for name in ("train", "valid")
    )
    with checkpoints.alone(work), device.repeatable(config.train.num_threads):
        torch.manual_seed(config.train.seed)  # the initial weights
        family: Any = plugins.load("families", config.family)
        settings = parse(family.Config, config.model, where="model")
        network = family(settings, spec, statistics, representation.signal).to(device.best())
        best = loop.fit(network, train, valid, config.train, work)
        with artifacts.new_folder(model) as draft:
            shutil.copyfile(work / loop.LOG, draft / loop.LOG)
            about = plain(config.train) | {"selected": plain(best)}
            facts = model_folder.Facts(config.name, config.family, config.module, about)
            model_folder.save(draft, network, representation, statistics, facts)
        shutil.rmtree(work)


if __name__ == "__main__":
    stage.main(run, work=True)
