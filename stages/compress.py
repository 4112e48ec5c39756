"""Write the test excerpts as real bytes: data/streams/<experiment>/<id>.bin, and index.json with sizes and sha256.

A family without a latent compresses nothing: its index is empty.
"""

from dataclasses import dataclass
from pathlib import Path

from stages.pipeline import artifacts, shards, stage
from stages.pipeline.params import Params
from stages.training import coding, device, model_folder, streams


@dataclass(frozen=True)
class Config:
    """What compress reads of the section `sample`."""

    seed: int = 0
    """Where the streams' seeds start, which drive their reconstructions."""
    entropy_coding: bool = False
    """Range code each stream where that is shorter than a fixed number of bits per code."""


def configure(tree: Params, key: str | None) -> stage.Needs | None:
    experiment, chosen = tree.experiment(str(key)), coding.choose(tree, key)
    if experiment is None or chosen is None:
        return None
    config = tree.shared("sample", Config, experiment.sample, where=f"experiments.{key}.sample")
    return None if config is None else stage.Needs(config, chosen.plugins)


def run(config: Config, test: Path, model: Path, out: Path) -> None:
    loaded = model_folder.load(model, device.best())
    clips = shards.Shards(test, loaded.representation.spec.version)
    with artifacts.new_folder(out) as draft, device.repeatable(num_threads=1):
        streams.write(draft, loaded, clips, config.seed, config.entropy_coding)


if __name__ == "__main__":
    stage.main(run)
