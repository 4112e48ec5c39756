"""One cell of the study: train a family on a network and a tokenisation from one seed, then sample it.

The key is family-network-tokenisation-seed, as `matrix` in study/dvc.yaml makes it. Judging is the stage `study`, so
that another metric trains nothing again.

data/cells/<key>/cell.json        what it is, how it was trained, and its samples (media/cells.py)
                 images_<n>.npy   after n steps
                 log.jsonl        of training
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from stages.media import cells
from stages.pipeline import artifacts, plugins, shards, stage
from stages.pipeline.params import Params, plain
from stages.pipeline.stage import Needs
from stages.training import coding, fitting, labelled, loop
from stages.training.config import TrainConfig
from stages.training.loader import Dataset
from stages.training.model_folder import Loaded
from stages.training.study import Axes


@dataclass(frozen=True)
class Method:
    """A block of `methods`: what a family overrides of the shared sections."""

    model: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    sample: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Config:
    """One cell, resolved."""

    family: str
    network: str
    tokenisation: str
    module: str
    """The tokenisation's file in stages/representations."""
    model: Mapping[str, Any]
    train: TrainConfig
    samplings: tuple[Mapping[str, Any], ...]
    """The family's Sampling for each number of steps."""
    num_samples: int


def configure(params: Params, key: str | None) -> Needs | None:
    family, network, tokenisation, seed = str(key).split("-")
    axes, where = params.block("study", Axes), f"methods.{family}"
    method = params.block(where, Method) if family in params.mapping("methods") else Method()
    module = str(params.mapping(f"representations.{tokenisation}").get("module"))
    loads = (("families", family), ("networks", network), ("representations", module))
    try:
        kind, *_ = [plugins.load(*one) for one in loads]
    except ValueError as problem:
        return params.problem(f"study: {problem}")
    if axes is None or method is None:
        return None
    train = params.shared("train", TrainConfig, {**method.train, "seed": int(seed)}, where=f"{where}.train")
    if train is not None and train.processes != 1:
        params.problem(f"{where}.train.processes = {train.processes}: a cell trains in one; several run side by side")
    model = params.shared("model", kind.Config, {**method.model, "network": network}, where=f"{where}.model")
    stepped = "num_steps" in {one.name for one in fields(kind.Sampling)}
    found = [
        params.shared("sample", kind.Sampling, {**method.sample, **steps}, where=f"{where}.sample")
        for steps in ([{"num_steps": num} for num in axes.num_steps] if stepped else [{}])
    ]
    if train is None or model is None or None in found:
        return None
    samplings = tuple(plain(sampling) for sampling in found)
    return Needs(Config(family, network, tokenisation, module, plain(model), train, samplings, axes.num_samples), loads)


def run(config: Config, cache: Path, cell: Path, work: Path) -> None:
    """Train, going on from `work` where an earlier run was cut off, and sample."""

    def keep(fitted: fitting.Fitted) -> None:
        model, representation = fitted.model, fitted.representation
        test = Dataset(
            shards.Shards(cache / "test", representation.spec.version), representation.spec, representation.view
        )
        with artifacts.new_folder(cell) as draft:
            shutil.copyfile(fitted.log, draft / loop.LOG)
            about = {name: getattr(config, name) for name in ("family", "network", "tokenisation")}
            about |= {"seed": config.train.seed, "model": config.model, "training": plain(config.train)}
            about |= {"selected": plain(fitted.best), "reconstructs": "latent" in model.needs}
            about["num_parameters"] = sum(p.numel() for p in model.parameters())
            loaded = Loaded(model, representation, {})
            about["samples"] = [draw(config, loaded, test, values, draft) for values in config.samplings]
            artifacts.write_json(draft / "cell.json", about)

    task = fitting.Task(config.module, config.family, config.model, config.train)
    fitting.fit(task, cache, None, work, keep)


def draw(config: Config, loaded: Loaded, test: Dataset, values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Write the images of one sampler; its entry."""
    sampling = coding.sampling_of(loaded, values)
    clips = labelled.images(loaded, test.codes[:], config.num_samples, config.train.seed, sampling)
    num_steps = values.get("num_steps", 1)
    kept = cells.write_images(folder, f"images_{num_steps}", clips)
    return {"num_steps": num_steps, "num_function_evaluations": loaded.model.num_function_evaluations(sampling), **kept}


if __name__ == "__main__":
    stage.main(run, work=True)
