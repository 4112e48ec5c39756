"""Score one cell of the audio study: each sampler with every metric, and how far its samples lie from each other.

data/scores/<cell>.json   {"samplers": [{"num_steps", "temperature", "scores", "clips", "resampled"}]}

`resampled` holds the Fréchet and the kernel distance under each of the bootstrap's weights, which are the same for all
cells, so that cells are compared clip by clip without their audio. PESQ is slow: it is left to one step, and to what
validation chose where it chooses.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.media import audio, excerpts, stream_sizes
from stages.media.audio import Clip
from stages.networks import instrument_cnn
from stages.numerics import scoring, spread
from stages.pipeline import artifacts, stage
from stages.pipeline.params import Params
from stages.pipeline.stage import Needs
from stages.protocols.metric import Evidence
from stages.training import audio_study, device

METRICS = ("bitrate", "frechet", "kernel", "mel_distance", "si_sdr")
SLOW = "pesq_wb_gapped"


@dataclass(frozen=True)
class Config:
    settings: scoring.Settings


def configure(params: Params, key: str | None) -> Needs | None:
    cell, settings = audio_study.cell(params, key), params.block("evaluate", scoring.Settings)
    if cell is None or settings is None:
        return None
    return Needs(Config(settings), tuple(("metrics", name) for name in (*METRICS, SLOW)))


def run(config: Config, references: Path, samples: Path, classifier: Path, scores: Path) -> None:
    originals = {clip.id: clip for clip in excerpts.read_references(references)}
    about, judge = artifacts.read_json(samples / "manifest.json"), instrument_cnn.load(classifier)
    sizes = tuple((size, originals[name].duration_s) for name, size in stream_sizes.read(samples / "streams").items())
    chooses = any(entry["temperature"] is None for entry in about["samplers"])
    found = []
    with device.repeatable(num_threads=1):
        for entry in about["samplers"]:
            slow = entry["num_steps"] == 1 and not (chooses and entry["temperature"] is not None)
            evidence = Evidence(
                clip="audio",
                pairs=pairs(originals, samples, entry["clips"]),
                streams=sizes,
                facts={"num_resamples": config.settings.num_resamples},
                features=judge.features,
                seed=config.settings.seed,
            )
            found.append({name: entry[name] for name in ("num_steps", "temperature")} | measured(evidence, slow))
    for entry in about["draws"]:
        of = next(x for x in found if x["num_steps"] == entry["num_steps"] and x["temperature"] == 1)
        of["scores"] |= scattered([pairs(originals, samples, one) for one in entry["draws"]])
    artifacts.write_json(scores, {"samplers": found})


def pairs(originals: Mapping[str, Clip], samples: Path, entries: Sequence[Mapping[str, Any]]) -> tuple[Any, ...]:
    """Originals beside what was decoded, in the order of ids."""
    return tuple((originals[e["id"]], audio.read(samples / e["path"], e["id"])) for e in entries)


def measured(evidence: Evidence, slow: bool) -> dict[str, Any]:
    measures = scoring.measure((*METRICS, SLOW) if slow else METRICS, evidence)
    resampled = {name: list(item.resampled) for name, item in measures.items() if item.resampled}
    return {"scores": scoring.flat(measures), "clips": scoring.by_clip(measures), "resampled": resampled}


def scattered(draws: Sequence[Sequence[tuple[Clip, Clip]]]) -> dict[str, float]:
    """Spread, and by how much one draw's SI-SDR lies below that of their mean; draws of the same clips."""
    truths = [original for original, _ in draws[0]]
    made = [np.stack([draw[k][1].samples for draw in draws]).astype(np.float64) for k in range(len(truths))]
    means = [Clip(x.id, y.mean(axis=0).astype(np.float32), x.rate_hz) for x, y in zip(truths, made, strict=True)]
    of_mean, *of_draws = [si_sdr(pairs) for pairs in (list(zip(truths, means, strict=True)), *draws)]
    found = [spread.spread_db(y, x.samples.astype(np.float64)) for x, y in zip(truths, made, strict=True)]
    known = [value for value in found if value is not None]
    scores = {"si_sdr_fall_db": of_mean - float(np.mean(of_draws))}
    scores |= {"spread_db": float(np.mean(known))} if known else {}
    return {name: value for name, value in scores.items() if not math.isnan(value)} | {"num_draws": len(draws)}


def si_sdr(pairs: Sequence[tuple[Clip, Clip]]) -> float:
    return scoring.measure(("si_sdr",), Evidence(clip="audio", pairs=tuple(pairs)))["si_sdr_db"].value


if __name__ == "__main__":
    stage.main(run)
