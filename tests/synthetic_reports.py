"""A whole reports/ tree as evaluate, baseline and speed leave it, made of tones and invented numbers.

For the tests of the report and for looking at its design without a training run: `python -m tests.synthetic_reports
FOLDER` writes ten-second clips there.
"""

import base64
import json
import math
import sys
from functools import cache
from pathlib import Path

import numpy as np

from stages.media import audio
from stages.pipeline import artifacts

RATE_HZ = 24000
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)
EXPERIMENTS = ("autoencoder_mdct", "improved_mean_flow_mdct")
CLIPS = ("bwv10.7-0@120000", "bwv253-0@0", "bwv366-0@240000", "bwv64.2-0@48000")
NUM_EXCERPTS = 24

# bitrate, si_sdr, gapped pesq, mel, mel loud, lsd, stoi, frechet; None: does not exist
QUALITY = {
    "autoencoder_mdct": (6.06, 10.03, 2.48, 0.791, 0.402, 11.2, 0.871, 26.8),
    "improved_mean_flow_mdct": (6.06, 9.38, 2.41, 0.581, 0.377, 9.1, 0.866, 14.4),
    "opus_6kbps": (6.7, -4.2, 1.21, 1.912, 0.934, 19.8, 0.604, 92.1),
    "opus_12kbps": (14.5, 4.2, 2.08, 1.203, 0.588, 14.9, 0.812, 41.5),
    "opus_20kbps": (20.1, 12.1, 2.91, 0.804, 0.371, 10.6, 0.901, 17.7),
    "opus_32kbps": (33.2, 15.2, 3.62, 0.541, 0.248, 7.9, 0.948, 8.2),
    "opus_64kbps": (58.3, 21.3, 4.21, 0.301, 0.131, 4.8, 0.981, 3.1),
    "mp3_16kbps": (16.1, 5.3, 1.64, 2.114, 0.702, 23.1, 0.797, 61.0),
    "mp3_24kbps": (24.2, 8.9, 2.33, 1.716, 0.511, 18.4, 0.874, 33.3),
    "mp3_32kbps": (32.2, 13.4, 3.11, 1.309, 0.352, 14.2, 0.929, 15.2),
    "mp3_64kbps": (64.4, 22.7, 4.18, 0.702, 0.149, 8.0, 0.984, 2.7),
    "mel_griffin_lim": (None, -14.8, 2.62, 0.424, 0.261, 8.8, 0.842, 9.9),
    "original": (384.0, None, 4.64, 0.0, 0.0, 0.0, 1.0, 0.0),
    "original_halves": (None, None, None, None, None, None, None, 7.4),
    "low_pass_3000hz": (None, 18.2, 3.74, 1.871, 0.304, 22.5, 0.967, 38.0),
    "low_pass_6000hz": (None, 27.9, 4.41, 1.109, 0.098, 15.1, 0.991, 12.6),
    "white_noise_20db": (None, 20.0, 2.71, 1.624, 0.487, 17.7, 0.972, 55.2),
    "white_noise_30db": (None, 30.0, 3.65, 1.102, 0.233, 13.0, 0.991, 24.9),
}
SCORED = ("opus", "mp3", "mel_griffin_lim", "original", "low_pass", "white_noise")


def build(
    root: Path, *, duration_s: float = 1.0, num_clips: int = 2, experiments: tuple[str, ...] = EXPERIMENTS
) -> Path:
    """Write root/{experiments,baselines,speed}; the same bytes on every call."""
    clips = CLIPS[:num_clips]
    for number, name in enumerate(experiments):
        write_experiment(root / "experiments" / name, name, number, clips, duration_s)
        write_speed(root / "speed" / f"{name}.json", number)
    write_baselines(root / "baselines", clips, duration_s)
    return root


