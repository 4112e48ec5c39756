"""The table of faults: counted by the tests' own outcomes, planned rows all tried, README in step with both."""

import re
from types import SimpleNamespace

import pytest

from stages.pipeline import artifacts
from tests.faults import outcomes
from tests.faults.rows import ROWS


def report(nodeid, row, outcome="passed", when="call", **properties):
    told = [("fault", row), *properties.items()]
    flags = {name: outcome == name for name in ("passed", "failed", "skipped")}
    return SimpleNamespace(nodeid=nodeid, when=when, user_properties=told, **flags)


def test_outcomes_are_counted_as_they_came(tmp_path):
    plugin = outcomes.Outcomes(2, tmp_path / "faults.json")
    for item in (
        report("a", "kill", lost_steps=3),
        report("b", "kill", lost_steps=7),
        report("c", "kill", "failed"),
        report("d", "media", trials=17),
        report("d", "media", "passed", "teardown", trials=17),
        report("e", "ui", "skipped"),
        report("f", "ui", "failed", "setup"),
        SimpleNamespace(nodeid="g", when="call", user_properties=[], passed=True, failed=False, skipped=False),
    ):
        plugin.pytest_runtest_logreport(item)
    found = {outcome.fault: outcome for outcome in plugin.outcomes()}
    assert found["kill"] == outcomes.Outcome("kill", 3, 2, 7)
    assert found["media"] == outcomes.Outcome("media", 17, 17, None)
    assert found["ui"] == outcomes.Outcome("ui", 1, 0, None)
    session = SimpleNamespace(exitstatus=0)
    plugin.pytest_sessionfinish(session)
    assert session.exitstatus == 1, "fewer tried than planned"
    assert [entry["fault"] for entry in artifacts.read_json(tmp_path / "faults.json")] == list(ROWS)


def test_all_planned_and_tried_is_a_success(tmp_path):
    plugin = outcomes.Outcomes(2, tmp_path / "faults.json")
    for name, row in ROWS.items():
        plugin.pytest_runtest_logreport(report(name, name, trials=row.planned + 2))
    session = SimpleNamespace(exitstatus=0)
    plugin.pytest_sessionfinish(session)
    assert session.exitstatus == 0 and plugin.missing() == []


def test_the_readme_has_every_row_and_a_whole_run():
    text = outcomes.README.read_text()
    table = text[text.index(outcomes.BEGIN) : text.index(outcomes.END)]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[3:] if line]
    assert [line[:2] for line in lines] == [[row.fault, row.holds] for row in ROWS.values()], "`make chaos` renews it"
    for (name, row), (_, _, tried, survived, lost) in zip(ROWS.items(), lines, strict=True):
        assert int(tried) >= row.planned + (5 if name == "kill" else 0) and int(survived) == int(tried)
        assert re.fullmatch(r"\d*", lost)


@pytest.mark.parametrize("row", ROWS)
def test_every_row_has_tests(row):
    marks = [path.read_text() for path in (outcomes.ROOT / "tests").rglob("test_*.py")]
    assert any(f'mark.fault("{row}")' in text for text in marks)
