"""The audio study's page: audio_study_page.html.j2 with figure and sound inside, so that it asks for nothing."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from stages.media import audio_study_verdict, plots
from stages.media.audio_study_table import FRECHET, JUDGED, KERNEL, MEL, MEL_LOUD, PESQ, SI_SDR, Line
from stages.media.audio_study_verdict import CLAIMANT, COMPARED, HIGHER_IS_BETTER, Comparison
from stages.media.plots import Mark, Panel, Scale, Tick

SIZE = (900, 440)
"""Of the figure, in pixels."""
LABELS = {
    SI_SDR: ("SI-SDR, dB", 2),
    PESQ: ("gapped PESQ", 2),
    MEL: ("mel", 3),
    MEL_LOUD: ("mel, loud", 3),
    FRECHET: ("Fréchet", 1),
    KERNEL: ("kernel", 2),
}
"""A heading and its digits."""


@dataclass(frozen=True)
class Take:
    """A clip as one system left it."""

    title: str
    flac: str
    """base64."""
    note: str


@dataclass(frozen=True)
class Clip:
    id: str
    takes: tuple[Take, ...]


@dataclass(frozen=True)
class Page:
    sentence: str
    comparisons: tuple[Comparison, ...]
    lines: tuple[Line, ...]
    decode_rtf: Mapping[tuple[str, int], float]
    """CPU seconds per second of audio, by family and steps."""
    clips: tuple[Clip, ...]
    seeds: tuple[int, ...]
    num_clips: int

    @property
    def main(self) -> list[Line]:
        """What validation chose, and temperature 1; the others are the sweep."""
        return [line for line in self.lines if line.temperature in (None, 1.0)]

    @property
    def spreads(self) -> list[Line]:
        return [line for line in self.lines if "spread_db" in line.means]

    @property
    def families(self) -> list[str]:
        return list(dict.fromkeys(line.family for line in self.lines))


def take(title: str, path: Path, note: str = "") -> Take:
    return Take(title, base64.b64encode(path.read_bytes()).decode(), note)


def figure(lines: Sequence[Line]) -> Panel:
    """Fréchet distance against SI-SDR: each family's temperatures as a curve, the rest as marks with their spread."""
    shown = [line for line in lines if {SI_SDR, FRECHET} <= line.means.keys()]
    colours = {family: number for number, family in enumerate(dict.fromkeys(line.family for line in lines))}
    levels = [line.means[SI_SDR].value for line in shown] or [0.0, 1.0]
    heights = [
        line.means[FRECHET].value + k * (line.means[FRECHET].deviation or 0.0) for line in shown for k in (-1, 1)
    ]
    y, y_ticks = plots.linear(heights or [0.0, 1.0], SIZE[1], from_zero=True)
    margin = 0.04 * (max(levels) - min(levels)) or 1.0
    x = Scale(min(levels) - margin, max(levels) + margin, plots.LEFT, SIZE[0] - plots.RIGHT)
    rounds = [value for value in plots.nice(x.low, x.high, 8) if x.low <= value <= x.high]
    x_ticks = tuple(Tick(x(value), f"{value:g}".replace("-", "−")) for value in rounds)
    curves = []
    for family, num_steps in dict.fromkeys((line.family, line.num_steps) for line in shown):
        warm = [line for line in shown if (line.family, line.num_steps) == (family, num_steps)]
        swept = sorted((line for line in warm if line.temperature is not None), key=lambda line: line.temperature or 0)
        points = [(x(line.means[SI_SDR].value), y(line.means[FRECHET].value)) for line in swept]
        curves.append(plots.Line(plots.path(points), "one" if num_steps == 1 else "many", colours[family]))
    marks = tuple(mark(line, x, y, colours[line.family]) for line in shown)
    return Panel(
        "Fréchet distance against SI-SDR", "lower right is better", *SIZE, x_ticks, y_ticks, tuple(curves), marks
    )


def mark(line: Line, x: Scale, y: Scale, colour: int) -> Mark:
    level, distance = line.means[SI_SDR], line.means[FRECHET]
    around = (distance.deviation or 0.0) if line.temperature is None else 0.0
    steps = "1 step" if line.num_steps == 1 else f"{line.num_steps} steps"
    told = "" if line.temperature is None else f", temperature {line.temperature:g}"
    title = f"{line.family}, {steps}{told}: SI-SDR {level.text()} dB, Fréchet {distance.text(1)}"
    role = "chosen" if line.temperature is None else "swept"
    ends = (y(distance.value - around), y(distance.value + around))
    return Mark(x(level.value), y(distance.value), *ends, role, colour, title)


def render(page: Page) -> bytes:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    known: dict[str, Any] = {
        "figure": figure(page.lines),
        "plots": plots,
        "labels": LABELS,
        "judged": JUDGED,
        "compared": COMPARED,
        "written": audio_study_verdict.written,
        "side": side,
        "claimant": CLAIMANT,
        "calibrated_db": f"{10 * math.log10(2):.2f}",
    }
    return (environment.get_template("audio_study_page.html.j2").render(page=page, **known) + "\n").encode()


def side(comparison: Comparison, name: str) -> str:
    """How it looks: yes where the claimant is clearly better, no where it is clearly worse, else nothing."""
    better = -audio_study_verdict.outcome(comparison.differences[name])
    better = -better if name in HIGHER_IS_BETTER else better
    return {1: "yes", -1: "no", 0: ""}[better]
