"""Bitrate of the real streams: every byte of every file counts, headers too.

kbps = 8 * sum of bytes / sum of seconds / 1000
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from stages.numerics import bootstrap, scoring
from stages.protocols.metric import Evidence, Measure, Metric


class Bitrate(Metric):
    clips: ClassVar[frozenset[str]] = frozenset({"audio"})
    reads: ClassVar[frozenset[str]] = frozenset({"streams"})

    def compute(self, evidence: Evidence) -> Mapping[str, Measure]:
        num_bytes, seconds = np.array([stream for stream in evidence.streams if stream[1] > 0]).reshape(-1, 2).T
        failures = {"empty": len(evidence.streams) - len(seconds)} if len(seconds) < len(evidence.streams) else {}
        if not len(seconds):
            return {"bitrate_kbps": Measure(float("nan"), num=0, failures=failures)}
        kilobits = 8.0 * num_bytes / 1000.0
        value = float(kilobits.sum() / seconds.sum())
        if len(seconds) == 1:
            return {"bitrate_kbps": Measure(value, num=1, failures=failures)}
        found = bootstrap.of_ratio(kilobits, seconds, scoring.num_resamples(evidence), evidence.seed)
        return {"bitrate_kbps": Measure(value, found.low, found.high, len(seconds), failures)}
