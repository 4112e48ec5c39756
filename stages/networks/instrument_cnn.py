"""A small convolutional network that names the General MIDI instrument of a second of sound, and so can judge sound.

    waveform -> log-mel -> 4 strided convolutions -> mean over time -> features [64] -> class logits

It is trained on solo notes alone and knows no corpus, so any audio has features: one vector per second of sound, every
half second. Distances between sets of such vectors are the Frechet and kernel distances.

    log-mel: ln(max(M, 1e-3)), M = F |STFT| with Hann windows of 1024 samples, hop 512, 64 Slaney mel bands, 24 kHz

The idea of judging audio by a classifier's features: Kevin Kilgour et al., Frechet Audio Distance, 2019,
https://arxiv.org/abs/1812.08466
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from stages.media import audio
from stages.media.audio import Clip
from stages.pipeline import artifacts

RATE_HZ = 24000
WINDOW = RATE_HZ
"""Samples that one feature vector hears."""
HOP = WINDOW // 2
NUM_FEATURES = 64
CHANNELS = (1, 8, 16, 32, 48)
NUM_BANDS = 64
FLOOR = 1e-3
REMEDY = "run `dvc repro -f -s` on the classifier's stage"


class Mel(nn.Module):
    """Waveform [B, num_samples] -> mel magnitudes [B, 64, num_frames]."""

    filters: Tensor
    window: Tensor

    def __init__(self) -> None:
        from torchaudio.functional import melscale_fbanks

        super().__init__()
        filters = melscale_fbanks(513, 30.0, RATE_HZ / 2, NUM_BANDS, RATE_HZ, norm="slaney", mel_scale="slaney")
        self.register_buffer("filters", filters.T, persistent=False)
        self.register_buffer("window", torch.hann_window(1024), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        spectrum = torch.stft(waveform, 1024, 512, window=self.window, return_complex=True)
        return self.filters @ spectrum.abs()


class InstrumentCNN(nn.Module):
    """Mel magnitudes [B, 64, num_frames] -> logits [B, num_classes]; `features` come before the last layer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(block(CHANNELS[i], CHANNELS[i + 1]) for i in range(len(CHANNELS) - 1)))
        self.project = nn.Linear(CHANNELS[-1] * NUM_BANDS // 16, NUM_FEATURES)
        self.head = nn.Linear(NUM_FEATURES, num_classes)

    def forward(self, mel: Tensor) -> Tensor:
        return self.head(self.features(mel))

    def features(self, mel: Tensor) -> Tensor:
        """[B, 64]; time is averaged, frequency is not, since an instrument's formants do not move with its pitch."""
        log_mel = (mel.clamp(min=FLOOR).log() + 4.0) / 2.5
        return functional.relu(self.project(self.layers(log_mel[:, None]).mean(dim=3).flatten(1)))


def block(num_in: int, num_out: int) -> nn.Module:
    """Half the bands, half the frames."""
    convolution = nn.Conv2d(num_in, num_out, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(num_out), nn.ReLU())


class Judge:
    """A trained classifier as the metrics use it: `features(clip)`, remembered by the samples' content."""

    def __init__(self, network: InstrumentCNN, facts: Mapping[str, Any]) -> None:
        self.network = network.eval().requires_grad_(False)
        self.facts = facts
        self._mel = Mel()
        self._known: dict[bytes, np.ndarray] = {}

    def features(self, clip: Clip) -> np.ndarray:
        """Float64 [N, 64], one row per second every half second; a shorter clip has one, with silence after it."""
        clip = audio.resample(clip, RATE_HZ)
        key = hashlib.sha256(clip.samples.tobytes()).digest()
        if key not in self._known:
            self._known[key] = self._compute(clip.samples)
        return self._known[key]

    def _compute(self, samples: np.ndarray) -> np.ndarray:
        if len(samples) == 0:
            return np.zeros((0, NUM_FEATURES))
        padded = torch.from_numpy(np.pad(samples, (0, max(WINDOW - len(samples), 0))).astype(np.float32))
        return self.network.features(self._mel(padded.unfold(0, WINDOW, HOP))).double().numpy()


def save(folder: Path, network: InstrumentCNN, facts: Mapping[str, Any]) -> None:
    """Write model.safetensors, and model.json with the facts and the checksum."""
    save_file(network.state_dict(), folder / "model.safetensors")
    artifacts.write_json(folder / "model.json", {**facts, "sha256": artifacts.sha256(folder / "model.safetensors")})


def load(folder: Path) -> Judge:
    """The inverse of `save`, on the CPU so that scores do not depend on the machine; Damaged where bytes changed."""
    facts = artifacts.read_json(folder / "model.json")
    artifacts.check(folder / "model.safetensors", facts["sha256"], REMEDY)
    network = InstrumentCNN(facts["num_classes"])
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return Judge(network, facts)
