"""One page that shows and plays everything, and the leaderboard as JSON.

Experiments come from params.yaml, never from a glob: folders of removed ones stay behind.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages.media import dag, leaderboard, listening, page, plots
from stages.media.leaderboard import System
from stages.pipeline import artifacts, plugins, stage
from stages.pipeline.params import Params
from stages.pipeline.stage import Needs

DVC = plugins.STAGES.parent / "dvc.yaml"


@dataclass(frozen=True)
class Config:
    experiments: tuple[str, ...]
    stages: tuple[dag.Stage, ...]
    """The pipeline as dvc.yaml has it, for the picture."""


@dataclass(frozen=True)
class Result:
    """What evaluate left of one experiment."""

    folder: Path
    manifest: Mapping[str, Any]
    params: Mapping[str, Any]
    training: list[Mapping[str, Any]]


def configure(params: Params, key: str | None) -> Needs | None:
    graph = YAML(typ="safe").load(DVC)["stages"]
    return Needs(Config(tuple(params.mapping("experiments")), dag.stages(graph, params.tree)))


def run(
    config: Config, experiments: Path, baselines: Path, speed: Path, index_html: Path, assets: Path, main_json: Path
) -> None:
    """Write the page, what it plays and shows, and the main metrics by experiment."""
    results = {name: read(experiments / name) for name in config.experiments}
    systems = leaderboard.systems(
        {name: artifacts.read_json(result.folder / "metrics.json") for name, result in results.items()},
        {name: artifacts.read_json(speed / f"{name}.json") for name in results},
        artifacts.read_json(baselines / "metrics.json"),
    )
    with artifacts.new_folder(assets) as draft:
        content = page.Page(
            experiments=tuple(show(system, results[system.name], draft) for system in systems[: len(results)]),
            board=leaderboard.table(systems),
            further=leaderboard.table(systems, leaderboard.further(systems)),
            headline=leaderboard.table(systems, leaderboard.HEADLINE),
            rate_limit_kbps=leaderboard.rate_limit(systems),
            failures=tuple(leaderboard.failures(systems)),
            num_clips=max((leaderboard.most_clips(system.metrics) for system in systems), default=0),
            panels=tuple(plots.rate_distortion(systems)),
            codecs=tuple(plots.codecs(systems)),
            groups=tuple(listen(results, baselines, systems, draft)),
            differing=leaderboard.differing([result.params for result in results.values()]),
            drawing=dag.draw(config.stages),
        )
    artifacts.write_bytes(index_html, page.render(content))
    main = {system.name: leaderboard.main_metrics(system) for system in systems[: len(results)]}
    artifacts.write_json(main_json, main)


def read(folder: Path) -> Result:
    lines = (folder / "training.jsonl").read_text().splitlines()
    manifest, params = (artifacts.read_json(folder / name) for name in ("manifest.json", "params.json"))
    return Result(folder, manifest, params, [json.loads(line) for line in lines])


def show(system: System, result: Result, assets: Path) -> page.Experiment:
    sources = [listening.Source(clip["id"], result.folder / clip["path"]) for clip in result.manifest["new"]]
    new = listening.group(system.name, sources, assets, f"new/{system.name}", listening.NEW_LUFS)
    drawn = listening.figures("new", {system.name: result.folder}, assets, f"new/{system.name}")
    return page.Experiment(system, tuple(plots.training(result.training, system.colour)), replace(new, figures=drawn))


def listen(
    results: Mapping[str, Result], baselines: Path, systems: list[System], assets: Path
) -> Iterator[listening.Group]:
    """Each clip that any experiment shows: the original, every reconstruction, the baselines worth comparing."""
    scores = artifacts.read_json(baselines / "clips.json")
    scores |= {name: artifacts.read_json(result.folder / "clips.json") for name, result in results.items()}
    originals: dict[str, Path] = {}
    made: dict[str, dict[str, Path]] = {}
    for name, result in results.items():
        for clip in result.manifest["clips"]:
            originals.setdefault(clip["id"], result.folder / clip["original"])
            made.setdefault(clip["id"], {})[name] = result.folder / clip["reconstruction"]
    notes = listening.chosen(systems)
    folders = {name: result.folder for name, result in results.items()}
    for clip, original in originals.items():
        coded = {name: baselines / "audio" / name / f"{clip}.flac" for name in notes}
        versions = made[clip] | {name: path for name, path in coded.items() if path.is_file()}
        sources = [listening.Source("original", original)] + [
            listening.Source(name, path, notes.get(name, ""), listening.scores(scores.get(name, {}), clip))
            for name, path in versions.items()
        ]
        drawn = listening.figures(clip, folders, assets, f"clips/{clip}")
        yield replace(listening.group(clip, sources, assets, f"clips/{clip}"), figures=drawn)


if __name__ == "__main__":
    stage.main(run)
