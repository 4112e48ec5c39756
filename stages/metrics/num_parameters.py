"""Trainable numbers of the whole model, encoder and decoder. A fact of the model, without an interval."""

from collections.abc import Mapping
from typing import ClassVar

from stages.protocols.metric import Evidence, Measure, Metric


class NumParameters(Metric):
    clips: ClassVar[frozenset[str]] = frozenset({"audio", "score", "image", "series"})
    reads: ClassVar[frozenset[str]] = frozenset({"facts"})

    def compute(self, evidence: Evidence) -> Mapping[str, Measure]:
        value = evidence.facts.get("num_parameters")
        return {} if value is None else {"num_parameters": Measure(value)}
