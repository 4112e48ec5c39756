"""params.yaml, read strictly: every problem at once, each with its key, value, expected type and nearest name.

A config is a frozen dataclass; its field types are the schema. Later layers override earlier ones, and a shared
section may hold keys that only some readers know: each reader claims what it knows, and what nobody claimed is a
problem too.
"""

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

T = TypeVar("T")
MOST_BYTES, MOST_VALUES = 10_000_000, 100_000
"""Of params.yaml."""
OVERRIDES = ("model", "train", "sample", "evaluate")
SCRATCH = "scratch"
"""What an experiment starts from that starts from no other."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One block of `experiments`: a representation and a family, and what it overrides of the shared sections."""

    representation: str
    family: str
    classifier: str
    start_from: str
    """The experiment from whose model this one takes over what both have in common; scratch: from none."""
    network: str | None = None
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    train: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sample: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    evaluate: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Params:
    """The tree of params.yaml, who claimed which key, and every problem found so far."""

    def __init__(self, tree: Mapping[str, Any]) -> None:
        self.tree = tree
        self.problems: list[str] = []
        self.readers: dict[str, list[type]] = {}
        """Dotted place -> the configs parsed from it; the schema is made from these."""
        self._claimed: dict[str, set[str]] = {}
        self._known: dict[str, set[str]] = {}

    def mapping(self, where: str) -> Mapping[str, Any]:
        """The mapping at a dotted path; a problem and {} where there is none."""
        value: Any = self.tree
        for part in where.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        self._claimed.setdefault("", set()).add(where.split(".")[0])
        if isinstance(value, Mapping):
            return value
        self.problem(f"{where}: expected a mapping, found {value!r}")
        return {}

    def problem(self, text: str) -> None:
        if text not in self.problems:
            self.problems.append(text)

    def block(self, where: str, config: type[T], *, without: tuple[str, ...] = ()) -> T | None:
        """Parse the block at `where`, every key of which must be a field; None where there were problems.

        `without` names keys of the block that another reader parses.
        """
        values = {key: value for key, value in self.mapping(where).items() if key not in without}
        self.readers.setdefault(where, []).append(config)
        return self._parse(config, values, where)

    def shared(self, section: str, config: type[T], overrides: Mapping[str, Any], where: str) -> T | None:
        """Parse a shared section with an experiment's overrides, taking the keys that `config` knows."""
        known = {field.name for field in dataclasses.fields(config)}  # type: ignore[arg-type]
        base = self.mapping(section)
        self._claimed.setdefault(section, set()).update(known & set(base))
        self._claimed.setdefault(where, set()).update(known & set(overrides))
        self.readers.setdefault(section, []).append(config)
        for scope in (section, where):
            self._known.setdefault(scope, set()).update(known)
        values = {key: value for key, value in base.items() if key in known and key not in overrides}
        values |= {key: value for key, value in overrides.items() if key in known}
        places = {key: f"{where}.{key}" if key in overrides else f"{section}.{key}" for key in known}
        return self._parse(config, values, section, places)

    def experiment(self, name: str) -> Experiment | None:
        return self.block(f"experiments.{name}", Experiment)

    def finish(self) -> None:
        """Raise ValueError with all problems, unclaimed keys among them."""
        for scope, claimed in list(self._claimed.items()):
            values = self.tree if scope == "" else self._at(scope)
            known = claimed | self._known.get(scope, set())
            for key in values:
                if key not in claimed:
                    name = f"{scope}.{key}" if scope else str(key)
                    self.problem(f"{name}: nothing reads this key{near(str(key), known)}")
        if self.problems:
            raise ValueError("params.yaml has problems:\n" + "\n".join(f"  {text}" for text in self.problems))

    def _at(self, scope: str) -> Mapping[str, Any]:
        value: Any = self.tree
        for part in scope.split("."):
            value = value.get(part, {}) if isinstance(value, Mapping) else {}
        return value if isinstance(value, Mapping) else {}

    def _parse(
        self, config: type[T], values: Mapping[str, Any], where: str, places: Mapping[str, str] | None = None
    ) -> T | None:
        try:
            return parse(config, values, where=where, places=places)
        except ValueError as problem:
            for line in str(problem).splitlines():
                self.problem(line)
            return None


