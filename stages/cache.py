"""Encode every clip of a corpus into shards, and set the test clips apart that everything is judged by.

data/cache/<representation>/{train,valid,test}   shards of codes (pipeline/shards.py); of audio, test is excerpts alone
                            statistics.safetensors   of the train split
                            representation/          what decodes the codes
                            references/              the test clips untouched (the kind's file of stages/clips)
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial, reduce
from pathlib import Path
from typing import Any

from stages.pipeline import artifacts, params, plugins, shards, stage, store
from stages.pipeline.store import Store
from stages.protocols.clips import Clips, Part
from stages.protocols.representation import Representation


@dataclass(frozen=True)
class Block:
    """What this stage reads of a representation's block; the rest is the representation's own Config."""

    module: str
    corpus: str
    clips: str
    num_shards: int = 16
    """Files per split: pieces are spread over them by hash, one unit of work each."""

    def __post_init__(self) -> None:
        if self.num_shards < 1:
            raise ValueError(f"num_shards = {self.num_shards}: expected at least 1")


@dataclass(frozen=True)
class Config:
    module: str
    representation: Mapping[str, Any]
    num_shards: int


@dataclass(frozen=True)
class Unit:
    """One shard's work."""

    split: str
    number: int
    parts: tuple[Any, ...]


def configure(tree: params.Params, key: str | None) -> stage.Needs | None:
    where = f"representations.{key}"
    own = {field.name for field in fields(Block)}
    block = tree.block(where, Block, without=tuple(set(tree.mapping(where)) - own))
    if block is None:
        return None
    if block.corpus not in (corpora := set(tree.mapping("corpora"))):
        tree.problem(f"{where}.corpus = {block.corpus!r}: no such corpus{params.near(block.corpus, corpora)}")
    try:
        kind: Any = plugins.load("representations", block.module)
    except ValueError as problem:
        tree.problem(f"{where}.module: {problem}")
        return None
    if block.clips != (home := clips_of(kind).folder):
        tree.problem(f"{where}.clips = {block.clips!r}: {block.module} takes {kind.clip} clips, from data/{home}")
    config = params.plain(tree.block(where, kind.Config, without=tuple(own))) or {}
    loads = (("representations", block.module), ("clips", kind.clip))
    return stage.Needs(Config(block.module, config, block.num_shards), loads)


def clips_of(kind: Any) -> Clips:
    """How clips of a representation's kind are read."""
    return plugins.load("clips", kind.clip)()


def run(config: Config, clips: Path, split: Path, cache: Path, kept: Store | None = None) -> None:
    kind: Any = plugins.load("representations", config.module)
    parts = clips_of(kind).by_split(clips, artifacts.read_json(split / "split.json"))
    settings = params.parse(kind.Config, config.representation, where=config.module)
    representation = kind.fit(settings, clips_of(kind).read(clips, parts["train"]))
    work = list(units(parts, config.num_shards))
    with artifacts.new_folder(cache) as draft:
        representation.save(draft / "representation")
        fitted = {path.name: artifacts.sha256(path) for path in sorted((draft / "representation").iterdir())}
        depends = [[unit.split, unit.number, fitted, params.plain(unit.parts)] for unit in work]
        done = store.map_units(kept, partial(encode, representation, clips), work, depends, draft)
        for name in parts:
            mine = [shards.Shard(**item["shard"]) for unit, item in zip(work, done, strict=True) if unit.split == name]
            shards.write_index(draft / name, representation.spec.version, mine)
        total = reduce(shards.merge, (shards.sums_of(item["sums"]) for item in done if item["sums"]))
        shards.save_statistics(draft / "statistics.safetensors", shards.statistics(total))
        references = sorted((entry for item in done for entry in item["references"]), key=lambda entry: entry["id"])
        artifacts.write_json(draft / "references/manifest.json", {"clips": references})


def units(parts: Mapping[str, Sequence[Part]], num_shards: int) -> Iterator[Unit]:
    for split, members in parts.items():
        for number in range(num_shards):
            if mine := tuple(part for part in members if shards.shard_of(part.piece, num_shards) == number):
                yield Unit(split, number, mine)


def encode(representation: Representation, clips: Path, cache: Path, unit: Unit) -> dict[str, Any]:
    """Write one shard, clip by clip, and the references where its codes are the test's."""
    kind, folder = clips_of(representation), cache / unit.split
    shard = shards.write_shard(folder, unit.number, map(representation.encode, kind.read(clips, unit.parts)))
    references = []
    if unit.split == "test":  # read once more, so that no more than one clip is ever held
        again = kind.read(clips, unit.parts)
        references = kind.write_references(cache / "references", unit.number, again, unit.parts)
    records = shards.records(folder, shard) if unit.split == "train" else None
    sums = records and shards.plain_sums(shards.sums(records, representation.spec.data))
    return {"shard": params.plain(shard), "sums": sums, "references": references}


if __name__ == "__main__":
    stage.main(run, keep=True)
