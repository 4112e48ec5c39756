"""Score one experiment's reconstructions and new clips with intervals, and keep what people look at and listen to.

metrics.json holds <name>, <name>_low, <name>_high, <name>_num clips scored, <name>_failures by reason, flat.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.media import audio, excerpts, exhibits, stream_sizes
from stages.networks import instrument_cnn
from stages.numerics import scoring
from stages.pipeline import artifacts, plugins, stage
from stages.pipeline.params import Experiment, Params, leaves, near, plain
from stages.protocols.metric import Evidence
from stages.training import device, family_config


@dataclass(frozen=True)
class Config:
    name: str
    metrics: tuple[str, ...]
    settings: scoring.Settings
    params: Mapping[str, Any]
    """Every number of the experiment by dotted key."""


def configure(params: Params, key: str | None) -> stage.Needs | None:
    experiment = params.experiment(str(key))
    if experiment is None:
        return None
    where = f"experiments.{key}"
    classifiers = params.mapping("classifiers")
    if experiment.classifier not in classifiers:
        hint = near(experiment.classifier, set(classifiers))
        return params.problem(f"{where}.classifier = {experiment.classifier!r}: no such block{hint}")
    settings = params.shared("evaluate", scoring.Settings, experiment.evaluate, where=f"{where}.evaluate")
    block = dict(params.mapping(f"representations.{experiment.representation}"))
    shown = resolved(params, str(key), experiment)
    if settings is None or shown is None:
        return None
    try:
        kind: Any = plugins.load("representations", str(block.get("module")))
        metrics = scoring.chosen(settings, kind.clip)
    except ValueError as problem:
        params.problem(f"{where}: {problem}")
        return None
    shown |= {"evaluate": plain(settings), "representations": {experiment.representation: block}}
    shown |= {
        "split": params.mapping("split"),
        "classifiers": {experiment.classifier: classifiers[experiment.classifier]},
    }
    for section in ("corpora", "renderings"):
        shown[section] = {name: part for name, part in params.mapping(section).items() if name == block.get("corpus")}
    config = Config(str(key), metrics, settings, {name: value for name, value in leaves(shown) if value is not None})
    return stage.Needs(config, tuple(("metrics", name) for name in metrics))


def resolved(params: Params, key: str, experiment: Experiment) -> dict[str, Any] | None:
    """The experiment's numbers: shared sections, its overrides and the family's defaults; None after problems."""
    model = family_config.of(params, key, experiment)
    if model is None:
        return None
    family: Any = plugins.load("families", experiment.family)
    readers = (family.Sampling, plugins.stage("compress").Config, plugins.stage("sample").Own)
    sampling = [params.shared("sample", kind, experiment.sample, where=f"experiments.{key}.sample") for kind in readers]
    if None in sampling:
        return None
    return {
        "representation": experiment.representation,
        "family": experiment.family,
        "classifier": experiment.classifier,
        "start_from": experiment.start_from,
        **({"network": experiment.network} if experiment.network else {}),
        "model": {key: value for key, value in plain(model).items() if key != "network"},
        "train": {**params.mapping("train"), **experiment.train},
        "sample": {key: value for part in sampling for key, value in plain(part).items()},
    }


def run(
    config: Config, references: Path, streams: Path, samples: Path, model: Path, classifier: Path, out: Path
) -> None:
    originals = {clip.id: clip for clip in excerpts.read_references(references)}
    made, about = artifacts.read_json(samples / "manifest.json"), artifacts.read_json(model / "model.json")
    decoded = {item["id"]: audio.read(samples / item["path"], item["id"]) for item in made["reconstructions"]}
    if decoded and (differing := ", ".join(sorted(set(decoded) ^ set(originals)))):
        raise ValueError(f"{samples} and {references} hold different clips: {differing}; run `dvc repro`")
    evidence = Evidence(
        clip=about["clip"],
        pairs=tuple((originals[name], clip) for name, clip in sorted(decoded.items())),
        sets=(tuple(originals.values()), tuple(audio.read(samples / item["path"], item["id"]) for item in made["new"])),
        streams=tuple((size, originals[name].duration_s) for name, size in stream_sizes.read(streams).items()),
        facts={
            "num_parameters": about["num_parameters"],
            "num_function_evaluations": made["num_function_evaluations"],
            "num_resamples": config.settings.num_resamples,
        },
        features=instrument_cnn.load(classifier).features,
        seed=config.settings.seed,
    )
    with artifacts.new_folder(out) as draft, device.repeatable(num_threads=1):
        measures = scoring.measure(config.metrics, evidence)
        artifacts.write_json(draft / "metrics.json", scoring.flat(measures))
        artifacts.write_json(draft / "clips.json", scoring.by_clip(measures))
        training = {f"train.{key}": value for key, value in about["training"].items() if key != "selected"}
        artifacts.write_json(draft / "params.json", {**config.params, **training})
        shutil.copyfile(model / "log.jsonl", draft / "training.jsonl")
        log = list(map(json.loads, (draft / "training.jsonl").read_text().splitlines()))
        of = exhibits.Exhibits(config.name, evidence.pairs, evidence.sets[1], log)
        exhibits.write(draft, of, config.settings.num_shown)


if __name__ == "__main__":
    stage.main(run)
