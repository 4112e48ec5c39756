"""Audio: whole clips to learn from, fixed excerpts to be judged by (media/excerpts.py)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.media import audio, excerpts
from stages.media.excerpts import Stretch
from stages.pipeline import artifacts
from stages.protocols.clips import Clips


class Audio(Clips):
    folder = "audio"

    def by_split(self, folder: Path, split: Mapping[str, Any]) -> dict[str, list[Stretch]]:
        return excerpts.by_split(artifacts.read_json(folder / "manifest.json"), split)

    def read(self, folder: Path, parts: Sequence[Stretch]) -> Iterator[audio.Clip]:
        return (excerpts.read(folder, part) for part in parts)

    def write_references(
        self, folder: Path, number: int, clips: Iterable[audio.Clip], parts: Sequence[Stretch]
    ) -> list[Any]:
        return [excerpts.write_reference(folder, clip, part.piece) for clip, part in zip(clips, parts, strict=True)]

    def read_references(self, folder: Path) -> list[audio.Clip]:
        return excerpts.read_references(folder)
