"""Keep what lasts: gains on the modulation spectrum of every bin, the spectrum of its course over time.

    C_j(f, m) = rfft of w(n) y(j W/2 + n, f), n < W,   g = G(ln |C|),   y <- overlap-add of w irfft(g C)

In a lapped transform a tone's coefficient swings from frame to frame at one rate, so that C has a line at that m, while
errors made anew in every frame, as a quantiser's, spread over all m. A window of W frames lifts tones out of such
errors by W / 2; a network per frame cannot do that, since it would have to know every tone's phase. G is a small
convolutional network over time and bins. The sine window w and half overlap reconstruct perfectly where g = 1.

Modulation spectra as a domain for noise reduction: Paliwal, Wójcicki, Schwerin, Single-channel speech enhancement
using spectral subtraction in the short-time modulation domain, 2010. Gains in place of new values: Wiener, 1949.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.numerics.precision import wide

WINDOW = 16
"""Frames; 0.2 s at 75 frames a second."""
HOP = WINDOW // 2
KERNEL = (3, 5)
"""Of a convolution: windows, bins."""
FLOOR = 1.0e-3
"""Of magnitudes of standardised frames, 60 dB below the usual."""
MOST = 2.0
"""The largest gain."""


class Postfilter(nn.Module):
    """Standardised frames [B, T, F] -> the same, cleaner; masked frames are 0, and nothing beyond a clip counts."""

    window: Tensor

    def __init__(self, frame: int, width: int) -> None:
        super().__init__()
        rates, around = WINDOW // 2 + 1, (KERNEL[0] // 2, KERNEL[1] // 2)
        self.enter = nn.Conv2d(rates, width, KERNEL, padding=around)
        self.place = nn.Parameter(torch.zeros(width, 1, frame))
        self.mix = nn.Conv2d(width, width, KERNEL, padding=around)
        self.leave = nn.Conv2d(width, rates, 1)
        with torch.no_grad():
            self.leave.weight.mul_(0.1)
            self.leave.bias.zero_()  # type: ignore[union-attr]
        phase = (torch.arange(WINDOW, dtype=torch.float64) + 0.5) * torch.pi / WINDOW
        self.register_buffer("window", phase.sin().float(), persistent=False)

    def forward(self, y: Tensor, mask: Tensor) -> Tensor:
        spectrum = self.analyse(wide(y))
        begins = (torch.arange(spectrum.shape[1], device=y.device) - 1) * HOP
        present = (begins < mask.sum(1, keepdim=True)).reshape(len(y), 1, -1, 1)
        h = (spectrum.abs() + FLOOR).log().permute(0, 3, 1, 2) * present  # [B, rates, windows, F]
        h = functional.gelu(self.enter(h) + self.place) * present
        h = h + functional.gelu(self.mix(h))
        gain = MOST * wide(self.leave(h)).sigmoid().permute(0, 2, 3, 1)
        return self.synthesise(gain * spectrum, y.shape[1]) * mask.unsqueeze(-1)

    def analyse(self, y: Tensor) -> Tensor:
        """Frames [B, T, F] -> complex [B, windows, F, WINDOW / 2 + 1]; the first window begins HOP frames early."""
        padded = functional.pad(y, (0, 0, HOP, HOP + -y.shape[1] % HOP))
        return torch.fft.rfft(padded.unfold(1, WINDOW, HOP) * self.window.to(y), dim=-1)

    def synthesise(self, spectrum: Tensor, num_steps: int) -> Tensor:
        """The inverse of `analyse`, [B, num_steps, F]."""
        parts = (torch.fft.irfft(spectrum, n=WINDOW, dim=-1) * self.window).transpose(2, 3)
        early, late = parts[:, :, :HOP].flatten(1, 2), parts[:, :, HOP:].flatten(1, 2)
        whole = functional.pad(early, (0, 0, 0, HOP)) + functional.pad(late, (0, 0, HOP, 0))
        return whole[:, HOP : HOP + num_steps]
