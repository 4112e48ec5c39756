"""Gather the audio study: the table reports/study/audio.csv, and a page that says what won and plays it.

Nothing is scored here: `audio_judge` left every cell's scores and their resamples, which are compared clip by clip. The
page alone holds times, which the table must not.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.media import audio_study_page, audio_study_table, audio_study_verdict
from stages.media.audio_study_page import Clip, Take
from stages.media.audio_study_table import SI_SDR, Row
from stages.media.audio_study_verdict import CLAIMANT
from stages.numerics import scoring
from stages.pipeline import artifacts, stage
from stages.pipeline.params import Params
from stages.pipeline.stage import Needs
from stages.training.audio_study import Axes


@dataclass(frozen=True)
class Config:
    axes: Axes
    settings: scoring.Settings


def configure(params: Params, key: str | None) -> Needs | None:
    axes, settings = params.block("study", Axes), params.block("evaluate", scoring.Settings)
    return None if axes is None or settings is None else Needs(Config(axes, settings))


def run(
    config: Config, references: Path, samples: Path, scores: Path, speed: Path, audio_csv: Path, audio_html: Path
) -> None:
    axes = config.axes
    about = {"network": axes.network, "tokenisation": axes.representation}
    rows = [row for key in axes.cells for row in audio_study_table.rows(samples / key, scores / f"{key}.json", about)]
    artifacts.write_bytes(audio_csv, audio_study_table.to_csv(rows))
    duels = (audio_study_verdict.compare(rows, one, config.settings.seed) for one in audio_study_verdict.rivals(rows))
    found = [one for one in duels if one is not None]
    clips = artifacts.read_json(references / "manifest.json")["clips"]
    page = audio_study_page.Page(
        sentence=audio_study_verdict.sentence(found, len(clips), axes.seeds),
        comparisons=tuple(found),
        lines=tuple(audio_study_table.lines(rows)),
        decode_rtf={key: rtf for family in axes.families for key, rtf in speeds(speed, family, axes.seeds[0])},
        clips=tuple(
            Clip(clip["id"], tuple(takes(config, rows, samples, references / clip["path"], clip["id"])))
            for clip in clips[: axes.num_played]
        ),
        seeds=axes.seeds,
        num_clips=len(clips),
    )
    artifacts.write_bytes(audio_html, audio_study_page.render(page))


def speeds(speed: Path, family: str, seed: int) -> Iterator[tuple[tuple[str, int], float]]:
    for entry in artifacts.read_json(speed / f"{family}-{seed}.json")["speeds"]:
        yield (family, entry["num_steps"]), entry["decode_rtf"]


def takes(config: Config, rows: Sequence[Row], samples: Path, original: Path, clip: str) -> Iterator[Take]:
    """The original, and the first seed's models: in one step, and the claimant in its most steps."""
    yield audio_study_page.take("original", original)
    seed = config.axes.seeds[0]
    for family in config.axes.families:
        manifest = artifacts.read_json(samples / f"{family}-{seed}/manifest.json")
        own = [row for row in rows if (row.family, row.seed) == (family, seed)]
        shown = [played([row for row in own if row.num_steps == 1], rows)]
        most = max(row.num_steps for row in own)
        shown += [row for row in own if family == CLAIMANT and row.num_steps == most > 1 and row.temperature == 1]
        for row in shown:
            place = manifest["samplers"][own.index(row)]["clips"]
            path = next(samples / f"{family}-{seed}" / entry["path"] for entry in place if entry["id"] == clip)
            told = f"{row.num_steps} step{'s' if row.num_steps > 1 else ''}"
            used = row.measures.get("temperature_used")
            note = told if used is None else f"{told}, temperature {used:g}"
            yield audio_study_page.take(family, path, note)


def played(own: Sequence[Row], rows: Sequence[Row]) -> Row:
    """What validation chose; where nothing is chosen, the temperature whose SI-SDR is nearest to the claimant's."""
    target = next((row.measures.get(SI_SDR) for row in rows if (row.family, row.num_steps) == (CLAIMANT, 1)), None)
    goal = 0.0 if target is None else target
    return min(own, key=lambda row: (row.temperature is not None, abs(row.measures.get(SI_SDR, 0.0) - goal)))


if __name__ == "__main__":
    stage.main(run)
