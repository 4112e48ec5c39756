"""What the audio study says: improved mean flow in one step against each rival, clip by clip, in one sentence.

A rival with a temperature is compared where it has the same SI-SDR (numerics/paired.py), since temperature trades
SI-SDR for everything else; one without, and the same model in more steps, as they are. Differences are of means over
seeds, claimant less rival. Intervals are of the bootstrap over clips, the same clips for both; how seeds differ is told
by the number of seeds in which the sign is the mean's.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stages.media.audio_study_table import FRECHET, KERNEL, MEL, MEL_LOUD, SI_SDR, Row
from stages.numerics import bootstrap, paired
from stages.numerics.paired import Difference, Place

CLAIMANT = "improved_mean_flow"
COMPARED = (FRECHET, KERNEL, MEL, MEL_LOUD, SI_SDR)
HIGHER_IS_BETTER = frozenset({SI_SDR})


@dataclass(frozen=True)
class Rival:
    """What the claimant is compared with."""

    title: str
    at: float | None
    """The claimant's temperature; None: what validation chose."""
    curve: tuple[tuple[str, int, float | None], ...]
    """Family, steps, temperature: one sampler as it is, or those of a rising temperature, to be matched in SI-SDR."""


@dataclass(frozen=True)
class Comparison:
    rival: Rival
    differences: Mapping[str, Difference]
    num_agreeing: Mapping[str, int]
    """Seeds in which the difference has the sign of the mean's."""
    num_seeds: int
    missed_db: float
    """How far the rival's SI-SDR stays from the claimant's where its curve does not reach it; mean of seeds."""


def rivals(found: Sequence[Row]) -> list[Rival]:
    """In the order of the rows, the claimant's own steps first."""
    known = list(dict.fromkeys((row.family, row.num_steps, row.temperature) for row in found))
    steps = [num for family, num, _ in known if family == CLAIMANT]
    many = max(steps, default=1)
    own = [
        Rival(f"its own {many} steps{told}", at, ((CLAIMANT, many, at),))
        for at, told in ((None, ""), (1.0, " at temperature 1"))
        if many > 1 and {(CLAIMANT, 1, at), (CLAIMANT, many, at)} <= set(known)
    ]
    others = []
    for family in dict.fromkeys(family for family, _, _ in known if family != CLAIMANT):
        curve = sorted((key for key in known if key[0] == family and key[1] == 1), key=lambda key: key[2] or 0.0)
        warm = tuple(key for key in curve if key[2] is not None)
        told = f"{family} in one step" if any(key[0] == family and key[1] > 1 for key in known) else family
        if len(warm) > 1:
            others.append(Rival(f"{told} at equal SI-SDR", None, warm))
        elif curve:
            others.append(Rival(told, None, (curve[0],)))
    return own + others


def compare(found: Sequence[Row], rival: Rival, seed: int) -> Comparison | None:
    """Over the seeds of training that have every sampler; None where nothing can be compared.

    `seed` is the bootstrap's, the one that the rows' resamples were drawn with.
    """
    place = {(row.family, row.num_steps, row.temperature, row.seed): row for row in found}
    wanted = [(CLAIMANT, 1, rival.at), *rival.curve]
    seeds = [one for one in sorted({row.seed for row in found}) if all((*key, one) in place for key in wanted)]
    duels = [duel([place[*key, one] for key in wanted], seed) for one in seeds]
    names = [name for name in COMPARED if duels and all(name in one.scores for one in duels)]
    if not names:
        return None
    differences = {name: over_seeds([one.scores[name] for one in duels]) for name in names}
    agreeing = {
        name: sum(np.sign(one.scores[name].own[0] - one.scores[name].other[0]) == np.sign(whole.value) for one in duels)
        for name, whole in differences.items()
    }
    missed = float(np.mean([one.missed_db for one in duels]))
    return Comparison(rival, differences, {name: int(num) for name, num in agreeing.items()}, len(duels), missed)


@dataclass(frozen=True)
class Score:
    """Of both sides: the value, then its resamples, [1 + R]; and the differences of clips, empty for sets."""

    own: np.ndarray
    other: np.ndarray
    clips: np.ndarray


@dataclass(frozen=True)
class Duel:
    """One seed's models."""

    scores: Mapping[str, Score]
    missed_db: float


