"""The report page: page.html.j2 with page.css and page.js inside, filled with what the report stage gathered.

One file that asks for nothing but its own assets; names are escaped; the same input gives the same bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from stages.media import listening, plots
from stages.media.dag import Drawing
from stages.media.leaderboard import Failure, System, Table
from stages.media.listening import Group
from stages.media.plots import Panel


@dataclass(frozen=True)
class Experiment:
    """What the page shows of one experiment beside its row."""

    system: System
    training: tuple[Panel, ...]
    new: Group


@dataclass(frozen=True)
class Page:
    """Everything on the page; experiments come first among the rows of each table."""

    experiments: tuple[Experiment, ...]
    headline: Table
    board: Table
    further: Table
    rate_limit_kbps: float
    """Up to which codecs compete."""
    failures: tuple[Failure, ...]
    num_clips: int
    panels: tuple[Panel, ...]
    codecs: tuple[str, ...]
    groups: tuple[Group, ...]
    differing: Mapping[str, Sequence[Any]]
    """Dotted key -> its value by experiment, None where it has none."""
    drawing: Drawing


def render(page: Page) -> bytes:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = breakable
    template = environment.get_template("page.html.j2")
    facts = {"range_db": round(listening.RANGE_DB), "new_lufs": f"{listening.NEW_LUFS:.0f}".replace("-", "−")}
    return (template.render(page=page, plots=plots, **facts) + "\n").encode()


def breakable(name: str) -> Markup:
    """A name that may break after each underscore where the page is narrow."""
    return Markup("_<wbr>").join(escape(part) for part in name.split("_"))
