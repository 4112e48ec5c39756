"""Compress the test excerpts with one cell's model, and decode the streams in every number of steps and temperature.

data/samples/<cell>/streams/        real bytes (training/streams.py)
                    <sampler>/      a FLAC file per excerpt
                    draws/<sampler>/<n>/   the same few excerpts from other noise
                    manifest.json   {"num_parameters", "temperature", "samplers": [...], "draws": [...]}
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stages.media.bitstream import Stream
from stages.pipeline import artifacts, shards, stage
from stages.pipeline.params import Params
from stages.training import audio_study, coding, device, model_folder, seeds, streams
from stages.training.audio_study import Sampler
from stages.training.model_folder import Loaded


@dataclass(frozen=True)
class Config:
    method: str
    seed: int
    """Of training, and where the streams' seeds start."""
    samplers: tuple[Sampler, ...]
    draws: tuple[Sampler, ...]
    num_draws: int
    num_draw_clips: int


def configure(params: Params, key: str | None) -> stage.Needs | None:
    cell, axes = audio_study.cell(params, key), params.block("study", audio_study.Axes)
    if cell is None or axes is None:
        return None
    drawn = (cell.samplers, cell.draws, axes.num_draws, axes.num_draw_clips)
    return stage.Needs(Config(cell.method, cell.seed, *drawn), cell.plugins)


def run(config: Config, test: Path, model: Path, samples: Path) -> None:
    loaded = model_folder.load(model, device.best())
    clips = shards.Shards(test, loaded.representation.spec.version)
    with artifacts.new_folder(samples) as draft, device.repeatable(num_threads=1):
        (draft / "streams").mkdir()
        streams.write(draft / "streams", loaded, clips, config.seed, entropy_coding=False)
        found = streams.read(draft / "streams", loaded)
        few = {name: found[name] for name in sorted(found)[: config.num_draw_clips]}
        about = {
            "method": config.method,
            "seed": config.seed,
            "num_parameters": loaded.facts["num_parameters"],
            "num_training_steps": loaded.facts["training"]["num_steps"],
            "temperature": loaded.facts["training"]["selected"].get("calibrated", {}).get("temperature"),
            "samplers": [decoded(draft, loaded, found, sampler, sampler.name) for sampler in config.samplers],
            "draws": [draws(draft, loaded, few, sampler, config.num_draws) for sampler in config.draws],
        }
        artifacts.write_json(draft / "manifest.json", about)


def decoded(folder: Path, loaded: Loaded, found: Mapping[str, Stream], sampler: Sampler, place: str) -> dict[str, Any]:
    """Every stream through one sampler; its entry."""
    sampling = coding.sampling_of(loaded, sampler.sampling)
    kept = [streams.keep(folder, f"{place}/{clip.id}.flac", clip) for clip in streams.clips(loaded, found, sampling)]
    calls = loaded.model.num_function_evaluations(sampling)
    about = {"num_steps": sampler.num_steps, "temperature": sampler.temperature, "num_function_evaluations": calls}
    return about | {"clips": sorted(kept, key=lambda entry: entry["id"])}


def draws(folder: Path, loaded: Loaded, found: Mapping[str, Stream], sampler: Sampler, num: int) -> dict[str, Any]:
    """The streams with other seeds, several times; an entry per time."""
    entries: Sequence[dict[str, Any]] = [
        decoded(folder, loaded, reseeded(found, number), sampler, f"draws/{sampler.name}/{number}")
        for number in range(num)
    ]
    return {"num_steps": sampler.num_steps, "draws": [entry["clips"] for entry in entries]}


def reseeded(found: Mapping[str, Stream], number: int) -> dict[str, Stream]:
    return {name: replace(stream, seed=seeds.derive(stream.seed, "draw", number)) for name, stream in found.items()}


if __name__ == "__main__":
    stage.main(run)
