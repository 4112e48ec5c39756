"""The plan of the house holds: stages and scripts are one, names become code in one place, layers point downwards."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
PIPELINES = {
    folder: YAML(typ="safe").load(ROOT / folder / "dvc.yaml")["stages"] for folder in (".", "study", "audio_study")
}
STAGES = [(folder, name) for folder, graph in PIPELINES.items() for name in graph]
BELOW = "exec env PYTHONPATH=..:$PYTHONPATH python"
CODE = {".": "exec python", "study": BELOW, "audio_study": BELOW}
"""How a pipeline's commands find the code."""
SOURCES = sorted((ROOT / "stages").rglob("*.py"))


def test_a_file_in_stages_is_a_stage():
    scripts = {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"}
    assert scripts == {name for _, name in STAGES}


def has_keys(folder, name):
    return not {"foreach", "matrix"}.isdisjoint(PIPELINES[folder][name])


@pytest.mark.parametrize("folder, name", STAGES)
def test_each_stage_says_what_it_does_and_runs_its_own_script(folder, name):
    entry = PIPELINES[folder][name].get("do", PIPELINES[folder][name])
    assert entry["desc"]
    expected = f"{CODE[folder]} -m stages.{name}" + (" ${key}" if has_keys(folder, name) else "")
    assert entry["cmd"] == expected


@pytest.mark.parametrize("folder, name", [stage for stage in STAGES if stage[1] != "plan"])
def test_each_stage_depends_on_its_own_plan_file_first(folder, name):
    entry = PIPELINES[folder][name].get("do", PIPELINES[folder][name])
    expected = f"data/plan/{name}/${{key}}.json" if has_keys(folder, name) else f"data/plan/{name}.json"
    assert entry["deps"][0] == expected
    assert "params" not in entry


def test_names_become_code_in_one_place():
    dynamic = [p for p in SOURCES if re.search(r"import_module|__import__|spec_from_file", p.read_text())]
    assert [p.relative_to(ROOT).as_posix() for p in dynamic] == ["stages/pipeline/plugins.py"]


def test_only_tracking_imports_mlflow():
    users = [p for p in SOURCES if re.search(r"^\s*(import|from) mlflow", p.read_text(), re.M)]
    assert [p.relative_to(ROOT).as_posix() for p in users] == ["stages/pipeline/tracking.py"]


def test_layers():
    done = subprocess.run([Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT / "stages").as_posix())
def test_a_file_is_a_page(path):
    """A stage has about 120 lines, a family about 300, and no function is longer than a screen."""
    lines = path.read_text().count("\n")
    assert lines <= (120 if path.parent.name == "stages" else 350)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno <= 60, node.name
