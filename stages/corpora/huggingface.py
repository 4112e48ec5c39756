"""A dataset of sound on the Hugging Face Hub, or a folder in one of its formats (parquet, audiofolder, webdataset).

Rows are streamed in the dataset's own order and no further than asked; give `revision` (a commit) to get the same ones
for ever. They are taken as Arrow tables, so nothing is decoded by `datasets` and none of the dataset's code runs. Only
sound inside the dataset is read: a row may name a file of the dataset, but no other file and no link.
An id is the row's file name and a hash of its bytes; the same bytes twice are used once. A killed run starts again.

Quentin Lhoest et al., "Datasets: A Community Library for Natural Language Processing", EMNLP 2021,
https://huggingface.co/docs/datasets/stream.
"""

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from stages.media import recordings, tree
from stages.pipeline.workers import Guard, map_units
from stages.protocols.corpus import Collected, Corpus, Piece, Refused

REMEDY = "Check dataset, subset, split, revision and network; private or gated ones need HF_TOKEN in the environment."
LINKS = "Links are not followed: download what they lead to, where its terms allow, and use `source: folder`."


@dataclass(frozen=True)
class HuggingFaceConfig:
    dataset: str
    """owner/name, or a folder."""
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    audio_column: str = "audio"
    licence_column: str | None = None
    """A row's terms; without it, or where it is empty, the dataset card's."""
    num_pieces: int = 100
    """Rows read, of which the unusable are refused; 0 takes all."""
    longest_s: float = 3600.0
    most_bytes: int = 200_000_000
    """Of one recording."""

    def __post_init__(self) -> None:
        if not self.dataset or self.num_pieces < 0 or self.longest_s <= 0 or self.most_bytes <= 0:
            raise ValueError(f"{self}: expected a dataset, num_pieces of 0 (all) or more, longest_s and most_bytes > 0")


class HuggingFace(Corpus):
    """`source: huggingface`."""

    Config: ClassVar[type] = HuggingFaceConfig
    config: HuggingFaceConfig

    def collect(self, folder: Path, work: Path) -> Collected:
        from tqdm import tqdm

        config, pieces, refused = self.config, {}, []
        (folder / "files").mkdir(parents=True)
        for k, row in enumerate(tqdm(rows(config), total=config.num_pieces or None, unit="row")):
            if k == 0:
                check_columns(config, row)
                licence = card_licence(config)
            data, name = sound(row[config.audio_column])
            file = Path(name.split("::")[0])  # of zip://song.wav::archive.zip the song
            terms = (config.licence_column and row[config.licence_column]) or licence
            try:
                data = content(config, name) if data is None else data
                sha256 = hashlib.sha256(data).hexdigest()
                if sha256 in pieces:
                    raise ValueError("the same bytes as an earlier row")
                pieces[sha256] = save(config, folder, data, sha256, file.stem, str(terms))
            except ValueError as problem:
                refused.append(Refused(f"row {k} {file.name}".strip(), str(problem)))
        return Collected(tuple(pieces.values()), tuple(refused))


@contextmanager
def explained(dataset: str) -> Iterator[None]:
    """Say which dataset failed and what to do; `datasets` has tried again by itself."""
    try:
        yield
    except (OSError, ValueError) as problem:
        kind = OSError if isinstance(problem, OSError) else ValueError
        raise kind(f"dataset = {dataset!r} cannot be read: {problem}\n{REMEDY}") from problem


def rows(config: HuggingFaceConfig) -> Iterator[Mapping[str, Any]]:
    """The first rows of the split, each only when it is asked for."""
    from datasets import load_dataset

    with explained(config.dataset):
        where: dict[str, Any] = {"name": config.subset, "split": config.split, "revision": config.revision}
        tables: Any = load_dataset(config.dataset, **where, streaming=True).with_format("arrow")
        for table in itertools.islice(tables, config.num_pieces or None):
            yield table.to_pylist()[0]


