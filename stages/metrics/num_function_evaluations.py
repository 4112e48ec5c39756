"""Network calls that one clip costs to decode. A fact of the sampler, without an interval."""

from collections.abc import Mapping
from typing import ClassVar

from stages.protocols.metric import Evidence, Measure, Metric


class NumFunctionEvaluations(Metric):
    clips: ClassVar[frozenset[str]] = frozenset({"audio", "score", "image", "series"})
    reads: ClassVar[frozenset[str]] = frozenset({"facts"})

    def compute(self, evidence: Evidence) -> Mapping[str, Measure]:
        value = evidence.facts.get("num_function_evaluations")
        return {} if value is None else {"num_function_evaluations": Measure(value)}
