"""A string is a module: the one place where a name in params.yaml becomes code.

`load("families", "autoencoder")` imports stages/families/autoencoder.py and returns the one class defined there that
follows the folder's protocol. No registry: adding a file adds a plugin.
"""

import importlib
import inspect
import re
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

STAGES = Path(__file__).resolve().parent.parent
PROTOCOLS = {
    "clips": ("stages.protocols.clips", "Clips"),
    "corpora": ("stages.protocols.corpus", "Corpus"),
    "representations": ("stages.protocols.representation", "Representation"),
    "families": ("stages.protocols.model", "GenerativeModel"),
    "networks": ("stages.protocols.network", "Network"),
    "metrics": ("stages.protocols.metric", "Metric"),
    "baselines": ("stages.protocols.baseline", "Baseline"),
}


def names(kind: str) -> list[str]:
    """The plugins of a kind: the files in its folder that define a class of its protocol (networks/ holds others)."""
    _, protocol = PROTOCOLS[kind]
    defines = re.compile(rf"^class \w+\({protocol}\):", re.MULTILINE)
    return sorted(path.stem for path in (STAGES / kind).glob("*.py") if defines.search(path.read_text("utf-8")))


def module(kind: str, name: str) -> ModuleType:
    """Import one plugin's module. ValueError with the nearest name where there is none."""
    if name not in names(kind):
        near = get_close_matches(name, names(kind), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(names(kind))}"
        raise ValueError(f"no {kind} plugin {name!r}{hint}")
    return importlib.import_module(f"stages.{kind}.{name}")


def load(kind: str, name: str) -> type:
    """The plugin's class: the only one in its module that follows the protocol of its kind."""
    home, protocol = PROTOCOLS[kind]
    base = getattr(importlib.import_module(home), protocol)
    found = module(kind, name)
    classes = [
        value
        for value in vars(found).values()
        if inspect.isclass(value) and issubclass(value, base) and value.__module__ == found.__name__
    ]
    if len(classes) != 1:
        raise TypeError(f"stages/{kind}/{name}.py must define one {protocol}, it defines {len(classes)}")
    return classes[0]


def stage(name: str) -> ModuleType:
    """A stage script, for plan alone, which asks each what it reads."""
    return importlib.import_module(f"stages.{name}")
