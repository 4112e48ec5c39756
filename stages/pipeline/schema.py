"""params.schema.json: what editors need to complete and check params.yaml, made from the config classes themselves."""

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union

from stages.pipeline import params, plugins

CHOICES = {"source": "corpora", "module": "representations", "family": "families", "network": "networks"}
"""Keys whose value names a plugin, and the plugin's kind."""


def build(readers: Mapping[str, list[type]]) -> dict[str, Any]:
    """The schema of params.yaml, from the configs that the stages parsed at each place."""
    sections: dict[str, Any] = {}
    for where, configs in sorted(readers.items()):
        section, _, key = where.partition(".")
        if key:
            sections[section] = blocks(section, configs)
        else:
            sections[section] = merged(configs)
    for name in params.OVERRIDES:
        sections["experiments"]["additionalProperties"]["properties"][name] = {"$ref": f"#/properties/{name}"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Partita params.yaml",
        "type": "object",
        "additionalProperties": False,
        "properties": sections,
    }


def blocks(section: str, configs: list[type]) -> dict[str, Any]:
    """A mapping from names to blocks; where a block names its plugin, one alternative for each plugin there is."""
    selector = {"corpora": "source", "representations": "module"}.get(section)
    if selector is None:
        each = merged(configs)
    else:
        each = {"anyOf": [of_plugin(selector, section, name) for name in plugins.names(section)]}
    return {"type": "object", "propertyNames": {"pattern": "^[a-z0-9_]+$"}, "additionalProperties": each}


def of_plugin(selector: str, kind: str, name: str) -> dict[str, Any]:
    schema = merged([plugins.load(kind, name).Config])
    schema["properties"][selector] = {"const": name}
    if kind == "representations":
        schema["properties"] |= {"corpus": {"type": "string"}, "clips": {"enum": ["audio", "raw"]}}
    schema["required"] = sorted({*schema.get("required", []), selector})
    return schema


def merged(configs: Iterable[type]) -> dict[str, Any]:
    """One object that holds every field of the configs; defaults and descriptions stand beside the types."""
    properties: dict[str, Any] = {}
    for config in configs:
        hints, notes = typing.get_type_hints(config), notes_of(config)
        for field in dataclasses.fields(config):
            entry = of_type(hints[field.name])
            if field.name in CHOICES:
                entry = of_type(str) | {"enum": plugins.names(CHOICES[field.name])}
            if field.default is not dataclasses.MISSING and isinstance(field.default, bool | int | float | str):
                entry["default"] = field.default
            if field.name in notes:
                entry["description"] = notes[field.name]
            properties[field.name] = entry
    return {"type": "object", "additionalProperties": False, "properties": properties}


def of_type(hint: Any) -> dict[str, Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return {"anyOf": [of_type(item) for item in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return {"type": "array", "items": of_type(arguments[0])}
    if dataclasses.is_dataclass(hint):
        return merged([hint])  # type: ignore[list-item]
    if origin is not None and issubclass(origin, Mapping):
        return {"type": "object"}
    if hint is Any:
        return {}
    return {"type": {int: "integer", float: "number", bool: "boolean", str: "string", type(None): "null"}[hint]}


def notes_of(config: type) -> dict[str, str]:
    """The strings that stand below the fields of a config class, and of those it extends."""
    notes = {}
    for base in config.__bases__:
        notes |= notes_of(base) if dataclasses.is_dataclass(base) else {}
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    body = node.body if isinstance(node, ast.ClassDef) else []
    for field, text in zip(body, body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            if isinstance(text.value, ast.Constant) and isinstance(text.value.value, str):
                notes[field.target.id] = inspect.cleandoc(text.value.value)
    return notes
