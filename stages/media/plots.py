"""Plots as geometry: where ticks, lines and marks go in a box of so many pixels; the page draws them as inline SVG.

So they follow the page's colours and its light or dark scheme, stay sharp, and hold the same bytes on every machine.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.media.leaderboard import COLUMNS, RATE, Column, System, competes, number, stem

LEFT, RIGHT, TOP, BOTTOM = 44, 8, 8, 24
LARGE, SMALL = (380, 290), (270, 170)
"""Boxes of rate-distortion and training panels, width and height in pixels."""
PADDING = 0.04
"""Of the range, between the data and the box."""
MAX_POINTS = 80
"""Of one curve; more are averaged in bins, with their range drawn behind."""
NOT_TERMS = frozenset({"step", "split", "player"})
LAST = ("learning_rate", "gradient_norm")
RATE_DISTORTION = ("si_sdr_db", "pesq_wb_gapped", "mel_distance")


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` onto pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self._warp(self.low), self._warp(self.high)
        return round(self.start + (self._warp(value) - low) / (high - low) * (self.end - self.start), 2)

    def _warp(self, value: float) -> float:
        return math.log(value) if self.log else value


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """A polyline as the `d` of a path; `role` and `colour` say how it looks."""

    d: str
    role: str
    colour: int = 0


@dataclass(frozen=True)
class Mark:
    x: float
    y: float
    low: float
    high: float
    role: str
    """experiment, or which of the codecs' shapes."""
    colour: int
    title: str


@dataclass(frozen=True)
class Panel:
    title: str
    hint: str
    width: int
    height: int
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    marks: tuple[Mark, ...]


def rate_distortion(found: Sequence[System]) -> list[Panel]:
    """Quality against bitrate, one panel per measure that at least two systems with a rate have."""
    columns = {column.key: column for column in COLUMNS}
    rated = [system for system in found if competes(system)]
    able = {key: [system for system in rated if key in system.metrics] for key in RATE_DISTORTION}
    return [_rate_panel(systems, columns[key]) for key, systems in able.items() if len(systems) > 1]


def codecs(found: Sequence[System]) -> list[str]:
    """Names of the classical codecs, whose place in the list chooses their mark."""
    return sorted({stem(system.name) for system in found if system.kind == "codec"})


def _rate_panel(found: Sequence[System], column: Column) -> Panel:
    rates = [system.metrics[RATE] for system in found] or [1.0]
    keys = [f"{column.key}{end}" for end in ("", "_low", "_high")]
    values = [system.metrics[key] for system in found for key in keys if key in system.metrics]
    x = Scale(min(rates) / 1.2, max(rates) * 1.2, LEFT, LARGE[0] - RIGHT, log=True)
    y, y_ticks = linear(values, LARGE[1], from_zero=False)
    shapes = codecs(found)
    marks = [_mark(system, column, x, y, shapes) for system in found]
    lines = [
        Line(
            path([(m.x, m.y) for m, s in zip(marks, found, strict=True) if s.kind == "codec" and stem(s.name) == name]),
            f"codec{i}",
        )
        for i, name in enumerate(shapes)
    ]
    octaves = [2.0**k for k in range(math.ceil(math.log2(x.low)), math.floor(math.log2(x.high)) + 1)]
    hint = {"higher": "higher is better", "lower": "lower is better", "": ""}[column.better]
    title = f"{column.label}{f' ({column.unit})' if column.unit else ''}"
    first = sorted(marks, key=lambda mark: mark.role == "experiment")
    return Panel(title, hint, *LARGE, _named(x, octaves, "kbps"), y_ticks, tuple(lines), tuple(first))


def _mark(system: System, column: Column, x: Scale, y: Scale, shapes: Sequence[str]) -> Mark:
    value = system.metrics[column.key]
    low, high = (system.metrics.get(f"{column.key}{end}", value) for end in ("_low", "_high"))
    role = "experiment" if system.kind == "experiment" else f"codec{shapes.index(stem(system.name))}"
    title = f"{system.name}: {number(value, column)} {column.unit} at {system.metrics[RATE]:.2f} kbps"
    return Mark(x(system.metrics[RATE]), y(value), y(low), y(high), role, system.colour, title)


def training(rows: Sequence[Mapping[str, Any]], colour: int) -> list[Panel]:
    """One panel per logged term: the training curve, and the validation curve where the term is validated."""
    players = {row.get("player", "") for row in rows}
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for row in rows:
        for key, value in row.items():
            if key not in NOT_TERMS and isinstance(value, int | float):
                name = f"{row['player']}: {key}" if len(players) > 1 else key
                curves.setdefault(name, {}).setdefault(row["split"], []).append((row["step"], value))
    names = sorted(curves, key=lambda name: (not name.endswith("loss"), name.endswith(LAST), name))
    return [_training_panel(name, curves[name], colour) for name in names]