def write_experiment(folder: Path, name: str, number: int, clips: tuple[str, ...], duration_s: float) -> None:
    flat = metrics(name) | {"num_function_evaluations": 1 + number, "num_parameters": 1_512_320 + 212_992 * number}
    flat |= interval("sample_frechet_classifier", 61.7 - 22.0 * number, 0.12)
    artifacts.write_json(folder / "metrics.json", flat)
    artifacts.write_json(folder / "clips.json", per_clip(name, clips))
    artifacts.write_json(folder / "params.json", params(name, number))
    folder.joinpath("training.jsonl").write_text(training(name, number))
    drawn = [f"figures/{figure}.png" for figure in (*clips, "new", "training")]
    manifest = {"clips": [], "new": [], "figures": drawn}
    for path in drawn:
        artifacts.write_bytes(folder / path, PICTURE)
    for place, clip in enumerate(clips):
        entry = {
            "id": clip,
            "original": f"audio/original/{clip}.flac",
            "reconstruction": f"audio/reconstruction/{clip}.flac",
        }
        write_audio(folder / entry["original"], clip, music(place, duration_s))
        write_audio(folder / entry["reconstruction"], clip, degraded(music(place, duration_s), name))
        manifest["clips"].append(entry | {"duration_s": duration_s})
    for place in range(2):
        path = f"audio/new/new-{place}.flac"
        write_audio(folder / path, f"new-{place}", degraded(music(10 + place + 5 * number, duration_s), name))
        manifest["new"].append({"id": f"new-{place}", "path": path, "duration_s": duration_s})
    artifacts.write_json(folder / "manifest.json", manifest)


def write_baselines(folder: Path, clips: tuple[str, ...], duration_s: float) -> None:
    names = [name for name in QUALITY if name not in EXPERIMENTS]
    artifacts.write_json(folder / "metrics.json", {name: metrics(name) for name in names})
    artifacts.write_json(folder / "clips.json", {name: per_clip(name, clips) for name in names})
    manifest = {}
    for name in names:
        if not name.startswith(SCORED) or name == "original_halves":
            continue
        manifest[name] = {"clips": []}
        for place, clip in enumerate(clips):
            path = f"audio/{name}/{clip}.flac"
            write_audio(folder / path, clip, degraded(music(place, duration_s), name))
            manifest[name]["clips"].append({"id": clip, "path": path, "duration_s": duration_s})
    artifacts.write_json(folder / "manifest.json", manifest)


def write_speed(path: Path, number: int) -> None:
    encode, decode = 0.0033 + 0.0001 * number, 0.0016 + 0.0020 * number
    flat = interval("encode_rtf", encode, 0.06) | interval("decode_rtf", decode, 0.05)
    artifacts.write_json(path, flat | {"num_threads": 1, "audio_s": 240.0})


def metrics(name: str) -> dict:
    bitrate, si_sdr, pesq, mel, mel_loud, lsd, stoi, frechet = QUALITY[name]
    flat = {}
    if bitrate is not None:
        flat |= interval("bitrate_kbps", bitrate, 0.002)
    if si_sdr is not None:
        flat |= interval("si_sdr_db", si_sdr, 0.5 / max(abs(si_sdr), 1))
    elif pesq is not None:
        flat |= {"si_sdr_db_num": 0, "si_sdr_db_failures": {"identical signals: infinite": NUM_EXCERPTS}}
    if pesq is not None:
        flat |= interval("pesq_wb_gapped", pesq, 0.03) | interval("pesq_wb", pesq - 0.21, 0.09)
        flat |= {"pesq_wb_num": 11, "pesq_wb_failures": {"no utterances detected": 13}}
        flat |= interval("stoi", stoi, 0.01) | interval("log_spectral_distance_db", lsd, 0.03)
        flat |= interval("mel_distance", mel, 0.04) | interval("mel_distance_loud", mel_loud, 0.05)
    flat |= interval("reconstruction_frechet_classifier", frechet, 0.11)
    flat |= interval("reconstruction_kernel_classifier", frechet * 1.7 - 0.4, 0.15)
    return flat


def interval(name: str, value: float, relative: float) -> dict:
    spread = abs(value) * relative
    return {
        name: round(value, 6),
        f"{name}_low": round(value - spread, 6),
        f"{name}_high": round(value + spread, 6),
        f"{name}_num": NUM_EXCERPTS,
    }


