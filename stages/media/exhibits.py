"""What people look at and listen to: a few clips of a result as audio and pictures, and the manifest of them.

audio/{original,reconstruction,new}/<clip id>.flac,  figures/<clip id>.png, figures/training.png, figures/new.png
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from stages.media import audio, figures
from stages.media.audio import Clip
from stages.pipeline import artifacts

Item = TypeVar("Item")


@dataclass(frozen=True)
class Exhibits:
    """One experiment's results to choose from."""

    name: str
    pairs: Sequence[tuple[Clip, Clip]]
    """Originals and their reconstructions."""
    new: Sequence[Clip]
    log: Sequence[Mapping[str, Any]]
    """The rows of the training log."""


def spread(items: Sequence[Item], num: int) -> Sequence[Item]:
    """`num` items at even distances, the first among them."""
    return items[:: max(len(items) // max(num, 1), 1)][:num]


def write(folder: Path, of: Exhibits, num: int) -> None:
    """Write `num` reconstructions and new clips, and manifest.json."""
    pictures = {"training": figures.curves(of.log)}
    clips = []
    for original, decoded in spread(of.pairs, num):
        pictures[original.id] = figures.spectrograms({"original": original, of.name: decoded})
        paths = {kind: keep(folder, kind, clip) for kind, clip in (("original", original), ("reconstruction", decoded))}
        clips.append({"id": original.id, **paths, "duration_s": original.duration_s})
    fresh = of.new[:num]
    if fresh:
        pictures["new"] = figures.spectrograms({clip.id: clip for clip in fresh})
    for name, picture in pictures.items():
        artifacts.write_bytes(folder / f"figures/{name}.png", picture)
    listed = [{"id": clip.id, "path": keep(folder, "new", clip), "duration_s": clip.duration_s} for clip in fresh]
    found = {"clips": clips, "new": listed, "figures": [f"figures/{name}.png" for name in sorted(pictures)]}
    artifacts.write_json(folder / "manifest.json", found)


def keep(folder: Path, kind: str, clip: Clip) -> str:
    """Write one clip; its path in the folder."""
    (folder / "audio" / kind).mkdir(parents=True, exist_ok=True)
    audio.write(folder / f"audio/{kind}/{clip.id}.flac", clip)
    return f"audio/{kind}/{clip.id}.flac"
