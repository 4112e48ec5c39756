"""Mirror the results into MLflow: one run per experiment result, once, however often this runs."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from stages.pipeline import artifacts, stage, tracking
from stages.pipeline.params import Params
from stages.pipeline.stage import Needs

SHOWN = ("figures", "audio")


@dataclass(frozen=True)
class Config:
    experiments: tuple[str, ...]
    """Those in params.yaml: folders of removed ones stay behind."""


def configure(params: Params, key: str | None) -> Needs | None:
    return Needs(Config(tuple(sorted(params.mapping("experiments")))))


def run(config: Config, experiments: Path, speed: Path) -> None:
    """Publish every experiment; where MLflow cannot be reached, say so and go on, since the files are the truth."""
    if not tracking.wanted():
        print("tracking is off (PARTITA_TRACKING)", file=sys.stderr)
        return
    try:
        client = tracking.connect()
        for name in config.experiments:
            if not (experiments / name / "metrics.json").is_file():
                print(f"{name}: no results yet, run `dvc repro`", file=sys.stderr)
                continue
            outcome = tracking.upsert(client, result(name, experiments / name, speed / f"{name}.json"))
            print(f"{name}: {outcome}", file=sys.stderr)
    except tracking.Unreachable as problem:
        print(f"warning: nothing more was published, MLflow failed: {problem}", file=sys.stderr)


def result(name: str, folder: Path, speed: Path) -> tracking.Result:
    """What an experiment's report folder says, under a key that only its content decides."""
    params = artifacts.read_json(folder / "params.json")
    lines = (folder / "training.jsonl").read_text().splitlines()
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    content = {place: artifacts.sha256(path) for place, path in files.items()}
    return tracking.Result(
        name=name,
        key=artifacts.digest([name, params, content]),
        params=params,
        metrics=numbers(folder / "metrics.json"),
        curves=[json.loads(line) for line in lines],
        artifacts=[(folder / part, part) for part in SHOWN if (folder / part).is_dir()],
        speed=numbers(speed) if speed.is_file() else {},
    )


def numbers(path: Path) -> dict[str, float]:
    """The numbers of a flat JSON file; counts of failures by reason have no place among MLflow's metrics."""
    return {name: float(value) for name, value in artifacts.read_json(path).items() if isinstance(value, int | float)}


if __name__ == "__main__":
    stage.main(run)
