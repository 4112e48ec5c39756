"""Train one cell of the audio study: a family on its seed's codec, as long as every other (training/audio_study.py).

The out is a model folder.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.pipeline import stage
from stages.pipeline.params import Params, plain
from stages.pipeline.stage import Needs
from stages.training import audio_study, fitting, model_folder
from stages.training.config import TrainConfig


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


def run(config: Config, cache: Path, codec: Path, model: Path, work: Path) -> None:
    """Train, going on from `work` where an earlier run was cut off, and write the model folder."""

    def keep(fitted: fitting.Fitted) -> None:
        about = plain(config.train) | {"selected": plain(fitted.best)}
        fitted.save(model, model_folder.Facts(config.name, config.family, config.module, about, codec.name))

    fitting.fit(fitting.Task(config.module, config.family, config.model, config.train), cache, codec, work, keep)


if __name__ == "__main__":
    stage.main(run, work=True)
