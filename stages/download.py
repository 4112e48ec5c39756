"""Bring a corpus to disk, verified; files that cannot be used are quarantined with a reason.

Out: the files in packs (pipeline/packs.py), manifest.json (every piece's path, kind, duration, licence and sha256) and
quarantine.json. One bad file never ends the run; a corpus with nothing usable does, saying why.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from stages.pipeline import artifacts, packs, plugins, stage
from stages.pipeline.params import Params, parse, plain
from stages.pipeline.stage import Needs
from stages.pipeline.store import Store
from stages.protocols.corpus import Collected, Corpus


@dataclass(frozen=True)
class Config:
    source: str
    """A file of stages/corpora."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The rest of the corpus's block, which the source's own Config reads."""


def configure(params: Params, key: str | None) -> Needs | None:
    """Read corpora.<key>."""
    where = f"corpora.{key}"
    source = params.mapping(where).get("source")
    if not isinstance(source, str):
        params.problem(f"{where}.source = {source!r}: expected one of {', '.join(plugins.names('corpora'))}")
        return None
    try:
        plugin = plugins.load("corpora", source)
    except ValueError as problem:
        params.problem(f"{where}.source: {problem}")
        return None
    others = keys_of_others(source) & set(params.mapping(where))  # so that -S corpora.music.source=folder is enough
    settings = params.block(where, plugin.Config, without=("source", *others))  # type: ignore[attr-defined]
    return settings and Needs(Config(source, plain(settings)), plugins=(("corpora", source),))


def keys_of_others(source: str) -> set[str]:
    """What other sources read in a corpus's block and this one does not."""
    keys: dict[str, set[str]] = {}
    for name in plugins.names("corpora"):
        plugin: Any = plugins.load("corpora", name)
        keys[name] = {item.name for item in fields(plugin.Config)}
    return set().union(*keys.values()) - keys[source]


def run(config: Config, raw: Path, work: Path, kept: Store | None = None) -> None:
    """Collect into `raw`; `work` keeps half-finished downloads and what is known of files."""
    plugin: Any = plugins.load("corpora", config.source)
    corpus: Corpus = plugin(parse(plugin.Config, config.settings, where="settings"))
    with artifacts.new_folder(raw) as draft:
        collected = corpus.collect(draft, work)
        check(collected, draft)
        alone = {piece.path: piece.sha256 for piece in collected.pieces if piece.index is None}
        moved = packs.pack(draft, alone, kept)
        placed = [replace(piece, path=moved.get(piece.path, piece.path)) for piece in collected.pieces]
        pieces = sorted(placed, key=lambda piece: piece.id)
        refused = sorted(collected.refused, key=lambda item: (item.path, item.reason))
        artifacts.write_json(draft / "manifest.json", {"pieces": plain(pieces)})
        artifacts.write_json(draft / "quarantine.json", {"refused": plain(refused)})
    hours = sum(piece.duration_s for piece in pieces) / 3600
    print(f"{len(pieces)} pieces, {hours:.2f} h; {len(refused)} files in {raw / 'quarantine.json'}")


def check(collected: Collected, folder: Path) -> None:
    """Refuse an empty corpus, and hold the source to its protocol."""
    if not collected.pieces:
        reasons = Counter(item.reason for item in collected.refused).most_common(5)
        told = "".join(f"\n  {count} x {reason}" for reason, count in reasons) or "\n  it found no files at all"
        raise ValueError(f"nothing in this corpus is usable:{told}\nCheck its block under `corpora` in params.yaml.")
    ids = Counter(piece.id for piece in collected.pieces)
    for piece in collected.pieces:
        assert re.fullmatch(r"[A-Za-z0-9_.-]+", piece.id) and ids[piece.id] == 1, f"id {piece.id!r}"
    for path, sha256 in {(piece.path, piece.sha256) for piece in collected.pieces}:
        assert artifacts.sha256(folder / path) == sha256, f"sha256 of {path}"


if __name__ == "__main__":
    stage.main(run, work=True, keep=True)