def card_licence(config: HuggingFaceConfig) -> str:
    """What the dataset card says of its licence; empty without a card."""
    from huggingface_hub import DatasetCard, hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    path = Path(config.dataset) / "README.md"
    with explained(config.dataset):
        if not Path(config.dataset).is_dir():
            with suppress(RemoteEntryNotFoundError):
                path = Path(hf_hub_download(config.dataset, path.name, repo_type="dataset", revision=config.revision))
        facts = DatasetCard.load(path, ignore_metadata_errors=True).data.to_dict() if path.is_file() else {}
    return ", ".join(str(facts[key]) for key in ("license", "license_name", "license_link") if facts.get(key))


def check_columns(config: HuggingFaceConfig, row: Mapping[str, Any]) -> None:
    """Refuse a dataset by its first row: a column that is not there, or links in place of sound."""
    cells = {name: sound(value) for name, value in row.items()}
    linking = [name for name, (data, path) in cells.items() if data is None and re.match("https?://", path)]
    told = f"; {', '.join(linking)} holds links, no sound. {LINKS}" if linking else ""
    names = f"the columns of {config.dataset} are {', '.join(row)}"
    if config.audio_column not in row or config.audio_column in linking:
        raise ValueError(f"audio_column = {config.audio_column!r}: {names}{told}")
    if config.licence_column and config.licence_column not in row:
        raise ValueError(f"licence_column = {config.licence_column!r}: {names}")


def sound(value: Any) -> tuple[bytes | None, str]:
    """The bytes and the path in a cell, which may be either or a struct of both."""
    data, path = (value.get("bytes"), value.get("path")) if isinstance(value, Mapping) else (value, value)
    return data if isinstance(data, bytes) else None, path if isinstance(path, str) else ""


def content(config: HuggingFaceConfig, path: str) -> bytes:
    """The bytes of the dataset's file that a row names, packed or not. ValueError where it is none of its files."""
    from datasets.utils.file_utils import xopen

    *archives, place = path.split("::")
    local = Path(config.dataset).is_dir()
    root = f"{Path(config.dataset).resolve()}/" if local else f"hf://datasets/{config.dataset}@"
    inside = (str(Path(place).resolve()) if local else place).startswith(root)
    if not path or not inside or not all(part.startswith(("zip://", "tar://", "gzip://")) for part in archives):
        raise ValueError("the row has no sound, and names no file of the dataset")
    try:
        with explained(config.dataset), xopen(path, "rb") as file:
            return file.read(config.most_bytes + 1)
    except OSError as problem:
        if local or isinstance(problem.__cause__, FileNotFoundError):
            raise ValueError("the row names a file that cannot be opened") from problem
        raise


def save(config: HuggingFaceConfig, folder: Path, data: bytes, sha256: str, stem: str, licence: str) -> Piece:
    """Write a recording, named by its content, and read it. ValueError says why it is none."""
    import soundfile

    if len(data) > config.most_bytes:
        raise ValueError(f"larger than most_bytes = {config.most_bytes}")
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "_", stem).strip("._-")[:64] or "row"
    path = folder / "files" / f"{slug}-{sha256[:12]}"
    path.write_bytes(data)
    try:
        guard = Guard(tree.MEMORY_GB, tree.CPU_S, refuse)
        (duration_s,) = map_units(recordings.duration_s, [path], guard=guard)
        if duration_s > config.longest_s:
            raise ValueError(f"longer than longest_s = {config.longest_s:g}")
    except ValueError:
        path.unlink()
        raise
    final = path.rename(f"{path}.{soundfile.info(path).format.lower()}")
    return Piece(path.name, final.relative_to(folder).as_posix(), "audio", round(duration_s, 6), sha256, licence)


def refuse(path: Path, reason: str) -> float:
    """In place of the duration of a recording that broke its worker."""
    raise ValueError(reason)
