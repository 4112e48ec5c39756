"""Train the codec that every cell of one seed starts from (training/audio_study.py); the out is a model folder."""

from pathlib import Path

from stages.pipeline import stage
from stages.pipeline.params import Params
from stages.training import audio_study, fitting


def configure(params: Params, key: str | None) -> stage.Needs | None:
    codec = audio_study.codec(params, str(key))
    return codec and stage.Needs(codec.task, codec.plugins)


def run(config: fitting.Task, cache: Path, model: Path, work: Path) -> None:
    """Train, going on from `work` where an earlier run was cut off, and write the model folder."""
    fitting.fit(config, cache, None, work, lambda fitted: fitted.save(model, audio_study.codec_name(model)))


if __name__ == "__main__":
    stage.main(run, work=True)
