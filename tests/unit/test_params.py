"""params.yaml is read strictly: all problems at once, each with key, value, expected type and the nearest name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from stages.pipeline import params


@dataclass(frozen=True)
class Inner:
    size: int = 1


@dataclass(frozen=True)
class Config:
    num_steps: int
    learning_rate: float = 0.1
    kind: Literal["rvq", "fsq"] = "rvq"
    limits: tuple[int, ...] = ()
    name: str | None = None
    inner: Inner = Inner()
    more: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if self.num_steps < 1:
            raise ValueError(f"num_steps = {self.num_steps}: expected at least 1")


def write(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    return params.read(path)


def test_values_of_every_type():
    values = {
        "num_steps": 3,
        "learning_rate": 1,
        "limits": [1, 2],
        "name": None,
        "inner": {"size": 4},
        "more": {"a": [1]},
    }
    config = params.parse(Config, values, where="train")
    assert config == Config(3, 1.0, "rvq", (1, 2), None, Inner(4), {"a": [1]})
    assert isinstance(config.learning_rate, float)
    assert params.parse(Config, params.plain(config), where="again") == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_steps": "abc"}, "train.num_steps = 'abc': expected int, found str"),
        ({"num_steps": 1.5}, "train.num_steps = 1.5: expected int, found float"),
        ({"num_steps": True}, "train.num_steps = True: expected int, found bool"),
        ({"num_steps": 1, "learning_rate": "1e-3"}, "train.learning_rate = '1e-3': expected float"),
        ({"num_steps": 1, "kind": "rqv"}, "train.kind = 'rqv': expected rvq | fsq; did you mean 'rvq'?"),
        ({"num_step": 1}, "train.num_step: unknown key; did you mean 'num_steps'?"),
        ({}, "train.num_steps: missing, expected int"),
        ({"num_steps": 0}, "train: num_steps = 0: expected at least 1"),
        ({"num_steps": 1, "limits": ["a"]}, "train.limits[0] = 'a': expected int"),
        ({"num_steps": 1, "inner": {"sise": 1}}, "train.inner.sise: unknown key; did you mean 'size'?"),
    ],
)
def test_each_problem_is_named(values, message):
    with pytest.raises(ValueError) as caught:
        params.parse(Config, values, where="train")
    assert message in str(caught.value)


def test_all_problems_at_once():
    with pytest.raises(ValueError) as caught:
        params.parse(Config, {"num_step": 1, "learning_rate": "x", "kind": 3}, where="train")
    assert len(str(caught.value).splitlines()) == 4


def test_a_float_as_dvc_writes_it(tmp_path):
    """`dvc exp run -S train.learning_rate=1e-5` writes 1e-05, which YAML 1.1 readers take for text."""
    tree = write(tmp_path, "train: {num_steps: 1, learning_rate: 1e-05}\n")
    assert tree.block("train", Config) == Config(1, 1e-5)


def test_shared_sections_and_overrides(tmp_path):
    tree = write(tmp_path, "train: {num_steps: 1, learning_rate: 0.5}\nexperiments: {a: {train: {num_steps: 7}}}\n")
    block = tree.mapping("experiments.a")
    assert tree.shared("train", Config, block["train"], "experiments.a.train") == Config(7, 0.5)
    tree.finish()


def test_a_key_that_nothing_reads_is_a_problem(tmp_path):
    tree = write(tmp_path, "train: {num_steps: 1, lerning_rate: 0.5}\ntrian: {}\n")
    tree.shared("train", Config, {}, "experiments.a.train")
    with pytest.raises(ValueError) as caught:
        tree.finish()
    assert "train.lerning_rate: nothing reads this key; did you mean 'learning_rate'?" in str(caught.value)
    assert "trian: nothing reads this key; did you mean 'train'?" in str(caught.value)


def test_an_override_that_nothing_reads_is_a_problem(tmp_path):
    tree = write(tmp_path, "train: {num_steps: 1}\nexperiments: {a: {train: {num_stepps: 7}}}\n")
    tree.shared("train", Config, tree.mapping("experiments.a")["train"], "experiments.a.train")
    with pytest.raises(
        ValueError, match="experiments.a.train.num_stepps: nothing reads this key; did you mean 'num_st"
    ):
        tree.finish()


@pytest.mark.parametrize("text", ["- 1\n", "a: !!python/object:os.system x\n", "a: [\n", "a: 1\na: 2\n"])
def test_what_is_not_plain_yaml_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match="params.yaml"):
        write(tmp_path, text)
