"""A representation on disk: representation.json names its module, config and version; fitted state lies beside it.

The folder is written by cache and copied into every model, so that streams decode from a model folder alone.
"""

from pathlib import Path
from typing import Any

from stages.pipeline import artifacts, params
from stages.protocols.representation import Representation

NAME = "representation.json"


def version(module: str, form: int, config: Any) -> str:
    """The digest that shards, models and streams carry; `form` rises when the same config comes to mean other codes."""
    return artifacts.digest({"module": module, "form": form, "config": params.plain(config)})[:16]


def save(folder: Path, representation: Representation) -> None:
    """Write module, config and version; what was fitted is the representation's own to write."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "module": type(representation).__module__.rpartition(".")[2],
        "config": params.plain(representation.config),
        "version": representation.spec.version,
    }
    artifacts.write_json(folder / NAME, about)


def config(folder: Path, kind: type[Representation]) -> Any:
    """The config that a representation was saved with."""
    about = _about(folder)
    module = kind.__module__.rpartition(".")[2]
    if about["module"] != module:
        raise ValueError(f"{folder / NAME} was written by the representation {about['module']!r}, not {module!r}")
    return params.parse(kind.Config, about["config"], where=f"{folder / NAME} config")


def check(folder: Path, representation: Representation) -> None:
    """ValueError where what was saved is not what this code would make of the same config."""
    written = _about(folder)["version"]
    if written != representation.spec.version:
        raise ValueError(
            f"{folder} was written as version {written}, this code makes version {representation.spec.version} of it: "
            "rebuild the cache and the model with `dvc repro`, or use the code that wrote them"
        )


def _about(folder: Path) -> Any:
    if not (folder / NAME).is_file():
        raise ValueError(f"{folder} holds no {NAME}: it is not a representation's folder")
    return artifacts.read_json(folder / NAME)
