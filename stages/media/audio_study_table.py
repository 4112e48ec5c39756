"""The audio study's table: a row per training, number of steps and temperature; its CSV and its means over seeds.

`temperature` is empty where validation chose it (`temperature_used` has the figure) or where there is none.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stages.pipeline import artifacts

SI_SDR, MEL, MEL_LOUD = "si_sdr_db", "mel_distance", "mel_distance_loud"
FRECHET, KERNEL, PESQ = "reconstruction_frechet_classifier", "reconstruction_kernel_classifier", "pesq_wb_gapped"
JUDGED = (SI_SDR, PESQ, MEL, MEL_LOUD, FRECHET, KERNEL)
MEASURES = (
    "temperature_used",
    "bitrate_kbps",
    *(f"{name}{end}" for name in JUDGED for end in ("", "_low", "_high")),
) + (
    "spread_db",
    "si_sdr_fall_db",
    "num_training_steps",
    "num_function_evaluations",
    "num_parameters",
)
COLUMNS = ("family", "network", "tokenisation", "seed", "num_steps", "temperature", *MEASURES)


@dataclass(frozen=True)
class Row:
    """One sampler of one training; measures that could not be computed are not there."""

    family: str
    network: str
    tokenisation: str
    seed: int
    num_steps: int
    temperature: float | None
    measures: Mapping[str, float]
    clips: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Measure -> clip id -> value."""
    resampled: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Measure between sets -> its value under each of the bootstrap's weights."""


@dataclass(frozen=True)
class Mean:
    """Over seeds."""

    value: float
    deviation: float | None
    """Of the sample; None with one seed."""

    def text(self, digits: int = 2) -> str:
        around = "" if self.deviation is None else f" ± {self.deviation:.{digits}f}"
        return f"{self.value:.{digits}f}{around}".replace("-", "−")


@dataclass(frozen=True)
class Line:
    """One sampler's means over seeds; a measure that no seed has is not there."""

    family: str
    num_steps: int
    temperature: float | None
    means: Mapping[str, Mean]


def rows(samples: Path, scores: Path, about: Mapping[str, str]) -> list[Row]:
    """What the stages `audio_sample` and `audio_judge` left of one cell; `about` has network and tokenisation."""
    made, judged = artifacts.read_json(samples / "manifest.json"), artifacts.read_json(scores)
    found = []
    for sampler, entry in zip(made["samplers"], judged["samplers"], strict=True):
        used = made["temperature"] if entry["temperature"] is None else entry["temperature"]
        extra = {"temperature_used": used, "num_function_evaluations": sampler["num_function_evaluations"]}
        extra |= {name: made[name] for name in ("num_parameters", "num_training_steps")}
        known = {name: entry["scores"].get(name, extra.get(name)) for name in MEASURES}
        measures = {name: value for name, value in known.items() if value is not None}
        place = (made["method"], about["network"], about["tokenisation"], made["seed"])
        steps = (entry["num_steps"], entry["temperature"])
        found.append(Row(*place, *steps, measures, entry["clips"], entry["resampled"]))
    return found


def to_csv(found: Sequence[Row]) -> bytes:
    """In the order given; what is missing is empty."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in found:
        numbers: dict[str, Any] = {"seed": row.seed, "num_steps": row.num_steps, "temperature": row.temperature}
        numbers |= row.measures
        writer.writerow(
            [row.family, row.network, row.tokenisation, *(number(numbers.get(name)) for name in COLUMNS[3:])]
        )
    return file.getvalue().encode()


def number(value: float | int | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.6g}"


def lines(found: Sequence[Row]) -> list[Line]:
    """Means over seeds, in the order in which the rows come."""
    groups: dict[tuple[str, int, float | None], list[Row]] = {}
    for row in found:
        groups.setdefault((row.family, row.num_steps, row.temperature), []).append(row)
    return [
        Line(*key, {name: mean for name in MEASURES if (mean := mean_of(members, name)) is not None})
        for key, members in groups.items()
    ]


def mean_of(members: Sequence[Row], name: str) -> Mean | None:
    values = [row.measures[name] for row in members if name in row.measures]
    if not values:
        return None
    return Mean(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)
