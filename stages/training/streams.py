"""A folder of streams: real bytes, a file per clip, and index.json with sizes and sha256; and the clips they decode to.

index.json   {"streams": [{"id", "path", "num_bytes", "sha256"}]}
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stages.media import audio, bitstream
from stages.pipeline import artifacts
from stages.protocols.spec import Code
from stages.training import coding, seeds
from stages.training.model_folder import Loaded

MOST = 8
"""Clips decoded at once."""


def write(folder: Path, loaded: Loaded, codes: Iterable[Code], seed: int, entropy_coding: bool) -> None:
    """Compress every clip; none where the model has no latent. Their seeds start from `seed`."""
    compressible = codes if loaded.model.latent is not None else ()
    entries = [_write(folder, loaded, code, seed, entropy_coding) for code in sorted(compressible, key=lambda c: c.id)]
    artifacts.write_json(folder / "index.json", {"streams": entries})


def _write(folder: Path, loaded: Loaded, code: Code, seed: int, entropy_coding: bool) -> dict[str, Any]:
    """One clip at a time: its bytes must not depend on what else is compressed."""
    (data,) = coding.to_bytes(loaded, [code], [seeds.derive(seed, code.id)], entropy_coding)
    path = folder / f"{code.id}.bin"
    artifacts.write_bytes(path, data)
    return {"id": code.id, "path": path.name, "num_bytes": len(data), "sha256": artifacts.sha256(path)}


def read(folder: Path, loaded: Loaded) -> dict[str, bitstream.Stream]:
    """Every stream by clip id. Damaged or bitstream.Refused, naming the file, where one is not what was written."""
    found = {}
    for entry in artifacts.read_json(folder / "index.json")["streams"]:
        path = folder / entry["path"]
        artifacts.check(path, entry["sha256"], "run `dvc repro -f -s` on the stage that compresses")
        found[entry["id"]] = coding.from_bytes(loaded, path.read_bytes(), str(path))
    return found


def clips(loaded: Loaded, found: Mapping[str, bitstream.Stream], sampling: Any) -> Iterator[Any]:
    """Every stream's clip."""
    for names in coding.alike(found, MOST):
        yield from coding.decode(loaded, names, [found[name] for name in names], sampling)


def keep(folder: Path, path: str, clip: audio.Clip) -> dict[str, Any]:
    """Write a clip as FLAC, limited to full scale; a codec may overshoot it by a little. Non-finite samples raise."""
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    limited = np.clip(clip.samples, -1.0, 1.0)
    audio.write(folder / path, audio.Clip(clip.id, limited, clip.rate_hz))
    return {"id": clip.id, "path": path, "num_samples": len(limited)}
