"""Decode the streams and make new clips, from streams and model folder alone.

data/samples/<experiment>/manifest.json   {"rate_hz", "reconstructions": [{"id", "path", "num_samples"}],
                                           "new": [{"id", "path", "num_samples", "seed"}], "num_function_evaluations"}
New clips come from noise with the classical "no condition", where the family can do without any.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.media import audio
from stages.pipeline import artifacts, stage
from stages.pipeline.params import Params
from stages.training import coding, device, model_folder, seeds
from stages.training import streams as coded
from stages.training.streams import MOST


@dataclass(frozen=True)
class Own:
    """What sample reads of the section `sample`; the family's Sampling reads the rest."""

    num_new_clips: int = 24
    new_clip_duration_s: float = 10.0
    seed: int = 0
    """Where the new clips' seeds start."""

    def __post_init__(self) -> None:
        if self.num_new_clips < 0:
            raise ValueError(f"num_new_clips = {self.num_new_clips}: expected at least 0")
        if not 0 < self.new_clip_duration_s <= 3600:
            raise ValueError(f"new_clip_duration_s = {self.new_clip_duration_s}: expected more than 0, at most 3600")


@dataclass(frozen=True)
class Config:
    own: Own
    sampling: Mapping[str, Any]


def configure(tree: Params, key: str | None) -> stage.Needs | None:
    experiment, chosen = tree.experiment(str(key)), coding.choose(tree, key)
    if experiment is None or chosen is None:
        return None
    own = tree.shared("sample", Own, experiment.sample, where=f"experiments.{key}.sample")
    return None if own is None else stage.Needs(Config(own, chosen.sampling), chosen.plugins)


def run(config: Config, streams: Path, model: Path, samples: Path) -> None:
    loaded = model_folder.load(model, device.best())
    sampling = coding.sampling_of(loaded, config.sampling)
    with artifacts.new_folder(samples) as draft, device.repeatable(num_threads=1):
        rates_hz: set[int] = set()
        found: dict[str, list[Mapping[str, Any]]] = {"reconstructions": [], "new": []}
        for name, clips in (
            ("reconstructions", ((clip, {}) for clip in coded.clips(loaded, coded.read(streams, loaded), sampling))),
            ("new", new_clips(loaded, config.own, sampling)),
        ):
            for clip, more in clips:
                found[name].append({**coded.keep(draft, f"{name}/{clip.id}.flac", clip), **more})
                rates_hz.add(clip.rate_hz)
            found[name].sort(key=lambda entry: entry["id"])
        (rate_hz,) = rates_hz or {None}
        about = {"rate_hz": rate_hz, "num_function_evaluations": loaded.model.num_function_evaluations(sampling)}
        artifacts.write_json(draft / "manifest.json", {**about, **found})


def new_clips(loaded: model_folder.Loaded, config: Own, sampling: Any) -> Iterator[tuple[audio.Clip, dict]]:
    """Clips from noise alone, each from its own seed; none where the family needs a condition."""
    if loaded.model.needs:
        return
    rate_hz = loaded.representation.spec.data.rate_hz
    assert rate_hz is not None  # audio
    num_steps = math.ceil(config.new_clip_duration_s * rate_hz)
    own = [(f"new-{number:03d}", seeds.derive(config.seed, "new", number)) for number in range(config.num_new_clips)]
    for start in range(0, len(own), MOST):
        names, drawn = zip(*own[start : start + MOST], strict=True)
        for clip, seed in zip(coding.new(loaded, names, drawn, num_steps, sampling), drawn, strict=True):
            yield clip, {"seed": seed}


if __name__ == "__main__":
    stage.main(run)
