"""The rim of a stage script: from `python -m stages.train KEY` to `run(config, *deps, *outs)`.

The plan file holds the config, and the paths that dvc.yaml declares in their order, without the plan file itself.
"""

import ctypes
import importlib.metadata
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

import stages
from stages.pipeline import artifacts, params, ranks, store

PLAN = Path("data/plan")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""mallopt's names for what it returns to the kernel at once, malloc.h."""
KEPT_BYTES = 1 << 30


@dataclass(frozen=True)
class Needs:
    """What a stage's `configure(params, key)` answers: its config, and the plugins that it will load by name."""

    config: Any
    plugins: tuple[tuple[str, str], ...] = ()


def main(run: Callable[..., None], *, work: bool = False, keep: bool = False) -> None:
    """Read argv and the plan file, then call `run(config, *deps, *outs)`.

    With `work`, `run` gets one more argument: a folder that outlives a killed run, private to this plan and these
    inputs, so that nothing stale is ever resumed. With `keep`, it gets the store of its finished units.
    """
    if os.environ.get("DVC_STAGE") or ranks.launched():
        die_with_parent()
    keep_memory()
    name = Path(sys.argv[0]).stem
    key = sys.argv[1] if len(sys.argv) > 1 else None
    plan_file = path_of(name, key)
    plan = artifacts.read_json(plan_file)
    check_versions(plan["versions"])
    if plan["entry"] != entry_digest(Path("dvc.yaml"), name):
        sys.exit(f"dvc.yaml has another {name} stage than {plan_file} was made from: run `dvc repro -f plan`")
    paths: list[Any] = [Path(path) for path in plan["deps"] + plan["outs"]]
    config = params.parse(run.__annotations__["config"], plan["config"], where=f"{plan_file} config")
    if work:
        paths.append(work_folder(name, key, [plan_file, *map(Path, plan["deps"])]))
    kept = store.of(name, key, plan, Path(stages.__file__).parent.parent) if keep else None
    with running(name, key), doubting([Path(path) for path in plan["deps"]]):
        run(config, *paths, *([kept] if kept else []))
        if kept:
            kept.forget()


def running(name: str, key: str | None) -> AbstractContextManager[None]:
    """Inside, no other process runs the same stage in this folder; copies for `dvc exp run --temp` have their own.

    Of ranks that work together (torchrun, on a cluster) the first holds the lock.
    """
    if not ranks.first():
        return nullcontext()
    told = name if key is None else f"{name}@{key}"
    return artifacts.alone(Path(".work/running") / f"{told}.lock", f"runs {told} here")


@contextmanager
def doubting(deps: Sequence[Path]) -> Iterator[None]:
    """Where something read inside is damaged, nothing it lay in is believed any more."""
    try:
        yield
    except artifacts.Damaged:
        for dep in deps:
            artifacts.distrust(dep)
        raise


def entry_digest(dvc_yaml: Path, stage: str) -> str:
    """What dvc.yaml says of a stage's paths; DVC lets no stage depend on dvc.yaml itself, so each checks its entry."""
    entry = YAML(typ="safe").load(dvc_yaml)["stages"][stage]
    paths = entry.get("do", entry)
    return artifacts.digest({key: paths.get(key) for key in ("deps", "outs", "metrics")})[:16]


def path_of(stage: str, key: str | None) -> Path:
    return PLAN / f"{stage}.json" if key is None else PLAN / stage / f"{key}.json"


def work_folder(stage: str, key: str | None, inputs: list[Path]) -> Path:
    """$DVC_ROOT/.work/<stage>/<key>-<hash>; DVC deletes outs before a stage runs, so resume state lives here."""
    files = (path for item in inputs for path in ([item] if item.is_file() else sorted(item.rglob("*"))))
    indexes = [path for path in files if path.is_file() and not path.name.startswith("shard_")]  # index.json has theirs
    identity = artifacts.digest([[path.as_posix(), artifacts.sha256(path)] for path in indexes])
    folder = Path(os.environ.get("DVC_ROOT", ".")) / ".work" / stage / f"{key or 'all'}-{identity[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def die_with_parent() -> None:
    """End when who started this ends, dvc, torchrun or `make repro`, however it ends (Linux): an orphan would go on.

    Needs `exec` in cmd.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG
        if os.getppid() != stages.PARENT:  # it died before the call
            sys.exit("what started this has gone; stopping")


def keep_memory() -> None:
    """Have glibc keep what tensors free for the next ones; asking the kernel each time costs a tenth of training."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for setting in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            libc.mallopt(setting, KEPT_BYTES)


def check_versions(pinned: dict[str, str]) -> None:
    """Results are hashed under the pinned versions: refuse to compute them with others."""
    wrong = [
        f"{name} is {importlib.metadata.version(name)}, constraints.txt pins {version}"
        for name, version in sorted(pinned.items())
        if importlib.metadata.version(name).split("+")[0] != version
    ]
    if wrong:
        sys.exit("; ".join(wrong) + ": run `make install`, or pin what you have in constraints.txt")