def read(path: Path) -> Params:
    """Read params.yaml (YAML 1.2, plain data only). ValueError where it is not a mapping."""
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, at most {MOST_BYTES:,} are read")
    try:
        tree = YAML(typ="safe").load(path)
        num_values = size(tree, {})
    except (YAMLError, RecursionError) as problem:
        raise ValueError(f"{path} is not valid YAML: {str(problem) or 'it is nested too deep'}") from problem
    if num_values > MOST_VALUES:
        raise ValueError(f"{path} unfolds to {num_values:,} values by its aliases, at most {MOST_VALUES:,} are read")
    if not isinstance(tree, dict):
        raise ValueError(f"{path} must hold a mapping, it holds {tree!r}")
    return Params(tree)


def size(tree: Any, known: dict[int, int]) -> int:
    """Values in the tree where every alias is written out; in an instant, however many. RecursionError for a ring."""
    if id(tree) not in known:
        inner = tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, list) else ()
        known[id(tree)] = 1 + sum(size(value, known) for value in inner)
    return known[id(tree)]


def parse(config: type[T], values: Mapping[str, Any], *, where: str, places: Mapping[str, str] | None = None) -> T:
    """Construct the dataclass from plain values. ValueError lists every problem, a line each."""
    hints = typing.get_type_hints(config)
    fields = {field.name: field for field in dataclasses.fields(config)}  # type: ignore[arg-type]
    place = {name: f"{where}.{name}" for name in fields} | dict(places or {})
    problems = [f"{where}.{key}: unknown key{near(str(key), set(fields))}" for key in values if key not in fields]
    arguments: dict[str, Any] = {}
    for name, field in fields.items():
        if name in values:
            try:
                arguments[name] = convert(values[name], hints[name], place[name])
            except ValueError as problem:
                problems.extend(str(problem).splitlines())
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            problems.append(f"{place[name]}: missing, expected {describe(hints[name])}")
    if problems:
        raise ValueError("\n".join(problems))
    try:
        return config(**arguments)
    except ValueError as problem:  # raised by __post_init__: a range or a combination
        raise ValueError("\n".join(f"{where}: {line}" for line in str(problem).splitlines())) from problem


def convert(value: Any, hint: Any, where: str) -> Any:
    """A plain YAML value as the type of its field; int serves as float, list as tuple, nothing else is bent."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (inner,) = (item for item in arguments if item is not type(None))
        return convert(value, inner, where)
    if origin is Literal:
        if value in arguments and type(value) in {type(item) for item in arguments}:
            return value
        raise ValueError(f"{where} = {value!r}: expected {describe(hint)}{near(str(value), set(arguments))}")
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(convert(item, arguments[0], f"{where}[{i}]") for i, item in enumerate(value))
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return parse(hint, value, where=where)  # type: ignore[arg-type]
    if origin is not None and isinstance(value, Mapping) and issubclass(origin, Mapping):
        return {str(key): convert(item, arguments[1], f"{where}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    raise ValueError(f"{where} = {value!r}: expected {describe(hint)}, found {type(value).__name__}")


def describe(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return " | ".join(str(item) for item in typing.get_args(hint))
    return getattr(hint, "__name__", str(hint)) if typing.get_origin(hint) is None else str(hint)


def near(name: str, known: set[Any]) -> str:
    found = get_close_matches(name, sorted(str(item) for item in known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def plain(config: Any) -> Any:
    """A config as JSON data, the inverse of `parse`."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {key: plain(value) for key, value in config.items()}
    if isinstance(config, tuple | list):
        return [plain(item) for item in config]
    return config


def leaves(tree: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every leaf, for MLflow and the report."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from leaves(value, f"{where}.{key}" if where else str(key))
    else:
        yield where, tree
