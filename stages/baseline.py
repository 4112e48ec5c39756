"""Score what needs no training on the same excerpts: classical codecs, copies, floors and ceilings.

The row `original_halves` is the distance between one half of the originals and the other: what chance alone makes of
the set metrics at half the number of clips.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stages.media import excerpts, exhibits
from stages.media.audio import Clip
from stages.networks import instrument_cnn
from stages.numerics import scoring
from stages.pipeline import artifacts, plugins, stage, workers
from stages.pipeline.params import Params
from stages.protocols.baseline import Coded
from stages.protocols.metric import Evidence

SET_METRICS = ("frechet", "kernel")


@dataclass(frozen=True)
class Block:
    """The section `baselines`."""

    representation: str
    """Whose test excerpts are scored."""
    classifier: str
    num_resamples: int = 1000
    num_shown: int = 4
    seed: int = 0


@dataclass(frozen=True)
class Config:
    systems: tuple[str, ...]
    metrics: tuple[str, ...]
    block: Block


def configure(params: Params, key: str | None) -> stage.Needs | None:
    block = params.block("baselines", Block)
    systems, metrics = tuple(plugins.names("baselines")), tuple(plugins.names("metrics"))
    loads = [("baselines", name) for name in systems] + [("metrics", name) for name in metrics]
    return None if block is None else stage.Needs(Config(systems, metrics, block), tuple(loads))


def run(config: Config, references: Path, classifier: Path, out: Path) -> None:
    originals = excerpts.read_references(references)
    judge = instrument_cnn.load(classifier)
    shown = {clip.id for clip in exhibits.spread(originals, config.block.num_shown)}
    metrics: dict[str, Any] = {}
    clips: dict[str, Any] = {}
    manifest: dict[str, Any] = {}
    with artifacts.new_folder(out) as draft:
        for system in config.systems:
            for variant in plugins.load("baselines", system)().variants():
                coded = workers.map_units(partial(code, system, variant), originals)
                evidence = evidence_of(config, originals, coded, judge)
                measures = scoring.measure(config.metrics, evidence)
                metrics[variant] = scoring.flat(measures)
                clips[variant] = {name: dict(m.per_clip) for name, m in measures.items() if m.per_clip}
                kept = [item.clip for item in coded if item.clip.id in shown]
                manifest[variant] = {
                    "clips": [
                        {"id": clip.id, "path": exhibits.keep(draft, variant, clip), "duration_s": clip.duration_s}
                        for clip in kept
                    ]
                }
        metrics["original_halves"] = scoring.flat(halves(config, originals, judge))
        for name, content in (("metrics", metrics), ("clips", clips), ("manifest", manifest)):
            artifacts.write_json(draft / f"{name}.json", content)


def code(system: str, variant: str, clip: Clip) -> Coded:
    """One clip through one system, limited to full scale as a player would; a worker's unit."""
    coded = plugins.load("baselines", system)().code(variant, clip)
    return Coded(Clip(clip.id, np.clip(coded.clip.samples, -1.0, 1.0), clip.rate_hz), coded.num_bytes)


def evidence_of(
    config: Config, originals: Sequence[Clip], coded: Sequence[Coded], judge: instrument_cnn.Judge
) -> Evidence:
    sizes = ((item.num_bytes, clip.duration_s) for clip, item in zip(originals, coded, strict=True))
    return Evidence(
        clip="audio",
        pairs=tuple((clip, item.clip) for clip, item in zip(originals, coded, strict=True)),
        streams=tuple((size, seconds) for size, seconds in sizes if size is not None),
        facts={"num_resamples": config.block.num_resamples},
        features=judge.features,
        seed=config.block.seed,
    )


def halves(config: Config, originals: Sequence[Clip], judge: instrument_cnn.Judge) -> Mapping[str, Any]:
    """One half of the originals against the other, by the metrics that need no pairing."""
    one, other = originals[::2], originals[1::2]
    pairs = tuple(zip(one, other, strict=False))
    facts = {"num_resamples": config.block.num_resamples}
    evidence = Evidence(clip="audio", pairs=pairs, facts=facts, features=judge.features, seed=config.block.seed)
    return scoring.measure(SET_METRICS, evidence)


if __name__ == "__main__":
    stage.main(run)
