"""The model folder: what was saved comes back bit by bit, in another process too, and a changed byte is refused."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stages.pipeline import artifacts, plugins
from stages.training import model_folder
from tests import fakes

FACTS = model_folder.Facts(
    "tiny", "quantised", "frames", {"num_steps": 3, "selected": {"num_steps": 2, "criterion": "mse", "value": 0.5}}
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(plugins, "load", fakes.load)
    case = fakes.case("quantised")
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/log.jsonl").write_text("{}\n")
    model_folder.save(tmp_path / "tiny", case.model(), case.representation, case.statistics, FACTS)
    return tmp_path / "tiny"


def test_what_was_saved_comes_back(folder):
    loaded, original = model_folder.load(folder), fakes.case("quantised").model()
    assert not loaded.model.training
    assert loaded.model.config == original.config
    for name, value in original.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value)
    facts = loaded.facts
    assert (facts["name"], facts["family"], facts["representation"]) == ("tiny", "quantised", "frames")
    assert facts["version"] == "frames 1" and facts["model"] == fakes.plain("quantised")
    assert set(facts["sha256"]) == {
        *("README.md", "log.jsonl", "model.safetensors", "statistics.safetensors"),
        "representation/representation.json",
    }


def test_the_rate_is_that_of_fixed_packing(folder):
    """8 codes need 3 bits, 2000 frames a second: 6 kbit/s."""
    assert model_folder.load(folder).facts["bitrate_kbps"] == 6.0
    assert "6.00 kbit/s" in (folder / "README.md").read_text()


def test_equal_models_are_equal_bytes(folder, tmp_path):
    case = fakes.case("quantised")
    (tmp_path / "again").mkdir()
    (tmp_path / "again/log.jsonl").write_text("{}\n")
    model_folder.save(tmp_path / "again", case.model(), case.representation, case.statistics, FACTS)
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    assert all((tmp_path / "again" / file).read_bytes() == (folder / file).read_bytes() for file in files)


def test_every_flipped_byte_is_refused_by_name(folder):
    for name in artifacts.read_json(folder / "model.json")["sha256"]:
        data = (folder / name).read_bytes()
        for place in {0, len(data) // 2, len(data) - 1}:
            (folder / name).write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
            with pytest.raises(artifacts.Damaged, match=f"{name} is damaged.*dvc repro -f -s train@tiny"):
                model_folder.load(folder)
        (folder / name).write_bytes(data)
    assert model_folder.load(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "representation/representation.json"])
def test_a_missing_file_is_named_with_its_remedy(name, folder):
    (folder / name).unlink()
    with pytest.raises(artifacts.Damaged, match=f"{name} is missing; run `dvc repro -f -s train@tiny`"):
        model_folder.load(folder)


def test_a_changed_index_is_refused(folder):
    text = (folder / "model.json").read_text()
    for old, new in (('"width": 8', '"width": 9'), ('"tiny"', '"tony"'), ("}", "")):
        (folder / "model.json").write_text(text.replace(old, new))
        with pytest.raises(artifacts.Damaged, match=r"model\.json is"):
            model_folder.load(folder)


def test_another_version_of_the_representation_is_refused(folder):
    facts = artifacts.read_json(folder / "model.json")
    facts = {name: value for name, value in facts.items() if name != "digest"} | {"version": "frames 0"}
    artifacts.write_json(folder / "model.json", facts | {"digest": artifacts.digest(facts)})
    with pytest.raises(ValueError, match="version frames 0 of frames, this code makes frames 1"):
        model_folder.load(folder)


def test_it_loads_in_a_process_that_has_only_the_folder(folder):
    script = (
        "import sys; from pathlib import Path; from stages.pipeline import plugins; from tests import fakes\n"
        "plugins.load = fakes.load\n"
        "from stages.training import model_folder; print(model_folder.load(Path(sys.argv[1])).facts['name'])"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", script, folder], cwd=root, capture_output=True, text=True)
    assert done.stdout == "tiny\n", done.stderr


def test_the_card_says_what_it_is_and_how_to_use_it(folder):
    card = (folder / "README.md").read_text()
    for part in (
        "# tiny",
        "`quantised`",
        "`frames`",
        "model_folder.load",
        "licence",
        "lowest mse (0.5)",
        "model.width",
    ):
        assert part in card
    assert "| train.num_steps | 3 |" in card
