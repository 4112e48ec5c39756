"""Which stretches of a corpus' audio each split is made of: whole clips to learn from, fixed excerpts to be judged by.

The excerpts' untouched audio lies in references/, an FLAC file each, with a manifest:
{"clips": [{"id", "path", "num_samples", "rate_hz", "sha256", "piece"}]}, id = <clip id>@<first sample>.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stages.media import audio
from stages.pipeline import artifacts, packs


@dataclass(frozen=True)
class Stretch:
    """Part of a clip of a corpus."""

    id: str
    piece: str
    path: str
    sha256: str
    """Of the file."""
    start: int
    num_samples: int


def by_split(manifest: Mapping[str, Any], split: Mapping[str, Any]) -> dict[str, list[Stretch]]:
    """What each split is encoded from, by data/audio's manifest.json and split.json. ValueError where one is empty."""
    parts: dict[str, list[Stretch]] = {"train": [], "valid": [], "test": []}
    for clip in manifest["clips"]:
        whole = Stretch(clip["id"], clip["piece"], clip["path"], clip["sha256"], 0, clip["num_samples"])
        parts[split["pieces"][clip["piece"]]].append(whole)
    length = round(split["excerpt_duration_s"] * manifest["rate_hz"])
    parts["test"] = in_turn(parts["test"], split["num_excerpts"], length)
    if not parts["train"] or not parts["test"]:
        raise ValueError(
            f"{len(manifest['clips'])} clips leave {len(parts['train'])} to train on and {len(parts['test'])} excerpts "
            "to test: take more pieces (corpora.*.num_pieces) or other split fractions"
        )
    return parts


def in_turn(clips: Sequence[Stretch], num: int, length: int) -> list[Stretch]:
    """`num` stretches of `length` samples: the first of every clip, then the second of every clip, and so on.

    A clip shorter than `length` gives itself, once; fewer than `num` come back where the clips hold no more.
    """
    turns: list[tuple[int, Stretch]] = []
    for clip in sorted(clips, key=lambda clip: clip.id):
        size = min(length, clip.num_samples)
        for turn, start in enumerate(range(0, clip.num_samples - size + 1, max(size, 1))):
            turns.append((turn, replace(clip, id=f"{clip.id}@{start}", start=start, num_samples=size)))
    return [part for _, part in sorted(turns, key=lambda entry: entry[0])][:num]


def read(clips: Path, part: Stretch) -> audio.Clip:
    """The stretch's audio from the corpus folder, its file checked."""
    file = packs.source(clips, part.path, part.sha256, f"run `dvc repro -f -s render@{clips.name}`")
    return audio.read(file, part.id, part.start, part.num_samples)


def write_reference(folder: Path, clip: audio.Clip, piece: str) -> dict[str, Any]:
    """Keep an excerpt as it is, 16-bit samples unchanged; its entry for the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{clip.id}.flac"
    audio.write(path, clip)
    about = {"id": clip.id, "path": path.name, "num_samples": len(clip.samples), "rate_hz": clip.rate_hz}
    return about | {"piece": piece, "sha256": artifacts.sha256(path)}


def read_references(folder: Path) -> list[audio.Clip]:
    """The excerpts, sorted by id, each file checked."""
    found = []
    for entry in artifacts.read_json(folder / "manifest.json")["clips"]:
        artifacts.check(folder / entry["path"], entry["sha256"], "run `dvc repro -f -s` on the cache stage")
        found.append(audio.read(folder / entry["path"], entry["id"]))
    return found
