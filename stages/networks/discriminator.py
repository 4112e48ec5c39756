"""Networks that tell real signals from made ones: several scores per clip, and the layers that led to them.

    SpectrogramDiscriminator   a waveform at two resolutions; each sees X |X|^(p - 1), X the short-time Fourier
                               transform as real and imaginary part: p < 1 brings weak bands near the loud ones
    FrameDiscriminator         any other signal, as steps of real numbers

Convolutions in 2 dimensions, as in High Fidelity Neural Audio Compression, Défossez et al., 2022 (section 3.4),
https://arxiv.org/abs/2210.13438, with wider strides, for a processor's sake. Weights are kept at one size, SIZE, and
scaled where they are used, so that an adaptive optimiser moves all layers at one relative pace, learning rate / SIZE,
right at the rate of the network they judge: Progressive Growing of GANs, Karras et al., 2018 (section 4.1),
https://arxiv.org/abs/1710.10196.

Steps beyond a clip's end are zero before every convolution and have no score, so that padding changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.numerics.precision import wide
from stages.protocols.model import Masked

WINDOWS = (2048, 512)
"""Samples; the hop is half of it."""
POWER = 0.3
FAINT = 1.0e-4
"""Of full scale, per cell: what is fainter is not made louder."""
CHANNELS = (16, 32, 32)
SLOPE = 0.2
SIZE = 0.25
"""Standard deviation of stored weights at the start; four times smaller and they learn four times faster."""


@dataclass(frozen=True)
class Verdict:
    """One discriminator's opinion of a batch; H steps by W bands, fewer from layer to layer."""

    score: Masked  # [B, 1, H, W], mask bool [B, 1, H, 1]; high: real
    layers: Sequence[Masked]  # [B, C, H, W], mask bool [B, 1, H, 1]


class ScaledConv(nn.Module):
    """A convolution over steps and bands; its weights have standard deviation SIZE, in use sqrt(2 / fan-in)."""

    def __init__(
        self, inputs: int, outputs: int, kernel: tuple[int, int], stride: tuple[int, int], bias: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(SIZE * torch.randn(outputs, inputs, *kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale = (2 / (inputs * kernel[0] * kernel[1])) ** 0.5 / SIZE
        self.stride, self.padding = stride, (kernel[0] // 2, kernel[1] // 2)

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias * self.scale
        return functional.conv2d(x, self.weight * self.scale, bias, self.stride, self.padding)


class Judge(nn.Module):
    """A stack of convolutions on [B, `channels`, H, W]; `kernel` and `stride` of the first over (steps, bands)."""

    def __init__(self, channels: int, kernel: tuple[int, int], stride: tuple[int, int]) -> None:
        super().__init__()
        one, two, three = CHANNELS
        across = 3 if kernel[1] > 1 else 1
        halve = (2, 2) if kernel[1] > 1 else (2, 1)
        self.convolutions = nn.ModuleList(
            [
                ScaledConv(channels, one, kernel, stride),
                ScaledConv(one, two, (3, across), halve),
                ScaledConv(two, three, (3, across), halve),
            ]
        )
        # No bias: as long as all scores lie between -1 and 1 a hinge loss would not move it.
        self.score = ScaledConv(three, 1, (3, across), (1, 1), bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Verdict:
        """Judge x [B, channels, H, W] with mask bool [B, H]."""
        present, layers = mask[:, None, :, None], []
        x = x * present
        for convolution in self.convolutions:
            assert isinstance(convolution, ScaledConv)
            present = present[:, :, :: convolution.stride[0]]
            x = functional.leaky_relu(convolution(x), SLOPE) * present
            layers.append(Masked(x, present))
        return Verdict(Masked(self.score(x) * present, present), layers)


class SpectrogramDiscriminator(nn.Module):
    """Waveforms [B, num_samples] -> one verdict per resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.judges = nn.ModuleList([Judge(2, kernel=(3, 9), stride=(2, 4)) for _ in WINDOWS])

    def forward(self, signal: Masked) -> list[Verdict]:
        verdicts = []
        for judge, num_samples in zip(self.judges, WINDOWS, strict=True):
            x, hop = compressed(signal.value, num_samples), num_samples // 2
            mask = signal.mask[:, ::hop]  # a frame exists where its middle does
            verdicts.append(judge(x, functional.pad(mask, (0, x.shape[2] - mask.shape[1]))))
        return verdicts


class FrameDiscriminator(nn.Module):
    """Steps of `num_channels` real numbers -> two verdicts: steps as they are, and by pairs."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.judges = nn.ModuleList([Judge(num_channels, (5, 1), (stride, 1)) for stride in (1, 2)])

    def forward(self, signal: Masked) -> list[Verdict]:
        x, mask = as_steps(signal)
        return [judge(x.mT.unsqueeze(-1), mask) for judge in self.judges]


def as_steps(signal: Masked) -> tuple[Tensor, Tensor]:
    """Any signal [B, T, *F] as [B, T, product of F], and its mask as bool [B, T]."""
    return signal.value.reshape(*signal.value.shape[:2], -1), signal.mask.reshape(*signal.mask.shape[:2], -1).any(-1)


def compressed(signal: Tensor, num_samples: int) -> Tensor:
    """X |X|^(POWER - 1) of [B, L] as [B, 2, L // hop + 1, num_samples // 2 + 1].

    Frames are centred at multiples of the hop. X is scaled so that every cell of white noise has the noise's power.
    """
    with torch.autocast(signal.device.type, enabled=False):
        signal = functional.pad(wide(signal), (num_samples // 2, num_samples // 2))
        frames = signal.unfold(1, num_samples, num_samples // 2) * window(num_samples).to(signal)
        x = torch.view_as_real(torch.fft.rfft(frames))
        power = x.square().sum(-1, keepdim=True)
        return (x * (power + FAINT**2) ** ((POWER - 1) / 2)).permute(0, 3, 1, 2)


@lru_cache
def window(num_samples: int) -> Tensor:
    """Hann, of unit energy."""
    w = torch.hann_window(num_samples, dtype=torch.float64)
    return w / w.square().sum().sqrt()
