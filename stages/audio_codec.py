"""Train the codec that every cell of one seed starts from (training/audio_study.py); the out is a model folder."""

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
    codec = audio_study.codec(params, key)
    if codec is None:
        return None
    return Needs(Config(f"codec_{key}", codec.family, codec.module, codec.model, codec.train), codec.plugins)


def run(config: Config, cache: Path, model: Path, work: Path) -> None:
    """Train, going on from `work` where an earlier run was cut off, and write the model folder."""

    def keep(fitted: fitting.Fitted) -> None:
        about = plain(config.train) | {"selected": plain(fitted.best)}
        fitted.save(model, model_folder.Facts(config.name, config.family, config.module, about))

    fitting.fit(fitting.Task(config.module, config.family, config.model, config.train), cache, None, work, keep)


if __name__ == "__main__":
    stage.main(run, work=True)
