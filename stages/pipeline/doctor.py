"""What could keep this repository from running on this machine, and what to do about each finding.

`make doctor` runs it; exit 1 where something must be mended. A note changes nothing but may explain a surprise.
"""

import fcntl
import importlib.metadata
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.pipeline import code, tracking, workers

LEAST_PYTHON = (3, 11)
LEAST_FREE_GB, ENOUGH_FREE_GB = 1.0, 8.0
"""Below the first nothing can be written with confidence; a default run with its environment takes the second."""


@dataclass(frozen=True)
class Finding:
    kind: Literal["good", "note", "mend"]
    what: str
    remedy: str = ""


def examine(root: Path) -> Iterator[Finding]:
    yield from python()
    yield from versions(root)
    yield from disk(root)
    yield from threads(root)
    yield from gpu()
    yield from mlflow(root)
    yield from dvc(root)
    yield from identity(root)


def python() -> Iterator[Finding]:
    found = ".".join(map(str, sys.version_info[:3]))
    wanted = ".".join(map(str, LEAST_PYTHON))
    if sys.version_info < LEAST_PYTHON:
        yield Finding("mend", f"Python {found}", f"install {wanted} or newer and `make install PYTHON=/path/to/it`")
    else:
        yield Finding("good", f"Python {found}")


def versions(root: Path) -> Iterator[Finding]:
    """Results are hashed under the pins; what no pin names does not matter."""
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", (root / "constraints.txt").read_text(), re.MULTILINE))
    installed = {code.canonical(item.metadata["Name"]): item.version for item in importlib.metadata.distributions()}
    wrong = [
        f"{name} {installed[key]} (pinned {version})"
        for name, version in sorted(pins.items())
        if (key := code.canonical(name)) in installed and installed[key].split("+")[0] != version
    ]
    if wrong:
        yield Finding("mend", f"other versions than constraints.txt: {', '.join(wrong)}", "`make install`")
    wanted = tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"]
    names = [re.split(r"[<>=!~;\[ ]", item)[0] for item in wanted]
    if missing := sorted(name for name in names if code.canonical(name) not in installed):
        yield Finding("mend", f"not installed: {', '.join(missing)}", "`make install`")
    if not wrong and not missing:
        yield Finding("good", "installed versions are those of constraints.txt")


def disk(root: Path) -> Iterator[Finding]:
    if not os.access(root, os.W_OK):
        yield Finding(
            "mend", f"{root.resolve()} cannot be written to", "take a folder of yours, or mend its permissions"
        )
    free_gb = shutil.disk_usage(root).free / 1e9
    kind = "mend" if free_gb < LEAST_FREE_GB else "note" if free_gb < ENOUGH_FREE_GB else "good"
    remedy = "free some space; `dvc gc -w` removes results that no params.yaml of the workspace asks for"
    yield Finding(kind, f"{free_gb:.1f} GB free", "" if kind == "good" else remedy)
    runs = [folder for folder in (root / ".work").glob("*") if folder.name != "store"]  # which is links to outs
    state_gb = sum(path.stat().st_size for run in runs for path in run.rglob("*") if path.is_file()) / 1e9
    if state_gb > 1.0:
        yield Finding(
            "note", f".work holds {state_gb:.1f} GB of unfinished runs", "delete those you will not go on with"
        )


def threads(root: Path) -> Iterator[Finding]:
    cores = workers.num_cores()
    wanted = number_of_threads(root)
    if wanted is not None and wanted > cores:
        yield Finding(
            "note", f"train.num_threads = {wanted}, {cores} cores", "lower it; results depend on it, speed too"
        )
    if os.environ.get("OMP_WAIT_POLICY", "").upper() != "PASSIVE":
        yield Finding("note", "OMP_WAIT_POLICY is not PASSIVE", "export it: on a busy machine threads spin otherwise")
    yield Finding("good", f"{cores} cores")


def number_of_threads(root: Path) -> int | None:
    try:
        return int(YAML(typ="safe").load(root / "params.yaml")["train"]["num_threads"])
    except (OSError, YAMLError, KeyError, TypeError, ValueError):
        return None  # `plan` says what is wrong with params.yaml


def gpu() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        yield Finding("good", f"GPU: {torch.cuda.get_device_name(0)}")
    elif shutil.which("nvidia-smi"):
        yield Finding(
            "mend", "a GPU that torch cannot use", "compare `nvidia-smi` with `python -m torch.utils.collect_env`"
        )
    else:
        yield Finding("note", "no GPU", "training runs on the CPU")


def mlflow(root: Path) -> Iterator[Finding]:
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    path = root / "mlflow.db" if not uri else Path(uri.removeprefix("sqlite:///"))
    if not tracking.wanted():
        yield Finding("note", "tracking is off (PARTITA_TRACKING)")
    elif uri and not uri.startswith("sqlite:///"):
        try:
            tracking.connect()
            yield Finding("good", f"MLflow answers at {uri}")
        except tracking.Unreachable as problem:
            yield Finding("mend", f"MLflow at {uri}: {problem}", "start the server, or unset MLFLOW_TRACKING_URI")
    elif not path.exists():
        yield Finding("good", "no MLflow database yet; the first run makes one")
    else:
        yield database(path)


