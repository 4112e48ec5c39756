"""The study's table: a row per training, seed and number of steps; its CSV, its means over seeds, and what they say.

The first row is `real`: training images judged like samples. Their distance is the floor; every other row also tells
how far it lies above it.
"""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

REAL = "real"
COLUMNS = (
    "family network tokenisation seed num_steps frechet_distance frechet_distance_low frechet_distance_high "
    "frechet_above_floor conditional_accuracy conditional_accuracy_low conditional_accuracy_high num_images "
    "num_function_evaluations num_parameters"
).split()
MOST_RATIO = 1.25
"""Of one-step improved mean flow's distance above the floor to flow matching's at many steps."""
LEAST_ACCURACY = 0.95


@dataclass(frozen=True)
class Row:
    """One sampler of one training; measures by column, those that could not be computed are not there."""

    family: str
    network: str
    tokenisation: str
    seed: int | None
    num_steps: int | None
    measures: Mapping[str, float]


@dataclass(frozen=True)
class Spread:
    """Over seeds."""

    mean: float
    deviation: float | None
    """Of the sample; None with one seed."""
    num: int

    def text(self, scale: float = 1.0, digits: int = 2) -> str:
        spread = "" if self.deviation is None else f" ± {scale * self.deviation:.{digits}f}"
        return f"{scale * self.mean:.{digits}f}{spread}"


@dataclass(frozen=True)
class Line:
    """One sampler's mean over seeds; None where no seed has the measure."""

    family: str
    network: str
    tokenisation: str
    num_steps: int
    above_floor: Spread | None
    accuracy: Spread | None

    @property
    def place(self) -> tuple[str, str]:
        return self.network, self.tokenisation


@dataclass(frozen=True)
class Claim:
    """What the table is to show, and whether it does; None where a row that it needs is missing."""

    text: str
    holds: bool | None


def floor(rows: Sequence[Row]) -> float:
    """The distance of real images. ValueError where it could not be computed, since nothing can be compared then."""
    found = [row.measures.get("frechet_distance") for row in rows if row.family == REAL]
    if not found or found[0] is None:
        raise ValueError("the floor could not be computed: too few real images; take more (corpora.*.num_pieces)")
    return found[0]


def with_floor(rows: Sequence[Row]) -> list[Row]:
    """The rows, each with its distance above the floor where it has one."""
    least = floor(rows)
    found = []
    for row in rows:
        own = dict(row.measures)
        if "frechet_distance" in own:
            own["frechet_above_floor"] = own["frechet_distance"] - least
        found.append(Row(row.family, row.network, row.tokenisation, row.seed, row.num_steps, own))
    return found


def to_csv(rows: Sequence[Row]) -> bytes:
    """Sorted as given; what is missing is empty."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        known = {"seed": row.seed, "num_steps": row.num_steps, **row.measures}
        about = [row.family, row.network, row.tokenisation]
        writer.writerow(about + [number(known.get(name)) for name in COLUMNS[3:]])
    return file.getvalue().encode()


def number(value: float | int | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.6g}"


def lines(rows: Sequence[Row]) -> list[Line]:
    """Means over seeds, in the order in which the rows come."""
    groups: dict[tuple[str, str, str, int], list[Row]] = {}
    for row in rows:
        if row.num_steps is not None:
            groups.setdefault((row.family, row.network, row.tokenisation, row.num_steps), []).append(row)
    return [
        Line(*key, spread(members, "frechet_above_floor"), spread(members, "conditional_accuracy"))
        for key, members in groups.items()
    ]


def spread(rows: Sequence[Row], name: str) -> Spread | None:
    values = [row.measures[name] for row in rows if name in row.measures]
    if not values:
        return None
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None, len(values))


def best(found: Sequence[Line], family: str, num_steps: int) -> Line | None:
    """Of a family at so many steps: the network and tokenisation with the lowest mean distance."""
    own = [line for line in found if (line.family, line.num_steps) == (family, num_steps)]
    return min(own, key=lambda line: line.above_floor.mean if line.above_floor else math.inf, default=None)


def at(found: Sequence[Line], family: str, num_steps: int, place: tuple[str, str]) -> Line | None:
    return next((x for x in found if (x.family, x.num_steps, x.place) == (family, num_steps, place)), None)


def claims(found: Sequence[Line]) -> Iterator[Claim]:
    """What the study was made to find out, with improved mean flow at one step on its best network."""
    one = best(found, "improved_mean_flow", 1)
    if one is None or one.above_floor is None or one.accuracy is None:
        return
    where = f"improved mean flow in one step ({one.network}, {one.tokenisation})"
    flows = [line.num_steps for line in found if line.family == "flow_matching"]
    many = at(found, "flow_matching", max(flows, default=1), one.place)
    few = at(found, "flow_matching", 1, one.place)
    mean = at(found, "mean_flow", 1, one.place)
    if many is not None and many.above_floor is not None:
        limit = MOST_RATIO * many.above_floor.mean
        text = f"{where} lies {one.above_floor.text()} above the floor, flow matching in {many.num_steps} steps "
        yield Claim(
            f"{text}{many.above_floor.text()}; wanted: at most {MOST_RATIO} times", one.above_floor.mean <= limit
        )
    if mean is not None and mean.above_floor is not None:
        text = f"{where} lies {one.above_floor.text()} above the floor, mean flow {mean.above_floor.text()}"
        yield Claim(f"{text}; wanted: below", one.above_floor.mean < mean.above_floor.mean)
    text = f"{one.accuracy.text(100, 1)} % of the images of {where} are read as the digit that was asked for"
    yield Claim(f"{text}; wanted: {100 * LEAST_ACCURACY:.0f} %", one.accuracy.mean >= LEAST_ACCURACY)
    if few is not None and few.above_floor is not None:
        text = f"flow matching in one step lies {few.above_floor.text()} above the floor"
        yield Claim(f"{text}; wanted: clearly worse", few.above_floor.mean > 2 * max(one.above_floor.mean, 0.0))
