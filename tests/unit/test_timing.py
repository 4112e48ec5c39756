"""Medians with intervals that cover, and the table that judges them."""

import math

import numpy as np
import pytest

from stages.numerics import timing
from stages.pipeline import artifacts
from tests.benchmarks import table


@pytest.mark.parametrize("num", [6, 20, 41])
def test_the_interval_covers_the_median_as_often_as_it_says(num):
    """On skewed values, as times are; the exact coverage is a binomial sum, at least 95 %."""
    random = np.random.Generator(np.random.Philox(0))
    found = [timing.median(random.exponential(size=num)) for _ in range(3000)]
    covered = np.mean([median.low <= math.log(2) <= median.high for median in found])
    assert 0.94 <= covered <= 0.99


@pytest.mark.parametrize("values", [[3.0], [2.0, 1.0], [5.0, 1.0, 3.0]])
def test_few_values_have_their_range_as_interval(values):
    found = timing.median(values)
    assert (found.value, found.low, found.high) == (np.median(values), min(values), max(values))


@pytest.mark.parametrize(
    "value, must, aim, said",
    [
        (0.4, 0.7, 0.45, "aim"),
        (0.5, 0.7, 0.45, "must"),
        (0.8, 0.7, 0.45, "MISSED"),
        (900.0, 300.0, 800.0, "aim"),
        (500.0, 300.0, 800.0, "must"),
        (200.0, 300.0, 800.0, "MISSED"),
        (1.0, None, None, ""),
    ],
)
def test_less_is_better_where_the_aim_lies_under_the_must(value, must, aim, said):
    assert table.verdict(table.Row("x", value, value, value, "s", must, aim)) == said


def test_a_row_replaces_the_older_one_of_its_name(tmp_path):
    path = tmp_path / "reports/benchmarks.json"
    for row in (table.of("b", [1.0], "ms"), table.of("a", [2.0], "ms"), table.of("b", [3.0], "ms", 4.0, 2.0)):
        table.keep(row, path)
    rows = artifacts.read_json(path)
    assert [(row["name"], row["value"]) for row in rows] == [("a", 2.0), ("b", 3.0)]
    assert set(rows[0]) == {"name", "value", "low", "high", "unit", "must", "aim"}
    assert "must" in table.text([table.Row(**row) for row in rows]).splitlines()[2]
