"""`--campaigns N` counts what the tests of faults survive; see tests/faults/outcomes.py."""

import pytest

from tests.faults.outcomes import Outcomes


def pytest_addoption(parser):
    parser.addoption("--campaigns", type=int, help="kill training in so many campaigns, and write reports/faults.json")


def pytest_configure(config):
    campaigns = config.getoption("campaigns")
    if campaigns and not hasattr(config, "workerinput"):  # a worker's reports arrive at the process that has none
        config.pluginmanager.register(Outcomes(campaigns))


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name != "test_walk.py")  # the longest file first, beside all others
    for item in items:
        if mark := item.get_closest_marker("fault"):
            item.user_properties.append(("fault", mark.args[0]))


def pytest_generate_tests(metafunc):
    if "campaign" in metafunc.fixturenames:
        metafunc.parametrize("campaign", range(metafunc.config.getoption("campaigns") or 2))


@pytest.fixture
def lost_steps(record_property):
    """Call it with how many steps a trial did twice."""
    return lambda steps: record_property("lost_steps", steps)
