"""Write the test excerpts as real bytes: data/streams/<experiment>/<id>.bin, and index.json with sizes and sha256.

A family without a latent compresses nothing: its index is empty.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.pipeline import artifacts, shards, stage
from stages.pipeline.params import Params
from stages.protocols.spec import Code
from stages.training import coding, device, model_folder, seeds


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


def run(config: Config, test: Path, model: Path, streams: Path) -> None:
    loaded = model_folder.load(model, device.best())
    clips = shards.Shards(test, loaded.representation.spec.version)
    entries = []
    with artifacts.new_folder(streams) as draft, device.repeatable(num_threads=1):
        for code in sorted(clips, key=lambda code: code.id) if loaded.model.latent is not None else ():
            entries.append(write(draft, code, config, loaded))
        artifacts.write_json(draft / "index.json", {"streams": entries})


def write(folder: Path, code: Code, config: Config, loaded: model_folder.Loaded) -> Mapping[str, Any]:
    """One clip at a time: its bytes must not depend on what else is compressed."""
    (data,) = coding.to_bytes(loaded, [code], [seeds.derive(config.seed, code.id)], config.entropy_coding)
    path = folder / f"{code.id}.bin"
    artifacts.write_bytes(path, data)
    return {"id": code.id, "path": path.name, "num_bytes": len(data), "sha256": artifacts.sha256(path)}


if __name__ == "__main__":
    stage.main(run)
