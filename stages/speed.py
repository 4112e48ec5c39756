"""Time encoding (audio -> stream bytes) and decoding (stream bytes -> audio) on one CPU thread.

A real-time factor is processing seconds per audio second: 0.01 is 100 times real time. After a warm-up each round takes
every excerpt once, encoding and decoding in turn; reported is the median of CPU time over excerpts and rounds with its
95 % interval. Not byte-deterministic, so apart from everything that is hashed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.media import excerpts
from stages.pipeline import artifacts, stage
from stages.pipeline.params import Params
from stages.training import coding, coding_speed, device, model_folder

NUM_EXCERPTS, NUM_ROUNDS = 6, 3


@dataclass(frozen=True)
class Config:
    sampling: Mapping[str, Any]
    """The family's Sampling."""
    entropy_coding: bool


@dataclass(frozen=True)
class Own:
    """What speed reads of the section `sample` besides the family's Sampling."""

    entropy_coding: bool = False


def configure(tree: Params, key: str | None) -> stage.Needs | None:
    experiment, chosen = tree.experiment(str(key)), coding.choose(tree, key)
    if experiment is None or chosen is None:
        return None
    own = tree.shared("sample", Own, experiment.sample, where=f"experiments.{key}.sample")
    return None if own is None else stage.Needs(Config(chosen.sampling, own.entropy_coding), chosen.plugins)


def run(config: Config, references: Path, model: Path, out_json: Path) -> None:
    loaded = model_folder.load(model, "cpu")
    clips = excerpts.read_references(references)[:NUM_EXCERPTS]
    found: dict[str, Any] = {"num_threads": 1, "audio_s": sum(clip.duration_s for clip in clips)}
    if loaded.model.latent is not None:
        with device.repeatable(num_threads=1):
            sampling = coding.sampling_of(loaded, config.sampling)
            found |= coding_speed.measure(loaded, clips, sampling, config.entropy_coding, NUM_ROUNDS)
    artifacts.write_json(out_json, found)


if __name__ == "__main__":
    stage.main(run)
