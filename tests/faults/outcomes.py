"""What became of the trials: tests marked `fault(<row>)` are counted by their own outcomes, on however many workers.

    pytest --campaigns 5     counts, prints the table, writes reports/faults.json, and fails where fewer were tried
                             than planned; without the option nothing is counted

A test is one trial unless it records the property `trials`; `lost_steps` are training steps that were done twice.
`python -m tests.faults.outcomes` puts the table of reports/faults.json into README.md.
"""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stages.pipeline import artifacts
from tests.faults.rows import ROWS

ROOT = Path(__file__).resolve().parents[2]
REPORT = ROOT / "reports/faults.json"
README = ROOT / "README.md"
BEGIN, END = "<!-- faults: python -m tests.faults.outcomes -->", "<!-- end of faults -->"


@dataclass(frozen=True)
class Outcome:
    fault: str
    tried: int
    survived: int
    lost_steps: int | None
    """The most steps that any trial did twice; None where no step could be lost."""


class Outcomes:
    """A pytest plugin for the process that hears every report."""

    def __init__(self, campaigns: int, path: Path = REPORT) -> None:
        self.campaigns = campaigns
        self.path = path
        self.trials: dict[str, tuple[str, bool, int, int | None]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        told = dict(report.user_properties)
        if "fault" not in told or report.skipped:
            return
        if report.when == "call" or report.failed:
            self.trials[report.nodeid] = (told["fault"], report.passed, told.get("trials", 1), told.get("lost_steps"))

    def outcomes(self) -> list[Outcome]:
        found = []
        for row in ROWS:
            mine = [trial for trial in self.trials.values() if trial[0] == row]
            lost = [steps for *_, steps in mine if steps is not None]
            survived = sum(trials for _, passed, trials, _ in mine if passed)
            found.append(Outcome(row, sum(trials for _, _, trials, _ in mine), survived, max(lost, default=None)))
        return found

    def missing(self) -> list[str]:
        wanted = {name: row.planned + (self.campaigns if name == "kill" else 0) for name, row in ROWS.items()}
        return [
            f"{outcome.fault}: {outcome.tried} tried, {wanted[outcome.fault]} planned"
            for outcome in self.outcomes()
            if outcome.tried < wanted[outcome.fault]
        ]

    def pytest_sessionfinish(self, session: Any) -> None:
        artifacts.write_json(self.path, [asdict(outcome) for outcome in self.outcomes()])
        if self.missing() and session.exitstatus == 0:
            session.exitstatus = 1

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        terminalreporter.section("faults")
        terminalreporter.write_line(table(self.outcomes()))
        for line in self.missing():
            terminalreporter.write_line(f"FEWER TRIED THAN PLANNED: {line}")


def table(outcomes: list[Outcome]) -> str:
    """In Markdown."""
    lines = ["| fault | what holds | tried | survived | steps done twice, at most |", "|---|---|---|---|---|"]
    for outcome in outcomes:
        row = ROWS[outcome.fault]
        lost = "" if outcome.lost_steps is None else str(outcome.lost_steps)
        lines.append(f"| {row.fault} | {row.holds} | {outcome.tried} | {outcome.survived} | {lost} |")
    return "\n".join(lines)


def main() -> None:
    outcomes = [Outcome(**entry) for entry in artifacts.read_json(REPORT)]
    head, _, rest = README.read_text().partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not end:
        sys.exit(f"README.md has no place for the table, between {BEGIN} and {END}")
    artifacts.write_bytes(README, f"{head}{BEGIN}\n{table(outcomes)}\n{END}{tail}".encode())


if __name__ == "__main__":
    main()
