"""Turn MIDI into audio with a SoundFont; pieces that come as audio are only resampled.

Out: FLAC files (24 kHz, mono, 16 bit) in packs (pipeline/packs.py), manifest.json, quarantine.json. A rendering depends
on its piece, the seed and its number, not on other pieces or the number of workers; so it is kept (pipeline/store.py).
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from stages.media import audio, midi, recordings, synth
from stages.pipeline import artifacts, packs, stage
from stages.pipeline.params import Params, plain
from stages.pipeline.stage import Needs
from stages.pipeline.store import Store
from stages.pipeline.workers import Guard

RATE_HZ = 24_000
LONGEST_S = 600  # longer recordings become several clips, so that no later stage meets an hour at once
MEMORY_GB, CPU_S = 12.0, 3600  # of one piece: two hours of MIDI take 6 GB


@dataclass(frozen=True)
class Config:
    instruments: Literal["per_voice", "per_piece", "as_written"] = "per_voice"
    num_renderings: int = 1
    loudness_lufs: float = -23.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_renderings < 1:
            raise ValueError(f"num_renderings = {self.num_renderings}: expected at least 1")
        if self.instruments == "as_written" and self.num_renderings > 1:
            raise ValueError(f"num_renderings = {self.num_renderings}: renderings as_written are all alike, expected 1")
        if not -70.0 < self.loudness_lufs <= -5.0:
            raise ValueError(f"loudness_lufs = {self.loudness_lufs}: expected between -70 and -5")


def configure(params: Params, key: str | None) -> Needs | None:
    """Read renderings.<key>, whose key is a corpus."""
    if key not in params.mapping("corpora"):
        params.problem(f"renderings.{key}: there is no corpus of that name")
    return (config := params.block(f"renderings.{key}", Config)) and Needs(config)


def run(config: Config, raw: Path, audio_folder: Path, kept: Store | None = None) -> None:
    """Render or resample every piece of `raw`."""
    pieces = artifacts.read_json(raw / "manifest.json")["pieces"]
    units = [(p, k) for p in pieces for k in range(config.num_renderings if p["kind"] == "midi" else 1)]
    with artifacts.new_folder(audio_folder) as draft:
        how = plain(replace(config, num_renderings=1))  # a recording is only resampled
        depends = [[p["id"], p["path"], p["sha256"], k, how if p["kind"] == "midi" else p["kind"]] for p, k in units]
        guard = Guard(MEMORY_GB, CPU_S, lost)
        results, moved = packs.map_units(kept, partial(make, config, raw), units, depends, draft, guard)
        clips = sorted((clip for made, _ in results for clip in made), key=lambda clip: clip["id"])
        reasons = {item["path"]: item for _, item in results if item}  # one for all renderings of a piece
        refused = [reasons[path] for path in sorted(reasons)]
        if not clips:
            raise ValueError(f"no piece of {raw} could be rendered: {refused[:3]}; see its manifest.json")
        clips = [clip | {"path": moved.get(clip["path"], clip["path"])} for clip in clips]
        artifacts.write_json(draft / "manifest.json", {"rate_hz": RATE_HZ, "clips": clips})
        artifacts.write_json(draft / "quarantine.json", {"refused": refused})
    hours = sum(clip["num_samples"] for clip in clips) / RATE_HZ / 3600
    print(f"{len(clips)} clips, {hours:.2f} h; {len(refused)} pieces in {audio_folder / 'quarantine.json'}")


Made = tuple[list[dict[str, Any]], dict[str, str] | None]


def make(config: Config, raw: Path, draft: Path, unit: tuple[dict[str, Any], int]) -> Made:
    """The clips of one piece's rendering as written under `draft`, or why there are none."""
    piece, k = unit
    if piece["kind"] not in ("midi", "audio"):
        return lost(unit, f"a piece of kind {piece['kind']} has no sound")
    (draft / "files").mkdir(exist_ok=True)
    remedy = f"run `dvc repro -f -s download@{raw.name}`"
    with packs.unpacked(raw, piece["path"], piece["sha256"], remedy, draft) as file:
        try:
            if piece["kind"] == "midi":
                return [rendered(config, file, draft, piece["id"], k)], None
            return recorded(file, draft, piece["id"]), None
        except ValueError as problem:
            return lost(unit, str(problem))


def lost(unit: tuple[dict[str, Any], int], reason: str) -> Made:
    return [], {"path": unit[0]["path"], "reason": reason}


def rendered(config: Config, path: Path, draft: Path, piece: str, k: int) -> dict[str, Any]:
    """One rendering of a MIDI piece, its instruments drawn from (seed, piece, k)."""
    score = midi.read(path.read_bytes(), f"{piece}-{k}")
    if config.instruments == "as_written":
        programs = tuple(voice.program for voice in score.voices)
        clip = synth.as_written(score, RATE_HZ, config.loudness_lufs)
    else:
        num_drawn = len(score.voices) if config.instruments == "per_voice" else 1
        programs = synth.draw(num_drawn, config.seed, score.id) * (len(score.voices) // num_drawn)
        clip = synth.per_voice(score, programs, RATE_HZ, config.loudness_lufs)
    names = ["Drums" if v.is_drum else synth.name_of(p) for v, p in zip(score.voices, programs, strict=True)]
    return save(draft, piece, clip, names)


def recorded(path: Path, draft: Path, piece: str) -> list[dict[str, Any]]:
    """A recording as clips of at most LONGEST_S, resampled."""
    recordings.duration_s(path)  # all of it or nothing: what breaks off raises here, before a clip is written
    return [save(draft, piece, clip, []) for clip in recordings.clips(path, piece, RATE_HZ, LONGEST_S)]


def save(draft: Path, piece: str, clip: audio.Clip, instruments: list[str]) -> dict[str, Any]:
    path = draft / "files" / f"{clip.id}.flac"
    audio.write(path, clip)
    about = {"id": clip.id, "piece": piece, "path": path.relative_to(draft).as_posix(), "conditions": {}}
    return about | {"num_samples": len(clip.samples), "sha256": artifacts.sha256(path), "instruments": instruments}


if __name__ == "__main__":
    stage.main(run, keep=True)
