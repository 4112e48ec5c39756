"""The faults that are tried, and how many trials of each `make test` plans; fewer tried than planned is a failure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    fault: str
    """The mark of its tests: @pytest.mark.fault(<key>)."""
    holds: str
    planned: int
    """Trials besides the campaigns of kills, whose number the command line says."""


ROWS: dict[str, Row] = {
    "kill": Row(
        "kill -9 at random moments of training, then the same command",
        "weights, averages, optimiser state and log equal the uninterrupted run's, byte by byte",
        1,
    ),
    "checkpoint": Row(
        "killed while writing a checkpoint; a checkpoint flipped, cut, missing, or of other params or form",
        "named; the one before it serves, or it is refused with the difference",
        27,
    ),
    "damage": Row(
        "flipped bit or cut in a cache shard, a rendered file or a pack of them, a finished model, a kept unit",
        "named when read, with the command that rebuilds it; a kept unit is made again",
        60,
    ),
    "signal": Row(
        "SIGTERM, SIGINT", "checkpoint, exit 143 or 130; the next run goes on; nothing half-written in other stages", 3
    ),
    "orphan": Row(
        "the dvc process alone is killed, or who runs several of it, or the main process of a pool",
        "what it started ends within seconds; the next `dvc repro` takes over its lock",
        4,
    ),
    "ranks": Row(
        "a rank killed under torchrun; the stage that started it stopped or killed; a rank's error",
        "all start again from the last checkpoint and end in the same bytes; none stays behind; no error is retried",
        4,
    ),
    "twice": Row("two runs of one stage at once", "the second says so and waits, or is refused; nothing is mixed", 2),
    "full": Row(
        "disk full (RLIMIT_FSIZE) in renderings and their packs, cache, checkpoint, sample, report",
        "an error that names the out; nothing half-written; goes on once there is room",
        6,
    ),
    "worker": Row(
        "a worker, here or of a Dask cluster, killed in the middle of a shard, or out of memory",
        "its units are done again, bytes equal; a unit that always kills is named",
        7,
    ),
    "finite": Row(
        "non-finite loss or gradient", "stopped before the step, clip named; goes on once the clip is mended", 2
    ),
    "tracking": Row(
        "MLflow refused, hung, slow, killed mid-run, locked, created by two at once",
        "the same bytes in every out; published once at the next `publish`; dead runs closed as KILLED",
        12,
    ),
    "download": Row(
        "hostile downloads and archives", "refused with a reason, nothing outside the folder; honest ones resume", 65
    ),
    "media": Row(
        "hostile recordings and MIDI files",
        "quarantined with a reason, in a worker with limits; memory stays flat",
        19,
    ),
    "params": Row("hostile params, checkpoints, models and arrays", "refused by name; nothing executed", 76),
    "ui": Row(
        "`make ui` asked by a foreign host, or for files outside its artifacts",
        "listens on 127.0.0.1 alone; refused; pickle off",
        4,
    ),
}
