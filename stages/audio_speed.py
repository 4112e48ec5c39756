"""Time one cell's coding on one CPU thread, in every number of steps; apart from everything hashed, since clocks vary.

data/speed/<cell>.json   {"speeds": [{"num_steps", "encode_rtf", "decode_rtf", ..._low, ..._high}]}
"""

from dataclasses import dataclass
from pathlib import Path

from stages.media import excerpts
from stages.pipeline import artifacts, stage
from stages.pipeline.params import Params
from stages.training import audio_study, coding, coding_speed, device, model_folder
from stages.training.audio_study import Sampler

NUM_EXCERPTS, NUM_ROUNDS = 3, 2


@dataclass(frozen=True)
class Config:
    samplers: tuple[Sampler, ...]


def configure(params: Params, key: str | None) -> stage.Needs | None:
    cell = audio_study.cell(params, key)
    if cell is None:
        return None
    first = {sampler.num_steps: sampler for sampler in reversed(cell.samplers)}  # a temperature costs nothing
    return stage.Needs(Config(tuple(first[num] for num in sorted(first))), cell.plugins)


def run(config: Config, references: Path, model: Path, out_json: Path) -> None:
    loaded = model_folder.load(model, "cpu")
    clips, found = excerpts.read_references(references)[:NUM_EXCERPTS], []
    with device.repeatable(num_threads=1):
        for sampler in config.samplers:
            sampling = coding.sampling_of(loaded, sampler.sampling)
            times = coding_speed.measure(loaded, clips, sampling, False, NUM_ROUNDS)
            found.append({"num_steps": sampler.num_steps, **times})
    artifacts.write_json(out_json, {"speeds": found})


if __name__ == "__main__":
    stage.main(run)
