"""One table of every system: experiments and baselines, what each metric says, and what could not be measured.

A value is shown with its interval and, where fewer clips count than elsewhere in its row, with their number. A metric
that does not exist is an en dash, never 0, and its failures say why. Marked as best: only systems that send bytes
(codecs), and of those only the ones that spend no more than the experiments do, since any codec wins at a high rate.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

RATE = "bitrate_kbps"
UNCODED = "original"
"""The baseline that is the clip itself: its rate is that of samples, and it is no codec."""
RATE_MARGIN = 1.25
"""Codecs may spend this much more than the most expensive experiment and still be compared with it."""
SUFFIXES = ("_low", "_high", "_num", "_failures")


@dataclass(frozen=True)
class Column:
    """A metric and how to show it."""

    key: str
    label: str
    unit: str
    better: Literal["higher", "lower", ""]
    digits: int
    meaning: str

    @property
    def arrow(self) -> str:
        return {"higher": "↑", "lower": "↓", "": ""}[self.better]


COLUMNS = (
    Column(RATE, "Bitrate", "kbps", "", 2, "Bits of the real files, headers counted, per second of audio."),
    Column(
        "si_sdr_db",
        "SI-SDR",
        "dB",
        "higher",
        2,
        "Scale-invariant signal-to-distortion ratio of the waveform, after alignment of delay and polarity. "
        "Infinite, and so absent, for identical signals.",
    ),
    Column(
        "pesq_wb",
        "PESQ-WB",
        "",
        "higher",
        2,
        "ITU-T P.862.2 at 16 kHz, a measure of speech: in music it finds “no utterances” in many clips, which do not "
        "count. n is how many do.",
    ),
    Column(
        "pesq_wb_gapped",
        "Gapped PESQ",
        "",
        "higher",
        2,
        "PESQ-WB with 1 s of silence inserted every 2 s in both signals, so that no clip fails. Not the standard: "
        "compare it only with itself.",
    ),
    Column("stoi", "STOI", "", "higher", 3, "Short-time objective intelligibility, a measure of speech, 0 to 1."),
    Column("log_spectral_distance_db", "LSD", "dB", "lower", 2, "Log-spectral distance of the power spectra."),
    Column(
        "mel_distance",
        "Mel distance",
        "1e-5",
        "lower",
        3,
        "Multi-scale distance of log-mel spectra with a floor of 1e-5, which near-silent cells dominate.",
    ),
    Column(
        "mel_distance_loud", "Mel distance", "1e-2", "lower", 3, "The same with a floor of 1e-2: what is loud counts."
    ),
    Column(
        "reconstruction_frechet_classifier",
        "Fréchet",
        "",
        "lower",
        2,
        "Fréchet distance between originals and reconstructions in the features of this project's instrument "
        "classifier. Depends on the number of clips; comparable within this page only.",
    ),
    Column(
        "reconstruction_kernel_classifier",
        "Kernel",
        "",
        "lower",
        2,
        "Unbiased maximum mean discrepancy in the same features; may fall below 0 when there is no difference.",
    ),
    Column(
        "sample_frechet_classifier",
        "Fréchet, new",
        "",
        "lower",
        2,
        "Fréchet distance between originals and clips generated from noise alone.",
    ),
    Column(
        "num_function_evaluations",
        "NFE",
        "",
        "",
        0,
        "Network evaluations that decoding one clip takes (steps of a flow).",
    ),
    Column("num_parameters", "Params", "", "", 0, "Trainable parameters."),
    Column(
        "encode_rtf",
        "Encode",
        "RTF",
        "lower",
        4,
        "Real-time factor on one CPU thread: seconds of processing per second of audio; below it, how many times "
        "faster than real time.",
    ),
    Column("decode_rtf", "Decode", "RTF", "lower", 4, "The same for decoding."),
)
HEADLINE_KEYS = (
    *(RATE, "si_sdr_db", "pesq_wb_gapped"),
    *("mel_distance", "reconstruction_frechet_classifier", "decode_rtf"),
)
HEADLINE = tuple(column for column in COLUMNS if column.key in HEADLINE_KEYS)


@dataclass(frozen=True)
class System:
    """A row before it is formatted."""

    name: str
    kind: Literal["experiment", "codec", "reference"]
    metrics: Mapping[str, Any]
    colour: int
    """Which of the page's colours; experiments only."""


@dataclass(frozen=True)
class Cell:
    """A value as text, and what stands below it."""

    text: str
    value: float | None
    below: str = ""
    title: str = ""
    best: bool = False


@dataclass(frozen=True)
class Row:
    system: System
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    """One per system, in their order."""


@dataclass(frozen=True)
class Failure:
    """Clips that a metric could not score, as many in each of these systems."""

    metric: str
    reason: str
    num: int
    systems: tuple[str, ...]