def _training_panel(name: str, curves: Mapping[str, Sequence[tuple[int, float]]], colour: int) -> Panel:
    values = [value for points in curves.values() for _, value in points]
    log = min(values) > 0 and max(values) > 20 * min(values) and not name.endswith("learning_rate")
    x = Scale(0, max(step for points in curves.values() for step, _ in points) or 1, LEFT, SMALL[0] - RIGHT)
    y, y_ticks = _decades(values, SMALL[1]) if log else linear(values, SMALL[1], from_zero=True)
    lines: list[Line] = []
    for split, points in sorted(curves.items()):
        bins = _bins(points)
        if len(bins) < len(points):
            top = [(x(b[0]), y(b[3])) for b in bins]
            bottom = [(x(b[0]), y(b[2])) for b in reversed(bins)]
            lines.append(Line(path(top + bottom) + "Z", f"{split} band", colour))
        lines.append(Line(path([(x(b[0]), y(b[1])) for b in bins]), split, colour))
    marks = [Mark(x(s), y(v), y(v), y(v), "valid", colour, f"step {s}: {v:.4g}") for s, v in curves.get("valid", [])]
    steps = [value for value in nice(0, x.high, 3) if value <= x.high]
    return Panel(name, "", *SMALL, _named(x, steps, ""), y_ticks, tuple(lines), tuple(marks))


def _bins(points: Sequence[tuple[int, float]]) -> list[tuple[float, float, float, float]]:
    """(step, mean, least, most) of neighbouring points, at most MAX_POINTS."""
    size = math.ceil(len(points) / MAX_POINTS)
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    return [
        (sum(s for s, _ in p) / len(p), sum(v for _, v in p) / len(p), min(v for _, v in p), max(v for _, v in p))
        for p in parts
    ]


def linear(values: Sequence[float], height: int, *, from_zero: bool) -> tuple[Scale, tuple[Tick, ...]]:
    """A scale that holds the values, with ticks at round numbers; perhaps from 0 where they are near it."""
    low, high = min(values), max(values)
    low = 0.0 if 0 < low < 0.4 * high and from_zero else low
    margin = PADDING * (high - low) or abs(high) or 1.0
    scale = Scale(low if low == 0 else low - margin, high + margin, height - BOTTOM, TOP)
    ticks = [value for value in nice(scale.low, scale.high, height // 36) if scale.low <= value <= scale.high]
    digits = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9)) if len(ticks) > 1 else 2
    return scale, tuple(Tick(scale(value), _text(value, digits)) for value in ticks)


def _text(value: float, digits: int) -> str:
    text = f"{value:.0e}".replace("e-0", "e-") if digits > 4 and value else f"{value:.{digits}f}"
    return text.replace("-", "−")


def _decades(values: Sequence[float], height: int) -> tuple[Scale, tuple[Tick, ...]]:
    """A logarithmic scale that holds the values, with ticks at powers of ten, and at 2 and 5 of them if few."""
    low, high = min(values) / 1.15, max(values) * 1.15
    scale = Scale(low, high, height - BOTTOM, TOP, log=True)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        ticks = [factor * 10.0**k for k in powers for factor in factors if low <= factor * 10.0**k <= high]
        if len(ticks) >= 3:
            break
    return scale, tuple(Tick(scale(value), f"{value:g}".replace("e-0", "e−")) for value in ticks)


def _named(scale: Scale, values: Sequence[float], unit: str) -> tuple[Tick, ...]:
    """Ticks, the last one with the unit."""
    texts = [f"{value:,.0f}" if value >= 1 or value == 0 else f"{value:g}" for value in values]
    return tuple(
        Tick(scale(value), text if value != values[-1] else f"{text} {unit}".strip())
        for value, text in zip(values, texts, strict=True)
    )


def nice(low: float, high: float, num: int) -> list[float]:
    """About `num` round numbers, from one at most `low` to one at least `high`."""
    raw = (high - low) / num
    size = 10.0 ** math.floor(math.log10(raw))
    step = size * next(factor for factor in (1, 2, 5, 10) if factor * size >= raw * 0.999)
    return [k * step for k in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]


def path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + " L".join(f"{x:g},{y:g}" for x, y in points) if points else ""