def duel(rows: Sequence[Row], seed: int) -> Duel:
    """The claimant's row, then the rival's: one as it is, or a curve."""
    own, *curve = rows
    matched = len(curve) > 1
    curve = curve if matched else curve * 2
    num = min((len(row.resampled.get(FRECHET, ())) for row in rows), default=0)
    shared = [name for name in COMPARED if num and all(alike(row, own, name) for row in rows)]
    if SI_SDR not in shared:
        return Duel({}, 0.0)
    level, levels = sampled(own, SI_SDR, num, seed), np.stack([sampled(row, SI_SDR, num, seed) for row in curve])
    nowhere = np.zeros(1 + num)
    place = paired.crossing(levels, level) if matched else Place(nowhere.astype(int), nowhere, nowhere)
    scores = {}
    for name in shared:
        there = np.stack([sampled(row, name, num, seed) for row in curve])
        scores[name] = Score(sampled(own, name, num, seed), place.of(there), of_clips(own, curve, name, place))
    return Duel(scores, float(place.missed[0]))


def alike(row: Row, other: Row, name: str) -> bool:
    """Whether both have the measure, of the same clips or with its resamples."""
    scored = row.clips.get(name, {}).keys()
    if name not in row.measures or scored != other.clips.get(name, {}).keys():
        return False
    return bool(scored) or name in row.resampled


def sampled(row: Row, name: str, num: int, seed: int) -> np.ndarray:
    """A measure's value, then under the first `num` of the bootstrap's weights."""
    if name in row.resampled:
        return np.array([row.measures[name], *row.resampled[name][:num]])
    clips = np.array([value for _, value in sorted(row.clips[name].items())])
    return np.array([clips.mean(), *(bootstrap.weights(len(clips), num, seed) @ clips / len(clips))])


def of_clips(own: Row, curve: Sequence[Row], name: str, place: Place) -> np.ndarray:
    """Differences clip by clip, the curve at the place that holds for the whole."""
    names = sorted(own.clips.get(name, {}))
    if not names:
        return np.zeros(0)
    here = np.array([own.clips[name][clip] for clip in names])
    there = np.array([[row.clips[name][clip] for clip in names] for row in curve])
    return here - Place(*(np.full(len(names), part[0]) for part in (place.index, place.fraction, place.missed))).of(
        there
    )


def over_seeds(scores: Sequence[Score]) -> Difference:
    own, other = (np.mean([getattr(one, side) for one in scores], axis=0) for side in ("own", "other"))
    whole = paired.difference(float(own[0]), float(other[0]), own[1:], other[1:])
    clips = np.mean([one.clips for one in scores], axis=0)
    return whole if not len(clips) else replace(whole, p=paired.wilcoxon(clips))


def sentence(found: Sequence[Comparison], num_clips: int, seeds: Sequence[int]) -> str:
    """What won, by Fréchet distance, in one sentence."""
    judged = [one for one in found if FRECHET in one.differences]
    if not judged:
        return "Improved mean flow in one step is not among the cells with anything to compare it with."
    parts = []
    for word, wanted in (("beats", -1), ("loses to", 1), ("cannot be told from", 0)):
        told = [described(one) for one in judged if outcome(one.differences[FRECHET]) == wanted]
        parts += [f"{word} {listed(told)}"] if told else []
    over = f"over {num_clips} clips and {len(seeds)} training seed{'s' if len(seeds) > 1 else ''}"
    meaning = "differences with their 95 % intervals in brackets; an interval that holds zero tells nothing"
    told = parts[0] if len(parts) == 1 else f"{'; '.join(parts[:-1])}; and {parts[-1]}"
    return f"By Fréchet distance {over}, improved mean flow in one step {told} ({meaning})."


def outcome(of: Difference) -> int:
    """-1 where the claimant is clearly lower, 1 where it is clearly higher, 0 where the interval holds zero."""
    return int(np.sign(of.value)) if of.clear else 0


def described(one: Comparison) -> str:
    level = one.differences[SI_SDR]
    distance = one.differences[FRECHET]
    told = f"Fréchet {written(distance, digits(distance))}"
    if len(one.rival.curve) == 1:
        told += f", SI-SDR {signed(level.value, 2)} dB"
    elif one.missed_db:
        told += f", whose nearest SI-SDR is {abs(one.missed_db):.2f} dB {'lower' if one.missed_db > 0 else 'higher'}"
    return f"{one.rival.title} ({told})"


def written(of: Difference, num_digits: int) -> str:
    """A difference with its interval."""
    value, low, high = (signed(x, num_digits) for x in (of.value, of.low, of.high))
    return f"{value} [{low}, {high}]"


def digits(of: Difference) -> int:
    """After the point, so that an end of the interval has about three in all."""
    largest = max(abs(of.low), abs(of.high), 1e-9)
    return min(max(2 - math.floor(math.log10(largest)), 1), 6)


def signed(value: float, num_digits: int) -> str:
    return f"{value:+.{num_digits}f}".replace("-", "−")


def listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
