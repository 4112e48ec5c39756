"""Judge every cell of the study: one table, reports/study/digits.csv, and one page that shows the images.

The reference is the test split, the floor what the training split scores against it; both in equal parts of every
class, since samples are made so. All are judged with the same classifier by the metrics of stages/metrics.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from stages.media import cells as cell_folder
from stages.media import image, study_page, study_table
from stages.media.study_table import REAL, Row
from stages.networks import digit_cnn
from stages.numerics import scoring
from stages.pipeline import artifacts, plugins, stage, workers
from stages.pipeline.params import Params
from stages.pipeline.stage import Needs
from stages.protocols.metric import Evidence
from stages.training import device
from stages.training.study import Axes

METRICS = ("frechet_infinity", "conditional_accuracy")
LABEL = "digit"


@dataclass(frozen=True)
class Config:
    axes: Axes
    settings: scoring.Settings


@dataclass(frozen=True)
class Inputs:
    """Where everything lies, for worker processes."""

    config: Config
    raw: Path
    split: Path
    classifier: Path
    cells: Path

    def real(self) -> Mapping[str, list[image.Clip]]:
        """The images of each split, each class equally often."""
        kind = plugins.load("clips", "image")()
        parts = kind.by_split(self.raw, artifacts.read_json(self.split / "split.json"))
        found = {name: list(kind.read(self.raw, part)) for name, part in parts.items()}
        return {name: cell_folder.in_equal_parts(clips, LABEL) for name, clips in found.items()}


def configure(params: Params, key: str | None) -> Needs | None:
    axes, settings = params.block("study", Axes), params.block("evaluate", scoring.Settings)
    if axes is None or settings is None:
        return None
    return Needs(Config(axes, settings), (*(("metrics", name) for name in METRICS), ("clips", "image")))


def run(
    config: Config, raw: Path, split: Path, classifier: Path, cells: Path, digits_csv: Path, index_html: Path
) -> None:
    inputs = Inputs(config, raw, split, classifier, cells)
    real, judge = inputs.real(), digit_cnn.load(classifier)
    found = Row(REAL, "", "", None, None, measured(inputs, judge, real["test"], real["train"]))
    judged = workers.map_units(partial(scores, inputs), config.axes.cells)
    rows = study_table.with_floor([found, *(row for part in judged for row in part)])
    artifacts.write_bytes(digits_csv, study_table.to_csv(rows))
    lines = study_table.lines(rows)
    page = study_page.Page(
        corpus=config.axes.corpus,
        floor=study_table.floor(rows),
        accuracy=judge.facts["accuracy"],
        num_reference=len(real["test"]),
        num_samples=config.axes.num_samples,
        seeds=config.axes.seeds,
        claims=tuple(study_table.claims(lines)),
        lines=tuple(lines),
        real=study_page.grid("held-out images", real["test"], LABEL),
        cells=tuple(study_page.cell(cells / key, LABEL) for key in config.axes.cells),
    )
    artifacts.write_bytes(index_html, study_page.render(page))


def scores(inputs: Inputs, key: str) -> list[Row]:
    """One cell's rows."""
    folder, held_out, judge = inputs.cells / key, inputs.real()["test"], digit_cnn.load(inputs.classifier)
    about, rows = artifacts.read_json(folder / "cell.json"), []
    family, network, tokenisation, seed = (about[name] for name in study_table.COLUMNS[:4])
    for entry in about["samples"]:
        found = measured(inputs, judge, held_out, cell_folder.read_images(folder, entry))
        found |= {"num_function_evaluations": entry["num_function_evaluations"]}
        found |= {"num_parameters": about["num_parameters"]}
        rows.append(Row(family, network, tokenisation, seed, entry["num_steps"], found))
    return rows


def measured(
    inputs: Inputs, judge: digit_cnn.Judge, held_out: Sequence[image.Clip], made: Sequence[image.Clip]
) -> dict[str, Any]:
    with device.repeatable(num_threads=1):
        judge.look([*held_out, *made])
        settings = inputs.config.settings
        evidence = Evidence(
            clip="image",
            sets=(tuple(held_out), tuple(made)),
            facts={"num_resamples": settings.num_resamples},
            features=judge.features,
            classify=judge.classify,
            seed=settings.seed,
        )
        return scoring.flat(scoring.measure(METRICS, evidence)) | {"num_images": len(made)}


if __name__ == "__main__":
    stage.main(run)
