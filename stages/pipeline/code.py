"""What code a stage runs, by meaning: the static import closure of its files, each hashed without comments or layout.

DVC does not see imports, so this is what keeps a changed helper from hiding behind a stale cache. The walk is over the
syntax tree without docstrings, as nested (type, non-empty fields) lists: `ast.dump` differs between Python versions.
"""

import ast
import hashlib
import importlib.metadata
import json
import re
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

EXEMPT = frozenset({"stages/pipeline/tracking.py"})
"""Mirrors results and changes none: a test holds that tracking off gives the same bytes."""
SILENT = frozenset({"cloudpickle", "distributed", "joblib", "jinja2", "mlflow", "ruamel", "tqdm"})
"""Libraries that carry no numbers into an out."""


class Code:
    """The code below a folder as it stands: no file is read twice."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._data = cache(lambda path: (root / path).read_bytes())
        self._brings = cache(self._brings_of)
        self._pins = cache(self._pinned)

    def closure(self, starts: Iterable[str]) -> list[str]:
        """Files that the start files import from `stages`, and their namesakes (page.html beside page.py)."""
        found: set[str] = set()
        waiting = list(starts)
        while waiting:
            path = waiting.pop()
            if path not in found and path not in EXEMPT:
                found.add(path)
                waiting += self._brings(path)
        return sorted(found)

    def versions(self, files: Iterable[str]) -> dict[str, str]:
        """Pinned versions of the libraries that these import. ValueError where one is not in constraints.txt."""
        distributions, pins = _distributions(), self._pins()
        tops = {name.split(".")[0] for path in files if path.endswith(".py") for name in self.imports(path)}
        found = {}
        for top in sorted(tops - SILENT - {"stages"} - set(sys.stdlib_module_names)):
            name = canonical(distributions.get(top, [top])[0])
            if name not in pins:
                raise ValueError(
                    f"constraints.txt does not pin {name!r}, which {top!r} is imported from; add {name}==VERSION"
                )
            found[name] = pins[name]
        return found

    def fingerprint(self, path: str) -> str:
        """A short hash of what a file means; of its bytes where it is not Python."""
        data = self._data(path)
        return meant(data) if path.endswith(".py") else hashlib.sha256(data).hexdigest()[:16]

    def imports(self, path: str) -> tuple[str, ...]:
        """Dotted names that a file imports, wherever the statement stands."""
        return imported(self._data(path))

    def _brings_of(self, path: str) -> list[str]:
        """What comes with a file, itself not followed."""
        file = self.root / path
        if file.suffix != ".py":
            return []
        beside = [other for other in file.parent.glob(f"{file.stem}.*") if other.suffix not in (".py", ".pyc")]
        packages = [each for each in (file.parent / "__init__.py", self.root / "stages/__init__.py") if each.is_file()]
        modules = [found for name in self.imports(path) for found in self._modules(name)]
        return [str(other.relative_to(self.root)) for other in (*beside, *packages)] + modules

    def _modules(self, name: str) -> list[str]:
        """The file of a dotted `stages` name (its last part may be an attribute); nothing for other packages."""
        parts = name.split(".")
        if parts[0] != "stages":
            return []
        for length in (len(parts), len(parts) - 1):
            path = Path(*parts[:length])
            for file in (path.with_suffix(".py"), path / "__init__.py"):
                if (self.root / file).is_file():
                    return [file.as_posix()]
        return []

    def _pinned(self) -> dict[str, str]:
        text = (self.root / "constraints.txt").read_text()
        return {canonical(name): version for name, version in re.findall(r"(?m)^([\w.-]+)==(\S+)", text)}


@cache
def imported(source: bytes) -> tuple[str, ...]:
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise ValueError(
                f"from {'.' * node.level}{node.module or ''} import ...: name modules in full, from stages on"
            )
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += (f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(found)


@cache
def meant(source: bytes) -> str:
    return hashlib.sha256(json.dumps(meaning(ast.parse(source))).encode()).hexdigest()[:16]


def meaning(node: Any) -> Any:
    """A syntax tree as nested lists, without docstrings, positions and empty fields."""
    if isinstance(node, list):
        return [meaning(item) for item in node]
    if not isinstance(node, ast.AST):
        return [type(node).__name__, repr(node)]
    fields = []
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            value = [item for item in value if not is_text(item)]
        if value not in (None, []) and not (name == "kind" and isinstance(node, ast.Constant)):
            fields.append([name, meaning(value)])
    return [type(node).__name__, fields]


def is_text(node: ast.AST) -> bool:
    """A docstring, or a string that documents the line above it."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