def systems(
    experiments: Mapping[str, Mapping[str, Any]],
    speeds: Mapping[str, Mapping[str, Any]],
    baselines: Mapping[str, Mapping[str, Any]],
) -> list[System]:
    """Experiments in their order, then codecs by name and rate, then floors, ceilings and calibration."""
    found = [
        System(name, "experiment", {**metrics, **speeds[name]}, number)
        for number, (name, metrics) in enumerate(experiments.items())
    ]
    coded = {name for name, metrics in baselines.items() if RATE in metrics and name != UNCODED}
    codecs = [System(name, "codec", baselines[name], 0) for name in coded]
    others = [System(name, "reference", metrics, 0) for name, metrics in baselines.items() if name not in coded]
    codecs.sort(key=lambda item: (stem(item.name), item.metrics[RATE]))
    return found + codecs + sorted(others, key=lambda item: item.name)


def stem(name: str) -> str:
    """The codec of a variant: opus of opus_12kbps."""
    return re.sub(r"_\d+(?:_\d+)?_?k(?:bps)?$", "", name)


def main_metrics(system: System) -> dict[str, Any]:
    """What leaderboard.json says of one system."""
    return {column.key: system.metrics[column.key] for column in COLUMNS if column.key in system.metrics}


def table(found: Sequence[System], columns: Sequence[Column] = COLUMNS) -> Table:
    """Every system under the columns, with the best value of each marked."""
    best = {column.key: best_value(found, column) for column in columns}
    rows = (Row(system, tuple(cell(system, column, best[column.key]) for column in columns)) for system in found)
    return Table(tuple(columns), tuple(rows))


def best_value(found: Sequence[System], column: Column) -> float | None:
    """The best among systems that send bytes at a comparable rate; None where that is no contest."""
    limit = rate_limit(found)
    values = [
        system.metrics[column.key]
        for system in found
        if competes(system) and column.key in system.metrics and system.metrics[RATE] <= limit
    ]
    if not column.better or len(values) < 2:
        return None
    return max(values) if column.better == "higher" else min(values)


def competes(system: System) -> bool:
    """It sends bytes, and not the samples themselves."""
    return system.kind != "reference" and RATE in system.metrics


def rate_limit(found: Iterable[System]) -> float:
    """The rate in kbps up to which systems compete."""
    rates = [system.metrics[RATE] for system in found if system.kind == "experiment" and RATE in system.metrics]
    return RATE_MARGIN * max(rates) if rates else float("inf")


def cell(system: System, column: Column, best: float | None) -> Cell:
    metrics, key = system.metrics, column.key
    reasons = ", ".join(f"{num} × {reason}" for reason, num in sorted(metrics.get(f"{key}_failures", {}).items()))
    if key not in metrics:
        return Cell("–", None, title=reasons and f"not scored: {reasons}")
    value, num = metrics[key], metrics.get(f"{key}_num")
    low, high = metrics.get(f"{key}_low"), metrics.get(f"{key}_high")
    title, below = [], []
    if low is not None and high is not None:
        title.append(f"95 % interval {number(low, column)} to {number(high, column)}")
        below.append(f"±{number((high - low) / 2, column)}")
    if key.endswith("_rtf") and value > 0:
        below = [f"{1 / value:,.0f}×"]
    if num is not None and (num < most_clips(metrics) or key == "pesq_wb"):
        below.append(f"n={num}")
    title += [f"{num} clips"] if num else []
    title += [f"failed: {reasons}"] if reasons else []
    marked = competes(system) and best is not None and value == best
    return Cell(number(value, column), value, " ".join(below), "; ".join(title), marked)


def most_clips(metrics: Mapping[str, Any]) -> int:
    return max((value for key, value in metrics.items() if key.endswith("_num")), default=0)


def number(value: float, column: Column) -> str:
    """A value as text, with a true minus."""
    if column.key == "num_parameters":
        return f"{value / 1e6:.2f} M" if value >= 1e5 else f"{value:,}"
    return f"{value:.{column.digits}f}".replace("-", "−")


def further(found: Sequence[System]) -> list[Column]:
    """Columns for measures that this page does not know, as other kinds of clip bring them."""
    known = {column.key for column in COLUMNS} | {"num_threads", "audio_s"}
    keys = sorted({key for system in found for key in system.metrics if not key.endswith(SUFFIXES)} - known)
    return [Column(key, key, "", "", 4, "") for key in keys]


def failures(found: Iterable[System]) -> list[Failure]:
    """Every clip that a metric could not score, counted by reason."""
    labels = {column.key: column.label for column in COLUMNS}
    groups: dict[tuple[str, str, int], list[str]] = {}
    for system in found:
        for key, reasons in system.metrics.items():
            if key.endswith("_failures"):
                name = key.removesuffix("_failures")
                for reason, num in reasons.items():
                    groups.setdefault((labels.get(name, name), reason, num), []).append(system.name)
    return [Failure(*group, tuple(names)) for group, names in sorted(groups.items())]


def differing(params: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The keys whose values are not the same in all experiments; None where one does not have the key."""
    keys = sorted({key for values in params for key in values})
    rows = {key: [values.get(key) for values in params] for key in keys}
    return {key: row for key, row in rows.items() if any(value != row[0] for value in row)}
