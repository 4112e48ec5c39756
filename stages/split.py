"""Assign pieces to train, valid and test by the hash of their melody group.

34 of 120 Bach chorales share their melody with another, in another key or setting: were they split apart, the test set
would be half known. A *group* is all pieces whose soprano begins with the same 16 intervals, so it does not change
under transposition; a recording is a group of its own. With u(group) in [0, 1) from its hash,

    test: u < test_fraction;   valid: u < test_fraction + valid_fraction;   train: the rest,

so a piece keeps its place as the corpus grows. Where a small corpus would leave a split empty, the boundary moves just
far enough that each has one group: test takes the smallest u, train keeps the largest. That needs three groups.

Where a corpus has a split of its own, the groups of its test pieces are the test; of the others valid takes
u < valid_fraction.
"""

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stages.media import midi
from stages.pipeline import artifacts, packs, stage, store
from stages.pipeline.params import Params
from stages.pipeline.stage import Needs
from stages.pipeline.store import Store

NUM_INTERVALS = 16


@dataclass(frozen=True)
class Config:
    valid_fraction: float = 0.1
    test_fraction: float = 0.2
    num_excerpts: int = 24
    excerpt_duration_s: float = 10.0

    def __post_init__(self) -> None:
        if not (0 < self.valid_fraction and 0 < self.test_fraction and self.valid_fraction + self.test_fraction < 1):
            raise ValueError(
                f"valid_fraction = {self.valid_fraction}, test_fraction = {self.test_fraction}: "
                "expected both above 0, their sum below 1"
            )
        if self.num_excerpts < 1 or self.excerpt_duration_s <= 0:
            raise ValueError("num_excerpts and excerpt_duration_s: expected above 0")


def configure(params: Params, key: str | None) -> Needs | None:
    """Read the `split` section, which all corpora share."""
    config = params.block("split", Config)
    return config and Needs(config)


def run(config: Config, raw: Path, split: Path, kept: Store | None = None) -> None:
    """Write split.json: the split and the group of every piece, and which excerpts the test set is heard in."""
    pieces = artifacts.read_json(raw / "manifest.json")["pieces"]
    own = {piece["id"]: piece["split"] for piece in pieces if piece.get("split")}
    with artifacts.new_folder(split) as draft:
        groups = groups_of(raw, pieces, draft, kept)
        places = assign(set(groups.values()), config.valid_fraction, config.test_fraction)
        tested = {groups[piece] for piece, chosen in own.items() if chosen == "test"}
        if own:
            places = {group: "valid" if place(group) < config.valid_fraction else "train" for group in places}
        told = {
            "pieces": {piece: "test" if group in tested else places[group] for piece, group in groups.items()},
            "groups": groups,
            "num_excerpts": config.num_excerpts,
            "excerpt_duration_s": config.excerpt_duration_s,
        }
        artifacts.write_json(draft / "split.json", told)
    counts = {name: sum(place == name for place in told["pieces"].values()) for name in ("train", "valid", "test")}
    print(f"{counts} pieces in {len(places)} melody groups")


def groups_of(raw: Path, pieces: list[dict[str, Any]], draft: Path, kept: Store | None) -> dict[str, str]:
    """Piece -> its group; only melodies are worth worker processes, and keeping."""
    sung = [piece for piece in pieces if piece["kind"] == "midi"]
    depends = [[piece["id"], piece["sha256"]] for piece in sung]
    found = store.map_units(kept, partial(group_of, raw), sung, depends, draft)
    groups = dict(zip([piece["id"] for piece in sung], found, strict=True))
    return {piece["id"]: groups.get(piece["id"]) or group_of(raw, draft, piece) for piece in pieces}


def group_of(raw: Path, draft: Path, piece: dict[str, Any]) -> str:
    """The piece's group, no file: a hash of its melody's opening intervals, or of its id where it has no melody."""
    opening: list[int] = []
    if piece["kind"] == "midi":
        data = packs.read(raw, piece["path"], piece["sha256"], f"run `dvc repro -f -s download@{raw.name}`")
        melody = midi.melody(midi.read(data, piece["id"]))
        opening = np.diff(melody[: NUM_INTERVALS + 1]).tolist()
    return hashlib.sha256(repr(opening or piece["id"]).encode()).hexdigest()


def assign(groups: set[str], valid_fraction: float, test_fraction: float) -> dict[str, str]:
    """Group -> its split. ValueError where there are fewer than three groups."""
    if len(groups) < 3:
        raise ValueError(
            f"{len(groups)} melody group(s) cannot fill train, valid and test: add pieces with other melodies, or cut "
            "a long recording into at least three files"
        )
    order = sorted(groups, key=lambda group: (place(group), group))
    test = min(max(sum(place(group) < test_fraction for group in order), 1), len(order) - 2)
    valid = sum(place(group) < test_fraction + valid_fraction for group in order) - test
    valid = min(max(valid, 1), len(order) - test - 1)
    names = ["test"] * test + ["valid"] * valid + ["train"] * (len(order) - test - valid)
    return dict(zip(order, names, strict=True))


def place(group: str) -> float:
    """U in [0, 1) of a group."""
    return int(group[:13], 16) / 16**13


if __name__ == "__main__":
    stage.main(run, keep=True)