def database(path: Path) -> Finding:
    if (answer := whole(path)) != "ok":
        return Finding(
            "mend", f"{path} is damaged: {answer}", "move it away, then `make ui` publishes the results anew"
        )
    try:
        connection = sqlite3.connect(path, timeout=1.0)
        try:
            connection.execute("BEGIN IMMEDIATE")
        finally:
            connection.close()
    except sqlite3.OperationalError as problem:
        return Finding("mend", f"{path}: {problem}", "end the process that holds it, or wait for it")
    return Finding("good", "the MLflow database is whole and free")


def whole(path: Path) -> str:
    """ok, or what is wrong with a sqlite file; one that is locked may be whole."""
    try:
        connection = sqlite3.connect(path, timeout=1.0)
        try:
            return str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        finally:
            connection.close()
    except sqlite3.OperationalError:
        return "ok"
    except sqlite3.DatabaseError as problem:
        return str(problem)


def dvc(root: Path) -> Iterator[Finding]:
    if not (root / ".dvc").is_dir():
        yield Finding("mend", "no DVC repository", "`dvc init`, or clone the whole repository")
        return
    try:
        lock = YAML(typ="safe").load(root / "dvc.lock") if (root / "dvc.lock").exists() else {}
        stages = (lock or {}).get("stages", {})
        yield Finding("good", f"dvc.lock knows {len(stages)} stages")
        yield from outs(root, stages)
    except (YAMLError, AttributeError):  # a conflict may leave YAML that is no mapping
        yield Finding("mend", "dvc.lock is not whole", "settle the merge conflict in it, or delete it and `dvc repro`")
    yield from state(root)
    try:
        holders = running(root)
    except json.JSONDecodeError:  # read while it was being written
        holders = ["a command that is just taking its locks"]
    if not holders and is_held(root / ".dvc/tmp/lock"):
        holders = ["a command that holds .dvc/tmp/lock"]
    if holders:
        yield Finding("note", f"dvc works here now: {', '.join(holders)}", "other dvc commands wait or are refused")


def outs(root: Path, stages: Mapping[str, Any]) -> Iterator[Finding]:
    """Results that dvc.lock knows and the workspace lacks."""
    paths = [out["path"] for stage in stages.values() for out in stage.get("outs") or ()]
    if missing := sorted(path for path in paths if not (root / path).exists()):
        told = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        remedy = "`dvc checkout` brings back what is in the cache, `dvc pull` from a remote, `dvc repro` makes the rest"
        yield Finding("note", f"{len(missing)} results of dvc.lock are not on disk: {told}", remedy)


def state(root: Path) -> Iterator[Finding]:
    """DVC's memory of what it has hashed, which lies outside the repository; a damaged one ends every command."""
    from dvc.exceptions import DvcException

    try:
        folder = state_folder(root)
    except DvcException as problem:
        yield Finding("mend", f"DVC cannot open this repository: {problem}", "look at .dvc/config")
        return
    except sqlite3.DatabaseError as problem:  # the variable goes before what state_folder asks with
        place = os.environ.get("DVC_SITE_CACHE_DIR")
        yield Finding("mend", f"DVC's state in {place} is damaged: {problem}", "remove that folder; it is made anew")
        return
    for path in sorted(folder.glob("*/cache.db")):
        if (answer := whole(path)) != "ok":
            yield Finding("mend", f"DVC's state is damaged: {path}: {answer}", f"`rm -r {folder}`; it is made anew")


def state_folder(root: Path) -> Path:
    """Where DVC keeps it: asked with another place in its stead, since opening a damaged one raises."""
    from dvc.config import Config
    from dvc.dirs import site_cache_dir
    from dvc.repo import Repo

    place = Config(str(root / ".dvc"))["core"].get("site_cache_dir")
    with tempfile.TemporaryDirectory() as aside:
        with Repo(str(root), config={"core": {"site_cache_dir": aside}}) as repo:
            return Path(site_cache_dir(place)) / "repo" / Path(repo.site_cache_dir).name


def is_held(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def running(root: Path) -> list[str]:
    """Processes in DVC's table of readers and writers that live; DVC itself clears the dead."""
    path = root / ".dvc/tmp/rwlock"
    entries = json.loads(path.read_text() or "{}") if path.exists() else {}
    parts = [part for entry in entries.values() for part in (entry.get("write"), *(entry.get("read") or [])) if part]
    found = {int(part["pid"]): str(part["cmd"]) for part in parts}
    return [
        f"{command} (process {number})" for number, command in sorted(found.items()) if Path(f"/proc/{number}").exists()
    ]


def identity(root: Path) -> Iterator[Finding]:
    """`dvc exp run` keeps experiments as commits."""
    for name, variable in (("user.name", "GIT_AUTHOR_NAME"), ("user.email", "GIT_AUTHOR_EMAIL")):
        asked = subprocess.run(["git", "-C", root, "config", name], capture_output=True, text=True)
        if not asked.stdout.strip() and not os.environ.get(variable):
            yield Finding("mend", f"git has no {name}: a second `dvc exp run` would fail", f"`git config {name} ...`")
            return
    yield Finding("good", "git knows who you are")


def main() -> None:
    findings = list(examine(Path(".")))
    for finding in findings:
        print(f"{finding.kind:5} {finding.what}" + (f": {finding.remedy}" if finding.remedy else ""))
    sys.exit(any(finding.kind == "mend" for finding in findings))


if __name__ == "__main__":
    main()
