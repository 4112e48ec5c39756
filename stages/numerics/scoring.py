"""From scores of clips to measures: the mean with its interval, and what could not be scored, by reason.

A clip that cannot be scored raises `Unscored`; it is counted under its reason and never becomes 0. Where no clip could
be scored the value is NaN with `num` 0, and `flat` leaves the value out and keeps the count.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.numerics import bootstrap
from stages.pipeline import plugins, workers
from stages.protocols.metric import Evidence, Measure

NUM_RESAMPLES = 1000
Scores = Callable[[Any, Any], dict[str, float]]


class Unscored(Exception):  # noqa: N818
    """A clip cannot be scored; the message is the reason, a few words that many clips may share."""


@dataclass(frozen=True)
class Settings:
    """The section `evaluate`; the baselines follow it too, so that all rows of the table are alike."""

    num_resamples: int = NUM_RESAMPLES
    """Of the bootstrap."""
    num_shown: int = 4
    """Clips kept for the report and MLflow, with a figure each."""
    seed: int = 0
    """Where resampling starts."""
    metrics: tuple[str, ...] | None = None
    """Files of stages/metrics; None: all that can judge this kind of clip."""

    def __post_init__(self) -> None:
        least = {"num_resamples": 2, "num_shown": 0, "seed": 0}
        wrong = [
            f"{name} = {getattr(self, name)}: expected at least {low}"
            for name, low in least.items()
            if getattr(self, name) < low
        ]
        if wrong:
            raise ValueError("\n".join(wrong))


@dataclass(frozen=True)
class Unit:
    """One pair for a worker process."""

    scores: Scores
    reference: Any
    estimate: Any


@dataclass(frozen=True)
class Embedded:
    """Features of clips side by side: one list of [N, D] per set, clips without features left out and counted."""

    x: list[np.ndarray]
    y: list[np.ndarray]
    failures: Mapping[str, int]


def chosen(settings: Settings, clip: str) -> tuple[str, ...]:
    """The metrics to compute for a kind of clip. ValueError where a name is none, or cannot judge it."""
    judges = tuple(name for name in plugins.names("metrics") if clip in plugins.load("metrics", name).clips)
    for name in settings.metrics or ():
        if clip not in plugins.load("metrics", name).clips:
            raise ValueError(f"the metric {name} cannot judge {clip}; there are {', '.join(judges)}")
    return judges if settings.metrics is None else settings.metrics


def measure(names: Iterable[str], evidence: Evidence) -> dict[str, Measure]:
    """Every measure of the named metrics (files of stages/metrics) that the evidence has the fields for."""
    found: dict[str, Measure] = {}
    for name in names:
        metric = plugins.load("metrics", name)
        if evidence.clip in metric.clips and all(getattr(evidence, field) for field in metric.reads):
            found |= metric().compute(evidence)
    return found


def per_clip(scores: Scores, evidence: Evidence, *names: str) -> dict[str, Measure]:
    """The means of `scores(original, reconstruction)` over the pairs, in worker processes; all scores fail together."""
    units = [Unit(scores, reference, estimate) for reference, estimate in evidence.pairs]
    outcomes = workers.map_units(score_one, units)
    scored = {
        unit.reference.id: outcome
        for unit, outcome in zip(units, outcomes, strict=True)
        if not isinstance(outcome, str)
    }
    failures = dict(Counter(outcome for outcome in outcomes if isinstance(outcome, str)))
    return {name: mean({clip: outcome[name] for clip, outcome in scored.items()}, failures, evidence) for name in names}


def score_one(unit: Unit) -> dict[str, float] | str:
    """The scores, or the reason why there are none."""
    try:
        return unit.scores(unit.reference, unit.estimate)
    except Unscored as reason:
        return str(reason)


def mean(values: Mapping[str, float], failures: Mapping[str, int], evidence: Evidence) -> Measure:
    """The mean of clips with its interval, which a single clip does not have."""
    if not values:
        return Measure(math.nan, num=0, failures=failures)
    scores = np.array(list(values.values()))
    centre = float(scores.mean())
    if len(scores) == 1:
        return Measure(centre, num=1, failures=failures, per_clip=values)
    found = bootstrap.of_ratio(scores, np.ones(len(scores)), num_resamples(evidence), evidence.seed)
    return Measure(centre, found.low, found.high, len(scores), failures, values)


def num_resamples(evidence: Evidence) -> int:
    return int(evidence.facts.get("num_resamples", NUM_RESAMPLES))


def embed(evidence: Evidence, x: Sequence[Any], y: Sequence[Any], *, paired: bool) -> Embedded:
    """Features of two sets of clips; in pairs, both go where one has none."""
    assert evidence.features is not None, "the metric must list features among what it reads"
    features = [[evidence.features(clip) for clip in side] for side in (x, y)]
    reasons = [[_why_unusable(item) for item in side] for side in features]
    if paired:
        both = [one or other for one, other in zip(*reasons, strict=True)]
        reasons, counted = [both, both], both
    else:
        counted = reasons[0] + reasons[1]
    kept = [[f for f, why in zip(*side, strict=True) if not why] for side in zip(features, reasons, strict=True)]
    return Embedded(kept[0], kept[1], dict(Counter(why for why in counted if why)))


def _why_unusable(features: np.ndarray) -> str:
    if len(features) == 0:
        return "too short"
    return "" if np.isfinite(features).all() else "not finite"


def flat(measures: Mapping[str, Measure]) -> dict[str, Any]:
    """The keys of metrics.json: <name>, <name>_low, <name>_high, <name>_num, <name>_failures; of facts <name> alone."""
    found: dict[str, Any] = {}
    for name, item in sorted(measures.items()):
        if not math.isnan(item.value):
            found[name] = int(item.value) if name.startswith("num_") else item.value
        if item.low is not None and item.high is not None:
            found |= {f"{name}_low": item.low, f"{name}_high": item.high}
        if not name.startswith("num_"):
            found[f"{name}_num"] = item.num
        if item.failures:
            found[f"{name}_failures"] = dict(sorted(item.failures.items()))
    return found


def by_clip(measures: Mapping[str, Measure]) -> dict[str, dict[str, float]]:
    """The content of clips.json: the values of single clips, for paired comparisons."""
    return {name: dict(item.per_clip) for name, item in sorted(measures.items()) if item.per_clip}
