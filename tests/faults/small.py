"""What the stages read, in small: a corpus as `render` and `split` leave it."""

from pathlib import Path

from stages.media import audio
from stages.pipeline import artifacts
from tests import sounds


def corpus(folder: Path, num_pieces: int = 6, duration_s: float = 1.0) -> Path:
    """folder/audio and folder/split: pieces of chords, one clip each."""
    pieces = {f"p{i}": ("train", "valid", "test")[i % 3] for i in range(num_pieces)}
    clips = []
    for number, piece in enumerate(pieces):
        path = folder / f"audio/files/{piece}-0.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        clip = sounds.clip(sounds.chords(number, duration_s), path.stem)
        audio.write(path, clip)
        about = {"id": path.stem, "piece": piece, "path": f"files/{path.name}", "num_samples": len(clip.samples)}
        clips.append(about | {"sha256": artifacts.sha256(path), "instruments": [], "conditions": {}})
    artifacts.write_json(folder / "audio/manifest.json", {"rate_hz": sounds.RATE_HZ, "clips": clips})
    split = {"pieces": pieces, "groups": {}, "num_excerpts": 4, "excerpt_duration_s": 0.5}
    artifacts.write_json(folder / "split/split.json", split)
    return folder
