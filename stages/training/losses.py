"""Loss terms that several families use, per clip [B].

Distortion is the noise-to-signal ratio of each clip on a logarithmic scale, -SDR in disguise:

    L = ln(sum (y - x)^2 / (sum x^2 + floor) + 10^-3)

so that quiet and loud clips pull alike, as they do in a mean of decibels, and a clip that is 30 dB right stops pulling.
The multi-scale mel distance hears what squared errors do not: weak high bands, Parallel WaveGAN, Yamamoto et al., 2020,
https://arxiv.org/abs/1910.11480.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torchaudio.functional import melscale_fbanks

from stages.numerics.precision import wide

QUIET = 0.05
"""This share of the usual energy is added to a clip's own, which matters where it is nearly silence."""
GOOD_ENOUGH = 1.0e-3
SCALES = ((512, 40), (1024, 80), (2048, 160))
"""Window in samples, mel bands: the metric's (metrics/mel_distance.py) without the shortest."""
FLOORS = (1.0e-5, 1.0e-3)
"""Of magnitudes: where 16-bit rounding lies, and what is inaudible beside music at its usual level."""


@dataclass(frozen=True)
class Distortion:
    """How far y is from x, per clip [B]."""

    loss: Tensor
    noise_to_signal_db: Tensor


def distortion(y: Tensor, x: Tensor, num_steps: Tensor, power_per_step: float) -> Distortion:
    """Frames [B, T, *F], zero beyond num_steps [B]; `power_per_step` is the usual squared sum of one of x's frames."""
    noise = (y - x).square().flatten(1).sum(1)
    signal = x.square().flatten(1).sum(1)
    ratio = noise / (signal + QUIET * power_per_step * num_steps)
    with torch.no_grad():
        decibels = 10 * torch.log10((noise + 1e-9) / (signal + 1e-9))
    return Distortion(torch.log(ratio + GOOD_ENOUGH), decibels)


def mel_distance(y: Tensor, x: Tensor, mask: Tensor, rate_hz: float) -> Tensor:
    """Mean |ln mel(y) - ln mel(x)| over cells, floors and scales, [B]; signals and mask bool are [B, num_samples]."""
    distances = []
    for num_samples, num_bands in SCALES:
        if y.shape[1] < num_samples:
            continue
        a, b = (log_mel(signal, num_samples, num_bands, rate_hz) for signal in (y, x))
        hop = num_samples // 4
        present = mask[:, num_samples // 2 :: hop][:, : a.shape[1]].to(a.dtype).unsqueeze(-1)
        present = torch.nn.functional.pad(present, (0, 0, 0, a.shape[1] - present.shape[1]))
        cells = present.sum((1, 2)).clamp_min(1) * a.shape[2]
        distances.append(((a - b).abs() * present).sum((1, 2)) / cells)
    return torch.stack(distances).mean(0) if distances else (y * 0).sum(1)


def log_mel(signal: Tensor, num_samples: int, num_bands: int, rate_hz: float) -> Tensor:
    """ln(M + floor) of [B, num_samples] -> [B, num_frames, floors * num_bands], in float32 with autocast off."""
    with torch.autocast(signal.device.type, enabled=False):
        signal = wide(signal)
        window, filters = mel_filters(num_samples, num_bands, rate_hz, signal.dtype, signal.device)
        frames = signal.unfold(1, num_samples, num_samples // 4) * window
        mel = torch.fft.rfft(frames).abs() @ filters
        return torch.cat([torch.log(mel + floor) for floor in FLOORS], dim=-1)


@lru_cache
def mel_filters(
    num_samples: int, num_bands: int, rate_hz: float, dtype: torch.dtype, device: torch.device
) -> Sequence[Tensor]:
    """Hann window [num_samples] and filters [num_samples // 2 + 1, num_bands] of magnitudes."""
    window = torch.hann_window(num_samples)
    filters = melscale_fbanks(num_samples // 2 + 1, 0.0, rate_hz / 2, num_bands, int(rate_hz), norm="slaney")
    return window.to(device, dtype), filters.to(device, dtype)
