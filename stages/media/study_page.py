"""The study's page: study_page.html.j2 with every cell's images inside it, so that it asks for nothing."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from stages.media import cells, image
from stages.media.study_table import Claim, Line
from stages.pipeline import artifacts

NUM_ROWS = 3
"""Images of each class in a grid."""


@dataclass(frozen=True)
class Grid:
    """Some images of one sampler, a column per class."""

    title: str
    png: str
    """base64."""
    width: int
    height: int


@dataclass(frozen=True)
class Cell:
    """One training's grids, by number of steps."""

    family: str
    network: str
    tokenisation: str
    grids: tuple[Grid, ...]


@dataclass(frozen=True)
class Page:
    corpus: str
    floor: float
    accuracy: float
    """Of the judge on held-out images."""
    num_reference: int
    num_samples: int
    seeds: tuple[int, ...]
    claims: tuple[Claim, ...]
    lines: tuple[Line, ...]
    real: Grid
    cells: tuple[Cell, ...]


def grid(title: str, clips: Sequence[image.Clip], label: str) -> Grid:
    """The first images of each class, one below the other."""
    columns: dict[int, list[np.ndarray]] = {}
    for clip in clips:
        columns.setdefault(clip.labels[label], []).append(clip.pixels)
    blank = np.ones_like(clips[0].pixels)
    order = [
        columns[key][row] if row < len(columns[key]) else blank for row in range(NUM_ROWS) for key in sorted(columns)
    ]
    sheet = image.grid(np.stack(order), len(columns))
    return Grid(title, base64.b64encode(image.png(sheet)).decode(), sheet.shape[1], sheet.shape[0])


def cell(folder: Path, label: str) -> Cell:
    """What the stage `cell` left, as grids."""
    about = artifacts.read_json(folder / "cell.json")
    grids = []
    for entry in about["samples"]:
        steps = "reconstructed" if about["reconstructs"] else f"{entry['num_steps']} step(s)"
        grids.append(grid(f"seed {about['seed']}, {steps}", cells.read_images(folder, entry), label))
    return Cell(about["family"], about["network"], about["tokenisation"], tuple(grids))


def render(page: Page) -> bytes:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows: dict[tuple[str, str, str], dict[int, Line]] = {}
    for line in page.lines:
        rows.setdefault((line.family, *line.place), {})[line.num_steps] = line
    known = {"rows": rows, "steps": sorted({line.num_steps for line in page.lines})}
    return (environment.get_template("study_page.html.j2").render(page=page, **known) + "\n").encode()
