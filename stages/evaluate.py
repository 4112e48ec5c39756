"""Score one experiment's reconstructions and new clips with intervals, and keep what people look at and listen to.

metrics.json is flat: <name>, <name>_low, <name>_high, <name>_num clips scored, <name>_failures by reason. A metric that
could not be computed is absent. Which metrics there are is the content of stages/metrics.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.media import audio, excerpts, exhibits
from stages.networks import instrument_cnn
from stages.numerics import scoring
from stages.pipeline import artifacts, plugins, stage
from stages.pipeline.params import OVERRIDES, Params, leaves, near
from stages.protocols.metric import Evidence


@dataclass(frozen=True)
class Settings:
    """The section `evaluate`."""

    num_resamples: int = 1000
    """Of the bootstrap."""
    num_shown: int = 4
    """Clips kept for the report and MLflow, with a figure each."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_resamples < 2 or self.num_shown < 0:
            raise ValueError("num_resamples must be at least 2 and num_shown at least 0")


@dataclass(frozen=True)
class Config:
    name: str
    metrics: tuple[str, ...]
    settings: Settings
    params: Mapping[str, Any]
    """Every number of the experiment by dotted key, as the report and MLflow show them."""


def configure(params: Params, key: str | None) -> stage.Needs | None:
    experiment = params.experiment(str(key))
    if experiment is None:
        return None
    where = f"experiments.{key}"
    known = set(params.mapping("classifiers"))
    if experiment.classifier not in known:
        params.problem(
            f"{where}.classifier = {experiment.classifier!r}: no such block{near(experiment.classifier, known)}"
        )
    settings = params.shared("evaluate", Settings, experiment.evaluate, where=f"{where}.evaluate")
    names = tuple(plugins.names("metrics"))
    if settings is None:
        return None
    config = Config(str(key), names, settings, shown(params, str(key)))
    return stage.Needs(config, tuple(("metrics", name) for name in names))


def shown(params: Params, name: str) -> dict[str, Any]:
    """The experiment's block, its overrides laid over the shared sections, and its representation's block."""
    block = dict(params.mapping(f"experiments.{name}"))
    tree = {key: value for key, value in block.items() if key not in OVERRIDES}
    tree |= {key: {**params.mapping(key), **block.get(key, {})} for key in OVERRIDES}
    representation = str(block.get("representation"))
    tree["representations"] = {representation: params.mapping(f"representations.{representation}")}
    return dict(sorted(leaves(tree)))


def run(
    config: Config, references: Path, streams: Path, samples: Path, model: Path, classifier: Path, out: Path
) -> None:
    originals = {clip.id: clip for clip in excerpts.read_references(references)}
    made = artifacts.read_json(samples / "manifest.json")
    decoded = {item["id"]: audio.read(samples / item["path"], item["id"]) for item in made["reconstructions"]}
    new = [audio.read(samples / item["path"], item["id"]) for item in made["new"]]
    about = artifacts.read_json(model / "model.json")
    sizes = {item["id"]: item["num_bytes"] for item in artifacts.read_json(streams / "index.json")["streams"]}
    evidence = Evidence(
        clip=about["clip"],
        pairs=tuple((originals[name], decoded[name]) for name in sorted(decoded)),
        sets=(tuple(originals.values()), tuple(new)),
        streams=tuple((sizes[name], originals[name].duration_s) for name in sorted(sizes)),
        facts={
            "num_parameters": about["num_parameters"],
            "num_function_evaluations": made["num_function_evaluations"],
            "num_resamples": config.settings.num_resamples,
        },
        features=instrument_cnn.load(classifier).features,
        seed=config.settings.seed,
    )
    measures = scoring.measure(config.metrics, evidence)
    with artifacts.new_folder(out) as draft:
        artifacts.write_json(draft / "metrics.json", scoring.flat(measures))
        artifacts.write_json(
            draft / "clips.json", {name: dict(m.per_clip) for name, m in measures.items() if m.per_clip}
        )
        artifacts.write_json(draft / "params.json", dict(config.params))
        shutil.copyfile(model / "log.jsonl", draft / "training.jsonl")
        log = [json.loads(line) for line in (model / "log.jsonl").read_text().splitlines()]
        exhibits.write(draft, exhibits.Exhibits(config.name, evidence.pairs, new, log), config.settings.num_shown)


if __name__ == "__main__":
    stage.main(run)
