"""Train one cell of the audio study: a family on its seed's codec, as long as every other (training/audio_study.py).

The out is a model folder.
"""

from pathlib import Path

from stages.pipeline import stage
from stages.pipeline.params import Params
from stages.training import audio_study, fitting


def configure(params: Params, key: str | None) -> stage.Needs | None:
    cell = audio_study.cell(params, key)
    return cell and stage.Needs(cell.task, cell.plugins)


def run(config: fitting.Task, cache: Path, codec: Path, model: Path, work: Path) -> None:
    """Train, going on from `work` where an earlier run was cut off, and write the model folder."""
    origin = audio_study.codec_name(codec)
    fitting.fit(config, cache, codec, work, lambda fitted: fitted.save(model, model.name, origin))


if __name__ == "__main__":
    stage.main(run, work=True)
