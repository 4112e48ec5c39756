"""The report says what its files say, plays what its manifests say, and asks nothing of anyone."""

import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from stages import report
from stages.media import audio, dag, leaderboard, listening, plots
from stages.pipeline import artifacts, code, params
from tests import synthetic_reports
from tests.browser import CHROMIUM, browser
from tests.synthetic_reports import EXPERIMENTS, QUALITY

ROOT = Path(__file__).resolve().parents[2]
STAGES = (
    dag.Stage("cache", "Encode", ("mdct",), ()),
    dag.Stage("train", "Fit", EXPERIMENTS, ("cache",)),
    dag.Stage("evaluate", "Score", EXPERIMENTS, ("cache", "train")),
)


def write(root: Path, experiments=EXPERIMENTS) -> Path:
    outs = (root / "index.html", root / "assets", root / "leaderboard.json")
    report.run(report.Config(experiments, STAGES), root / "experiments", root / "baselines", root / "speed", *outs)
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write(synthetic_reports.build(tmp_path_factory.mktemp("reports")))


class Table(HTMLParser):
    """The text of every cell of the table with an id, by row."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.inside, self.rows = name, False, []

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.inside = dict(attrs).get("id") == self.name
        elif self.inside and tag == "tr":
            self.rows.append([])
        elif self.inside and tag in ("td", "th"):
            self.rows[-1].append({"text": "", **dict(attrs)})
        elif self.inside and tag == "small":
            self.rows[-1][-1]["text"] += " "

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "table"

    def handle_data(self, data):
        if self.inside and self.rows and self.rows[-1]:
            self.rows[-1][-1]["text"] += data.strip()


def table(page: Path, name="leaderboard") -> dict[str, dict[str, dict]]:
    parser = Table(name)
    parser.feed(page.read_text())
    _, *rows = parser.rows
    keys = [column.key for column in leaderboard.COLUMNS]
    return {row[0]["text"].strip(): dict(zip(keys, row[1:], strict=True)) for row in rows}


# ---- in a browser


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path (Debian: apt install chromium)")
def test_in_a_browser_everything_plays_and_nothing_is_asked_of_others(made):
    with browser() as page:
        page.open(made / "index.html")
        players = page.evaluate(LISTENED)
        expected = durations(made)
        assert {name: seconds for name, seconds in players.items() if name in expected} == pytest.approx(
            expected, abs=1e-3
        )
        assert len(players) > len(expected), "baselines play too"
        assert page.evaluate(LOOKED_AT)

        page.evaluate("document.querySelectorAll('#leaderboard thead button')[2].click()")  # SI-SDR, the best first
        names = page.evaluate(NAMES)
        sdr = {name: values[1] for name, values in QUALITY.items() if values[1] is not None}
        assert names[: len(sdr)] == sorted(sdr, key=sdr.__getitem__, reverse=True), "what is missing goes last"

        position, paused = page.evaluate(SWITCHED)
        assert position >= 0.4 and paused, "another version goes on at the same place, alone"
        for width, dark in ((1280, True), (390, False)):
            page.open(made / "index.html", width=width, dark=dark, mobile=width < 500)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "only tables scroll sideways"
        assert page.problems() == []
        asked = {url for url in page.requests() if not url.startswith("data:")}
        assert {url.split("/assets/")[0].removesuffix("/index.html") for url in asked} == {made.resolve().as_uri()}


NAMES = "[...document.querySelectorAll('#leaderboard tbody th')].map((cell) => cell.textContent.trim())"

LISTENED = """Promise.all([...document.querySelectorAll("audio")].map((audio) => new Promise((resolve) => {
  const name = decodeURIComponent(audio.getAttribute("src"));
  const done = () => resolve([name, audio.error ? audio.error.message : audio.duration]);
  if (audio.readyState > 0 || audio.error) done();
  audio.onloadedmetadata = audio.onerror = done;
}))).then(Object.fromEntries)"""

LOOKED_AT = """Promise.all([...document.images].map((image) => {
  image.loading = "eager";
  return image.decode();
})).then(() => [...document.images].every((image) => image.naturalWidth > 0))"""

SWITCHED = """(async () => {
  const [first, second] = document.querySelectorAll("#listen .take");
  first.querySelector("button").click();
  first.querySelector("audio").currentTime = 0.4;
  await new Promise((resolve) => first.querySelector("audio").onseeked = resolve);
  const started = new Promise((resolve) => second.querySelector("audio").onseeked = resolve);
  second.querySelector("button").click();
  await started;
  return [second.querySelector("audio").currentTime, first.querySelector("audio").paused];
})()"""


def durations(root: Path) -> dict[str, float]:
    """What the manifests of the experiments say, by the file that plays it."""
    found = {}
    for name in EXPERIMENTS:
        manifest = json.loads((root / "experiments" / name / "manifest.json").read_text())
        for clip in manifest["clips"]:
            found[f"assets/clips/{clip['id']}/original.flac"] = clip["duration_s"]
            found[f"assets/clips/{clip['id']}/{name}.flac"] = clip["duration_s"]
        found |= {f"assets/new/{name}/{clip['id']}.flac": clip["duration_s"] for clip in manifest["new"]}
    return found


# ---- what the page says


def test_every_address_on_the_page_is_one_of_its_own(made):
    text = (made / "index.html").read_text()
    addresses = re.findall(r"""\b(?:src|href|action|data|poster|srcset)\s*=\s*["']?([^"'\s>]+)""", text)
    addresses += re.findall(r"""url\(["']?([^"')]+)""", text)
    assert len(addresses) > 20
    assert all(re.match(r"(#|data:|assets/)", address) for address in addresses), addresses
    assert not re.search(r"@import|fetch\(|XMLHttpRequest|WebSocket", text)


def test_the_table_holds_the_numbers_of_the_files(made):
    rows = table(made / "index.html")
    assert set(rows) == set(QUALITY)
    for name, (bitrate, si_sdr, *_) in QUALITY.items():
        for key, value in (("bitrate_kbps", bitrate), ("si_sdr_db", si_sdr)):
            text = rows[name][key]["text"].split()[0]
            assert text == ("–" if value is None else f"{value:.2f}".replace("-", "−")), (name, key)
    assert rows["improved_mean_flow_mdct"]["decode_rtf"]["text"].split() == ["0.0036", "278×"]
    assert rows["opus_12kbps"]["pesq_wb"]["text"].split()[-1] == "n=11"


def test_what_is_missing_is_a_dash_with_its_reasons(made):
    cell = table(made / "index.html")["original"]["si_sdr_db"]
    assert cell["text"].strip() == "–" and "data-value" not in cell
    assert cell["title"] == "not scored: 24 × identical signals: infinite"


def test_the_best_is_marked_among_codecs_at_a_comparable_rate(made):
    rows = table(made / "index.html")
    best = {key: [name for name in rows if "best" in rows[name][key].get("class", "")] for key in rows["original"]}
    assert best["si_sdr_db"] == ["autoencoder_mdct"], "64 kbps of MP3 have more, at ten times the rate"
    assert best["mel_distance"] == ["improved_mean_flow_mdct"]
    assert best["bitrate_kbps"] == best["num_parameters"] == []


def test_leaderboard_json_merges_scores_and_speed(made):
    found = json.loads((made / "leaderboard.json").read_text())
    assert list(found) == list(EXPERIMENTS)
    assert found["autoencoder_mdct"]["si_sdr_db"] == 10.03
    assert found["autoencoder_mdct"]["decode_rtf"] == 0.0016
    assert set(found["autoencoder_mdct"]) <= {column.key for column in leaderboard.COLUMNS}


def test_a_removed_experiment_leaves_no_trace(tmp_path):
    root = write(synthetic_reports.build(tmp_path), experiments=("autoencoder_mdct",))
    text = (root / "index.html").read_text()
    assert "improved_mean_flow_mdct" not in re.sub(r"<section id=\"pipeline\">.*", "", text, flags=re.S)
    assert not list((root / "assets").rglob("*improved_mean_flow*"))
    assert list(json.loads((root / "leaderboard.json").read_text())) == ["autoencoder_mdct"]
    assert 'id="parameters"' not in text, "one experiment differs from nothing"


def test_markup_in_names_and_values_is_shown_not_obeyed(tmp_path):
    root = synthetic_reports.build(tmp_path, num_clips=1, experiments=("autoencoder_mdct",))
    folder = root / "experiments" / "autoencoder_mdct"
    evil = "<script>alert('&')</script>"
    metrics = artifacts.read_json(folder / "metrics.json") | {"stoi_failures": {evil: 3}, evil: 1.0}
    artifacts.write_json(folder / "metrics.json", metrics)
    folder.joinpath("training.jsonl").write_text(
        json.dumps({"step": 1, "split": "train", "player": "model", evil: 0.5})
    )
    shutil.copytree(folder, root / "experiments" / "other")
    artifacts.write_json(root / "experiments" / "other" / "params.json", {"model.note": evil})
    shutil.copy(root / "speed" / "autoencoder_mdct.json", root / "speed" / "other.json")
    text = (write(root, ("autoencoder_mdct", "other")) / "index.html").read_text()
    assert text.count("<script>") == 1 and "alert('" not in text
    assert text.count("&lt;script&gt;alert") >= 4


def test_the_same_files_make_the_same_bytes(made, tmp_path):
    again = write(synthetic_reports.build(tmp_path / "again"))
    outs = [made / "index.html", made / "leaderboard.json", *(made / "assets").rglob("*")]
    for path in filter(Path.is_file, outs):
        assert artifacts.sha256(path) == artifacts.sha256(again / path.relative_to(made)), path


def test_an_experiment_without_clips_or_training_still_has_a_page(tmp_path):
    root = synthetic_reports.build(tmp_path, num_clips=1, experiments=("autoencoder_mdct",))
    folder = root / "experiments" / "autoencoder_mdct"
    artifacts.write_json(folder / "manifest.json", {"clips": [], "new": [], "figures": []})
    artifacts.write_json(folder / "metrics.json", {"num_parameters": 12})
    folder.joinpath("training.jsonl").write_text("")
    text = (write(root, ("autoencoder_mdct",)) / "index.html").read_text()
    assert 'id="listen"' not in text and ">12<" in text


# ---- its parts


def test_loudness_is_matched_without_clipping():
    time = np.arange(24000) / 24000
    tone = np.sin(2 * math.pi * 440 * time).astype(np.float32)
    clips = [audio.Clip("a", 0.25 * tone, 24000), audio.Clip("b", 0.05 * tone, 24000), audio.Clip("c", 0 * tone, 24000)]
    levels = [listening.synth.loudness(clip.samples, clip.rate_hz) for clip in clips]
    assert listening.matched(clips, levels, levels[0]) == pytest.approx([0, 20 * math.log10(5), 0], abs=0.01)
    spiky = audio.Clip("d", np.where(np.arange(24000) == 500, 0.9, 0.05 * tone).astype(np.float32), 24000)
    levels = [listening.synth.loudness(clip.samples, clip.rate_hz) for clip in (clips[0], spiky)]
    gains = listening.matched([clips[0], spiky], levels, levels[0])
    assert 0.9 * 10 ** (gains[1] / 20) <= 1.0
    assert levels[0] + gains[0] == pytest.approx(levels[1] + gains[1], abs=0.02), "all are lowered together"


def test_the_files_that_play_are_equally_loud(made):
    for folder in (made / "assets" / "clips").iterdir():
        clips = [audio.read(path, path.stem) for path in sorted(folder.glob("*.flac"))]
        levels = [listening.synth.loudness(clip.samples, clip.rate_hz) for clip in clips]
        assert len(levels) > 4 and max(levels) - min(levels) < 0.1


def test_a_tone_is_drawn_at_its_height():
    """The mel scale: half of the picture's height lies at 700 (exp(m/2) - 1) Hz, m the mel number of the top."""
    time = np.arange(24000) / 24000
    middle_hz = 700 * (math.sqrt(1 + 12000 / 700) - 1)
    spectrum = listening.spectrum_db(audio.Clip("a", np.sin(2 * math.pi * middle_hz * time).astype(np.float32), 24000))
    assert abs(int(spectrum[280].argmax()) - listening.SIZE[1] // 2) <= 1
    assert spectrum[280].max() == pytest.approx(20 * math.log10(listening.WINDOW / 4), abs=1.5)


def test_baselines_to_listen_to_are_nearest_in_rate_and_in_quality():
    found = leaderboard.systems(
        {"a": {"bitrate_kbps": 6.0, "si_sdr_db": 10.0}},
        {"a": {}},
        {
            "opus_6kbps": {"bitrate_kbps": 6.5, "si_sdr_db": -4.0},
            "opus_20kbps": {"bitrate_kbps": 20.0, "si_sdr_db": 11.0},
            "opus_32kbps": {"bitrate_kbps": 32.0, "si_sdr_db": 15.0},
            "mp3_16kbps": {"bitrate_kbps": 16.0, "si_sdr_db": 9.0},
            "white_noise_20db": {"si_sdr_db": 20.0},
        },
    )
    assert listening.chosen(found) == {
        "opus_6kbps": "nearest rate",
        "opus_20kbps": "nearest SI-SDR",
        "mp3_16kbps": "nearest rate and SI-SDR",
    }


def test_plots_place_values_in_order_and_keep_means():
    scale = plots.Scale(1.0, 100.0, 0.0, 200.0, log=True)
    assert [scale(value) for value in (1.0, 10.0, 100.0)] == [0.0, 100.0, 200.0]
    points = [(step, float(step % 7)) for step in range(1000)]
    bins = plots._bins(points)
    assert len(bins) <= plots.MAX_POINTS
    assert all(low <= mean <= high for _, mean, low, high in bins)
    assert np.mean([mean for _, mean, _, _ in bins[:-1]]) == pytest.approx(3.0, abs=0.1)
    rows = [
        {"step": step, "split": "train", "player": "model", "loss": 1 / step, "learning_rate": 50 - step}
        for step in range(1, 50)
    ]
    for panel in plots.training(rows, 0):
        heights = [float(pair.split(",")[1]) for pair in panel.lines[-1].d.removeprefix("M").split(" L")]
        assert heights == sorted(heights) and heights[0] < heights[-1], "what falls falls (y grows downwards)"
        assert [tick.at for tick in panel.y_ticks] == sorted((tick.at for tick in panel.y_ticks), reverse=True)


def test_rate_distortion_shows_every_system_with_a_rate(made):
    text = (made / "index.html").read_text()
    assert "opus_12kbps: 4.20 dB at 14.50 kbps" in text
    assert "autoencoder_mdct: 10.03 dB at 6.06 kbps" in text
    assert "white_noise_20db: " not in text and "original: " not in text, "neither is a codec"


def test_the_drawing_leads_forward_and_keeps_apart():
    found = dag.stages(*pipeline())
    drawing = dag.draw(found)
    place = {node.stage.name: (node.along, node.across) for node in drawing.nodes}
    assert len(set(place.values())) == len(found)
    for stage in found:
        assert all(place[other][0] < place[stage.name][0] for other in stage.after)
    points = set(place.values()).union(*drawing.edges)
    for layer in range(drawing.num_layers):
        across = sorted(y for x, y in points if x == layer)
        assert all(b - a >= 1 for a, b in zip(across, across[1:], strict=False))
    names = {position: name for name, position in place.items()}
    drawn = {(names[edge[0]], names[edge[-1]]) for edge in drawing.edges}
    assert {("download", "render"), ("cache", "train"), ("classifier", "baseline"), ("evaluate", "report")} <= drawn
    assert ("cache", "evaluate") not in drawn, "implied by the way over train"


def test_stages_read_what_others_write_instance_by_instance():
    after = {stage.name: set(stage.after) for stage in dag.stages(*pipeline())}
    assert "plan" not in after
    assert after["render"] == after["split"] == {"download"}
    assert after["baseline"] == {"cache", "classifier"}
    assert after["train"] == {"cache"}, "models/classifier_audio is no experiment's model"
    assert after["report"] == {"evaluate", "baseline", "speed"}


def pipeline():
    return report.YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"], params.read(ROOT / "params.yaml").tree


def test_plan_knows_what_the_page_needs():
    needs = report.configure(params.read(ROOT / "params.yaml"), None)
    assert needs is not None
    plain = json.loads(artifacts.to_json(params.plain(needs.config)))
    assert params.parse(report.Config, plain, where="plan") == needs.config
    files = code.Code(ROOT).closure(["stages/report.py"])
    assert {"stages/media/page.html.j2", "stages/media/page.css", "stages/media/page.js"} <= set(files)
