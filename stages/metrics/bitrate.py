"""Bitrate of the real streams: every byte of every file counts, headers too.

kbps = 8 * sum of bytes / sum of seconds / 1000
"""

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from stages.numerics import bootstrap, scoring
from stages.protocols.metric import Evidence, Measure, Metric


class Bitrate(Metric):
    clips: ClassVar[frozenset[str]] = frozenset({"audio"})
    reads: ClassVar[frozenset[str]] = frozenset({"streams"})

    def compute(self, evidence: Evidence) -> Mapping[str, Measure]:
        names = [original.id for original, _ in evidence.pairs] or [""] * len(evidence.streams)
        rows = [(name, *stream) for name, stream in zip(names, evidence.streams, strict=True) if stream[1] > 0]
        num_empty = len(evidence.streams) - len(rows)
        failures = {"empty clip": num_empty} if num_empty else {}
        if not rows:
            return {"bitrate_kbps": Measure(math.nan, num=0, failures=failures)}
        kilobits, seconds = np.array([row[1] for row in rows]) * 8.0 / 1000.0, np.array([row[2] for row in rows])
        per_clip = {row[0]: float(rate) for row, rate in zip(rows, kilobits / seconds, strict=True) if row[0]}
        found = bootstrap.of_ratio(kilobits, seconds, scoring.num_resamples(evidence), evidence.seed)
        value = float(kilobits.sum() / seconds.sum())
        return {"bitrate_kbps": Measure(value, found.low, found.high, len(rows), failures, per_clip)}
