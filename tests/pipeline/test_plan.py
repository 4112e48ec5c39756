"""The firewall, on a toy copy of the repo: the exact set of stages that DVC would rerun after each kind of change."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stages import plan
from tests import planning

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = ("autoencoder_mdct", "improved_mean_flow_mdct")
ENVIRONMENT = os.environ | {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "DVC_NO_ANALYTICS": "true",
    "OMP_NUM_THREADS": "1",
}


def command(folder, *words):
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def of(stages, experiments=EXPERIMENTS):
    return {f"{stage}@{name}" for stage in stages for name in experiments}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The repo's code and params with stand-in outs, committed to DVC: nothing is left to do."""
    folder = tmp_path_factory.mktemp("toy")
    for name in ("dvc.yaml", "params.yaml", "constraints.txt", ".dvcignore"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "stages", folder / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    command(folder, "git", "init", "-q")
    command(folder, "dvc", "init", "-q")
    command(folder, "python", "-m", "stages.plan")
    written = {path.relative_to(folder).as_posix(): path for path in (folder / "data/plan").rglob("*.json")}
    plans = {name: json.loads(path.read_text()) for name, path in written.items()}
    assert plans == planning.planned(folder, folder)
    paths = sorted({path for item in plans.values() for path in item["outs"] + item["deps"]}, key=len, reverse=True)
    for path in map(Path, paths):
        if path.suffix and not (folder / path).exists():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text("{}")
        elif not path.suffix:
            (folder / path).mkdir(parents=True, exist_ok=True)
            (folder / path / "stand_in").write_text(str(path))
    command(folder, "dvc", "commit", "-q", "-f")
    assert json.loads(command(folder, "dvc", "status", "--json")) == {}
    return folder


def rerun(toy, edits):
    """Apply {path: (old, new) or text}, plan again, ask DVC, and put everything back."""
    before = {path: (toy / path).read_text() if (toy / path).exists() else None for path in edits}
    try:
        for path, edit in edits.items():
            if isinstance(edit, tuple):
                assert edit[0] in before[path], f"{path} no longer holds {edit[0]!r}"
                (toy / path).write_text(before[path].replace(*edit, 1))
            else:
                (toy / path).write_text((before[path] or "") + edit)
        planning.write(toy, toy)
        return planning.stale(toy) - {"plan"}
    finally:
        for path, text in before.items():
            (toy / path).unlink() if text is None else (toy / path).write_text(text)
        planning.write(toy, toy)


MODEL = ("train", "compress", "sample", "speed")
AUTOENCODER = of(MODEL, EXPERIMENTS[:1]) | {"train@improved_mean_flow_mdct"}
"""What runs its code: the flow loads it to start from it."""
CASES = {
    "a comment in code": ({"stages/networks/convnext.py": "\n# a remark\n"}, set()),
    "a comment in params": ({"params.yaml": "\n# a remark\n"}, set()),
    "an edit in a network": ({"stages/networks/convnext.py": "\nEDITED = 1\n"}, of(MODEL)),
    "an edit in one family": ({"stages/families/autoencoder.py": "\nEDITED = 1\n"}, AUTOENCODER),
    "a new transitive import": (
        {
            "stages/families/autoencoder.py": "\nfrom stages.numerics import newcomer\n",
            "stages/numerics/newcomer.py": "VALUE = 1\n",
        },
        AUTOENCODER,
    ),
    "an edit in tracking": ({"stages/pipeline/tracking.py": "\nEDITED = 1\n"}, set()),
    "a width": ({"params.yaml": ("latent_dim: ", "latent_dim: 1")}, of(("train", "evaluate"))),
    "a sampling number": ({"params.yaml": ("num_new_clips: ", "num_new_clips: 1")}, of(("sample", "evaluate"))),
    "a corpus": ({"params.yaml": ("num_pieces: ", "num_pieces: 1")}, {"download@music"} | of(("evaluate",))),
    "another loudness": (
        {"params.yaml": ("loudness_lufs: -23", "loudness_lufs: -20")},
        {"render@music"} | of(("evaluate",)),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_change_reruns_exactly_what_depends_on_it(toy, case):
    edits, expected = CASES[case]
    assert rerun(toy, edits) == expected


def test_a_numerical_library_reruns_what_imports_it(toy):
    edit = {"constraints.txt": ("\npesq==", "\npesq==9.")}
    assert rerun(toy, edit) == of(("evaluate",)) | {"baseline"}


def test_one_experiment_overrides_alone(toy):
    edit = {"params.yaml": ("    family: autoencoder\n", "    family: autoencoder\n    train: {num_steps: 7}\n")}
    assert rerun(toy, edit) == of(("train", "evaluate"), EXPERIMENTS[:1])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  latent_dim: ", "  latent_dmi: ", "model.latent_dmi: nothing reads this key; did you mean 'latent_dim'?"),
        ("family: autoencoder", "family: autoencodr", "did you mean 'autoencoder'?"),
        ("num_steps: ", "num_steps: abc # ", "num_steps = 'abc': expected int"),
        ("  autoencoder_mdct:", "  auto-encoder:", "a name holds only a-z, 0-9 and _"),
        ("representation: mdct", "representation: x; rm -rf y", "expected the name of a block"),
        ("start_from: autoencoder_mdct", "start_from: autoencoder_mdc", "did you mean 'autoencoder_mdct'?"),
        ("source: chorales", "source: chorals", "did you mean 'chorales'?"),
    ],
)
def test_nothing_starts_with_wrong_params(tmp_path, monkeypatch, old, new, message):
    """The message a user reads, for what DVC itself lets through."""
    text = (ROOT / "params.yaml").read_text()
    assert old in text
    for name in ("dvc.yaml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "params.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError) as caught:
        plan.make(tmp_path)
    assert message in str(caught.value)


def test_every_problem_is_reported_at_once(tmp_path):
    text = (ROOT / "params.yaml").read_text()
    for name in ("dvc.yaml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    text = text.replace("  latent_dim: ", "  latent_dmi: ").replace("seed: 0", "seed: x")
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ValueError) as caught:
        plan.make(tmp_path)
    assert "latent_dmi" in str(caught.value) and "seed = 'x'" in str(caught.value)


def test_the_schema_is_current(monkeypatch, capfdbinary):
    """Rewrite it with `make schema`."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["plan", "--schema"])
    plan.main()
    assert json.loads(capfdbinary.readouterr().out) == json.loads((ROOT / "params.schema.json").read_text())
