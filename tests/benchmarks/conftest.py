"""`figure(row)` keeps a benchmark's row; the table of this run's rows is printed at the end."""

import pytest

from tests.benchmarks import table

ROWS = pytest.StashKey[list[table.Row]]()


@pytest.fixture
def figure(request):
    def keep(row):
        table.keep(row)
        request.config.stash.setdefault(ROWS, []).append(row)

    return keep


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash.get(ROWS, [])
    if rows:
        terminalreporter.section("benchmarks")
        terminalreporter.write_line(table.text(rows))
