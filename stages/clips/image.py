"""Images: every image of a corpus is a clip, its labels with it; the test's are kept as stacks (media/image.py)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.media import image
from stages.pipeline import artifacts
from stages.protocols.clips import Clips

REMEDY = "run `dvc repro -f -s` on the stage that makes its folder"


@dataclass(frozen=True)
class Picture:
    """One place in a stack."""

    id: str
    path: str
    sha256: str
    """Of the stack."""
    index: int
    labels: Mapping[str, int]

    @property
    def piece(self) -> str:
        return self.id


class Image(Clips):
    folder = "raw"

    def by_split(self, folder: Path, split: Mapping[str, Any]) -> dict[str, list[Picture]]:
        pieces = artifacts.read_json(folder / "manifest.json")["pieces"]
        parts: dict[str, list[Picture]] = {"train": [], "valid": [], "test": []}
        if other := {piece["kind"] for piece in pieces} - {"image"}:
            raise ValueError(f"{folder} holds {', '.join(sorted(other))}, not images: choose another corpus")
        for piece in pieces:
            labels = {name: value for name, value in piece["labels"]}
            picture = Picture(piece["id"], piece["path"], piece["sha256"], piece["index"] or 0, labels)
            parts[split["pieces"][piece["id"]]].append(picture)
        if not parts["train"] or not parts["test"]:
            raise ValueError(
                f"{len(pieces)} images leave {len(parts['train'])} to train on and {len(parts['test'])} to test: take "
                "more (corpora.*.num_pieces) or other split fractions"
            )
        return parts

    def read(self, folder: Path, parts: Sequence[Picture]) -> Iterator[image.Clip]:
        stacks: dict[str, np.ndarray] = {}
        for part in parts:
            if part.path not in stacks:
                artifacts.check(folder / part.path, part.sha256, REMEDY)
                stacks[part.path] = image.read_stack(folder / part.path)
            yield image.Clip(part.id, image.widen(stacks[part.path][part.index]), part.labels)

    def write_references(
        self, folder: Path, number: int, clips: Iterable[image.Clip], parts: Sequence[Picture]
    ) -> list[Any]:
        path = folder / f"images_{number:03d}.npy"
        image.write_stack(path, np.stack([image.quantise(clip.pixels) for clip in clips]))
        about = {"path": path.name, "sha256": artifacts.sha256(path)}
        return [{"id": part.id, "index": k, "labels": dict(part.labels), **about} for k, part in enumerate(parts)]

    def read_references(self, folder: Path) -> list[image.Clip]:
        entries = artifacts.read_json(folder / "manifest.json")["clips"]
        return list(self.read(folder, [Picture(**entry) for entry in entries]))
