"""Score what needs no training on the same excerpts: classical codecs, copies, floors and ceilings.

The row `original_halves` is the distance of the originals of every other piece from those of the pieces between: what
other music by the same hand is worth, at half the number of clips. It stands under the reconstructions' names too, so
that their columns have it to compare with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from stages.media import excerpts, exhibits
from stages.media.audio import Clip
from stages.media.coded import through
from stages.networks import instrument_cnn
from stages.numerics import scoring
from stages.pipeline import artifacts, plugins, stage, workers
from stages.pipeline.params import Params
from stages.protocols.baseline import Coded
from stages.protocols.metric import Evidence, Measure
from stages.training import device

SET_METRICS = ("frechet", "kernel")


@dataclass(frozen=True)
class Block:
    """The section `baselines`."""

    representation: str
    """Whose test excerpts are scored."""
    classifier: str
    systems: tuple[str, ...] | None = None
    """Files of stages/baselines; None: all."""


@dataclass(frozen=True)
class Config:
    systems: tuple[str, ...]
    metrics: tuple[str, ...]
    settings: scoring.Settings


def configure(params: Params, key: str | None) -> stage.Needs | None:
    block = params.block("baselines", Block)
    settings = params.shared("evaluate", scoring.Settings, {}, where="evaluate")
    if block is None or settings is None:
        return None
    systems = plugins.names("baselines") if block.systems is None else block.systems
    try:
        metrics = scoring.chosen(settings, "audio")
        systems = tuple(name for name in systems if "audio" in plugins.load("baselines", name).clips)
    except ValueError as problem:
        params.problem(f"baselines.systems or evaluate.metrics: {problem}")
        return None
    loads = [("baselines", name) for name in systems] + [("metrics", name) for name in metrics]
    return stage.Needs(Config(systems, metrics, settings), tuple(loads))


def run(config: Config, references: Path, classifier: Path, out: Path) -> None:
    originals, judge = excerpts.read_references(references), instrument_cnn.load(classifier)
    rows: dict[str, Mapping[str, Measure]] = {}
    manifest: dict[str, Any] = {}
    with artifacts.new_folder(out) as draft, device.repeatable(num_threads=1):
        for system in config.systems:
            for variant in plugins.load("baselines", system)().variants():
                coded = workers.map_units(partial(through, system, variant), originals)
                rows[variant] = scoring.measure(config.metrics, evidence_of(config, originals, coded, judge))
                shown = exhibits.spread(coded, config.settings.num_shown)
                manifest[variant] = {"clips": [show(draft, variant, item.clip) for item in shown]}
        excerpt = {clip["id"]: clip for clip in artifacts.read_json(references / "manifest.json")["clips"]}
        rows["original_halves"] = halves(config, originals, [excerpt[clip.id]["piece"] for clip in originals], judge)
        metrics = {name: scoring.flat(measures) for name, measures in rows.items()}
        clips = {name: scoring.by_clip(measures) for name, measures in rows.items()}
        for name, content in (("metrics", metrics), ("clips", clips), ("manifest", manifest)):
            artifacts.write_json(draft / f"{name}.json", content)


def evidence_of(
    config: Config, originals: Sequence[Clip], coded: Sequence[Coded], judge: instrument_cnn.Judge
) -> Evidence:
    sizes = [(item.num_bytes, clip.duration_s) for clip, item in zip(originals, coded, strict=True)]
    return Evidence(
        clip="audio",
        pairs=tuple((clip, item.clip) for clip, item in zip(originals, coded, strict=True)),
        streams=tuple((size, seconds) for size, seconds in sizes if size is not None),
        facts={"num_resamples": config.settings.num_resamples},
        features=judge.features,
        seed=config.settings.seed,
    )


def halves(
    config: Config, originals: Sequence[Clip], pieces: Sequence[str], judge: instrument_cnn.Judge
) -> dict[str, Measure]:
    """Every other piece's excerpts against the rest, by the metrics that need no pairing."""
    first = set(sorted(set(pieces))[::2])
    one = tuple(clip for clip, piece in zip(originals, pieces, strict=True) if piece in first)
    other = tuple(clip for clip, piece in zip(originals, pieces, strict=True) if piece not in first)
    evidence = replace(evidence_of(config, [], [], judge), sets=(one, other))
    found = scoring.measure([name for name in SET_METRICS if name in config.metrics], evidence)
    return found | {name.replace("sample_", "reconstruction_"): item for name, item in found.items()}


def show(draft: Path, variant: str, clip: Clip) -> dict[str, Any]:
    return {"id": clip.id, "path": exhibits.keep(draft, variant, clip), "duration_s": clip.duration_s}


if __name__ == "__main__":
    stage.main(run)