def per_clip(name: str, clips: tuple[str, ...]) -> dict:
    names = ("bitrate_kbps", "si_sdr_db", "pesq_wb_gapped", "mel_distance", "stoi")
    flat = metrics(name)
    return {
        key: {clip: round(flat[key] * (0.97 + 0.02 * i), 4) for i, clip in enumerate(clips)}
        for key in names
        if key in flat
    }


def params(name: str, number: int) -> dict:
    shared = {
        "model.latent_dim": 64,
        "model.width": 192,
        "model.depth": 3,
        "train.num_steps": 1500,
        "train.batch_size": 16,
    }
    own = {"family": name.removesuffix("_mdct"), "train.learning_rate": 0.003 - 0.001 * number}
    return shared | own | ({"sample.num_steps": 1, "sample.temperature": 0.8, "model.joint": True} if number else {})


def training(name: str, number: int) -> str:
    """A log of 1500 steps: noisy losses that fall, and a quantiser that starts at 20 %."""
    noise = np.random.Generator(np.random.Philox(number))
    terms = {"loss": 3.2, "noise_to_signal_db": 0.9, "mel_distance": 2.4, "commitment": 0.2} | (
        {"flow_mse": 1.3} if number else {}
    )
    lines = []
    for step in range(10, 1510, 10):
        fall = 0.25 + 0.75 * math.exp(-step / 260) + (0.12 if 300 < step < 420 else 0.0)
        row = {key: value * fall * math.exp(0.12 * noise.standard_normal()) for key, value in terms.items()}
        rate = 0.003 * min(step / 50, 0.5 + 0.5 * math.cos(math.pi * step / 1500))
        row |= {"learning_rate": rate, "gradient_norm": 0.7 * math.exp(0.3 * noise.standard_normal())}
        lines.append({"step": step, "split": "train", "player": "model"} | row)
        if step % 250 == 0:
            row = {key: 1.05 * value * fall for key, value in terms.items()}
            lines.append({"step": step, "split": "valid", "player": "model"} | row)
    return "".join(json.dumps(line) + "\n" for line in lines)


@cache
def music(number: int, duration_s: float) -> np.ndarray:
    """A chord of plucked tones every 0.6 s, float64 [num_samples]."""
    sound = np.zeros(round(duration_s * RATE_HZ))
    time = np.arange(round(1.5 * RATE_HZ)) / RATE_HZ
    envelope = np.exp(-2.5 * time) * np.minimum(1, time / 0.01) * np.minimum(1, (1.5 - time) / 0.05)
    for beat in range(math.ceil(duration_s / 0.6)):
        for degree in (0, 4, 7, 12):
            pitch_hz = 110 * 2 ** ((degree + (5 * beat + 3 * number) % 12) / 12)
            tone = envelope * sum(np.sin(2 * math.pi * pitch_hz * k * time) / k**1.4 for k in range(1, 9))
            place = sound[round(0.6 * beat * RATE_HZ) :][: len(tone)]
            place += tone[: len(place)]
    return 0.25 * sound / np.abs(sound).max()


def degraded(sound: np.ndarray, name: str) -> np.ndarray:
    """Some loss that one can hear and see: a low-pass and noise that follow the mel distance, at another level."""
    mel = QUALITY[name][3] or 0.0
    noise = np.random.Generator(np.random.Philox(len(name))).standard_normal(len(sound))
    spectrum = np.fft.rfft(sound + 0.004 * mel * noise)
    frequency_hz = np.fft.rfftfreq(len(sound), 1 / RATE_HZ)
    spectrum *= 1 / (1 + (frequency_hz / (12000 / (0.5 + mel))) ** 8)
    return (1.0 if mel == 0 else 0.8) * np.fft.irfft(spectrum, len(sound))


def write_audio(path: Path, clip: str, samples: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    audio.write(path, audio.Clip(clip, samples.astype(np.float32), RATE_HZ))


if __name__ == "__main__":
    build(Path(sys.argv[1]), duration_s=10.0, num_clips=4)
