"""A trained model on disk: weights, config, statistics, the representation it speaks, its log and its card.

    models/<experiment>/  model.safetensors  statistics.safetensors  representation/  log.jsonl  README.md  model.json

model.json holds the config, the sha256 of every other file and a digest of itself; `load` checks all of them first.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from stages.pipeline import artifacts, params, plugins, shards
from stages.protocols.model import GenerativeModel
from stages.protocols.representation import Representation
from stages.protocols.spec import Statistics


@dataclass(frozen=True)
class Facts:
    """What a model folder says of itself besides its weights."""

    name: str
    """The experiment."""
    family: str
    representation: str
    """The module in stages/representations."""
    training: Mapping[str, Any]
    """The resolved `train` section, and what was chosen by validation; for the card and the report."""
    start_from: str = params.SCRATCH
    """The experiment whose model it took a part over from."""


@dataclass(frozen=True)
class Loaded:
    """A model ready to use, in eval mode."""

    model: GenerativeModel
    representation: Representation
    facts: Mapping[str, Any]
    """model.json."""


def save(
    folder: Path, model: GenerativeModel, representation: Representation, statistics: Statistics, facts: Facts
) -> None:
    """Fill `folder`, which may hold further files (the log); call it last, inside artifacts.new_folder."""
    weights = {name: value.detach().cpu().clone().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    shards.save_statistics(folder / "statistics.safetensors", statistics)
    representation.save(folder / "representation")
    content = {
        "name": facts.name,
        "family": facts.family,
        "representation": facts.representation,
        "version": representation.spec.version,
        "clip": representation.spec.clip,
        "model": params.plain(model.config),
        "start_from": facts.start_from,
        "training": dict(facts.training),
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "bitrate_kbps": bitrate_kbps(model),
    }
    artifacts.write_bytes(folder / "README.md", card(content).encode())
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    hashes = {path.relative_to(folder).as_posix(): artifacts.sha256(path) for path in files}
    content["sha256"] = hashes
    artifacts.write_json(folder / "model.json", content | {"digest": artifacts.digest(content)})


def load(folder: Path, device: str | torch.device = "cpu") -> Loaded:
    """The model and its representation. Raises Damaged, naming the file and the remedy, where a byte has changed."""
    index = folder / "model.json"
    if not index.is_file():
        raise artifacts.Damaged(f"{index} is missing; {remedy(folder.name)}")
    facts = artifacts.read_json(index)
    if facts.pop("digest", None) != artifacts.digest(facts):
        raise artifacts.Damaged(f"{index} is damaged: its content is not that of its digest; {remedy(folder.name)}")
    for name, expected in facts["sha256"].items():
        artifacts.check(folder / name, expected, remedy(facts["name"]))
    representation = plugins.load("representations", facts["representation"]).load(folder / "representation")
    if representation.spec.version != facts["version"]:
        raise ValueError(
            f"{folder} was trained on version {facts['version'][:12]} of {facts['representation']}, this code makes "
            f"{representation.spec.version[:12]}; {remedy(facts['name'])}"
        )
    family = plugins.load("families", facts["family"])
    config = params.parse(family.Config, facts["model"], where=f"{index} model")
    statistics = shards.load_statistics(folder / "statistics.safetensors")
    model = family(config, representation.spec, statistics, representation.signal)
    model.load_state_dict(artifacts.read_tensors(folder / "model.safetensors", remedy(facts["name"])))
    return Loaded(model.to(device).eval(), representation, facts)


def remedy(name: str) -> str:
    return f"run `dvc repro -f -s train@{name}`"


def bitrate_kbps(model: GenerativeModel) -> float | None:
    """Of the codes in fixed-rate packing, without headers; None where there are none or steps have no duration."""
    codes = model.codes
    if codes is None or codes.num_classes is None or codes.rate_hz is None:
        return None
    return codes.rate_hz * math.prod(codes.frame) * math.ceil(math.log2(codes.num_classes)) / 1000


def card(content: Mapping[str, Any]) -> str:
    """The model card: what a stranger needs who finds this folder alone."""
    name = content["name"]
    rate = content["bitrate_kbps"]
    selected = content["training"].get("selected", {})
    settings = [f"| model.{key} | {value} |" for key, value in sorted(params.leaves(content["model"]))]
    settings += [f"| train.{key} | {value} |" for key, value in sorted(params.leaves(content["training"]))]
    coded = f", which compresses to {rate:.2f} kbit/s in fixed-rate packing" if rate else ""
    origin = began(content["start_from"])
    return f"""---
library_name: partita
tags: [{content["clip"]}, generative, {content["family"]}]
---

# {name}

A generative model of {content["clip"]}: the family `{content["family"]}` on the representation
`{content["representation"]}` (version {content["version"][:12]}), {content["num_parameters"]:,} parameters{coded}.

**Weights.** Moving averages of the parameters; {chosen(selected)}. The curves are in `log.jsonl`.

**Scores.** `reports/experiments/{name}/metrics.json` of the repository that trained it, beside classical codecs in
`reports/baselines/metrics.json`.

**Use.** From a checkout of that repository, with the files of this folder unchanged (their sha256 is checked):

    from pathlib import Path
    from stages.training import model_folder

    loaded = model_folder.load(Path("models/{name}"))
    loaded.model            # loss, generate, and encode, quantise, dequantise where the family has a latent
    loaded.representation   # clip -> code -> clip

**Data and licences.** The corpus is that of the experiment's representation block in params.yaml; its
`data/raw/<corpus>/manifest.json` lists every piece with its licence where known{origin}. Weights trained on it may
carry the same restrictions, and those of the SoundFont where MIDI was rendered.

**Limits.** It knows the sounds of its training corpus and no others; judge it on your own before you rely on it.

| setting | value |
|---|---|
""" + "\n".join([*settings, ""])


def began(start_from: str) -> str:
    if start_from == params.SCRATCH:
        return ""
    return f"; training began with a part of `{start_from}`, whose corpus counts too"


def chosen(selected: Mapping[str, Any]) -> str:
    if selected.get("criterion") is None:
        return "those after the last step (there were no validation clips)"
    return f"those after {selected['num_steps']} steps, where validation had the lowest {selected['criterion']} " + (
        f"({selected['value']:.4g})"
    )
