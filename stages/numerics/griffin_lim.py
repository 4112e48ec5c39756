"""A signal whose short-time spectrum has given magnitudes: phases are what repeated analysis and synthesis settle on.

    c_k = |X| exp(i arg t_k-1),   t_k = c'_k + m (c'_k - c'_k-1),   c'_k = STFT(ISTFT(c_k)),   m = 0.99

Perraudin, Balazs, Søndergaard, "A fast Griffin-Lim algorithm", WASPAA 2013. It starts from fixed pseudo-random phases,
the same for every clip of a batch, so that the result is a differentiable function of the magnitudes alone.
"""

import torch
from torch import Tensor

MOMENTUM = 0.99


def stft(x: Tensor, window: Tensor, hop: int) -> Tensor:
    """Samples [..., T hop] -> complex [..., W / 2 + 1, T]; frame t is centred at t hop, zeros lie around the signal."""
    return torch.stft(x, len(window), hop, window=window, pad_mode="constant", return_complex=True)[..., :-1]


def griffin_lim(
    magnitude: Tensor, window: Tensor, hop: int, num_iterations: int, num_samples: int | None = None
) -> Tensor:
    """Magnitudes [B, W / 2 + 1, T] -> samples [B, T hop]; from `num_samples` on they are known to be zero."""
    length = magnitude.shape[-1] * hop
    exists = torch.arange(length, device=magnitude.device) < (length if num_samples is None else num_samples)

    def synthesise(phase: Tensor) -> Tensor:
        return torch.istft(magnitude * phase, len(window), hop, window=window, length=length) * exists

    generator = torch.Generator().manual_seed(0)
    turn = torch.rand(magnitude.shape[1:], generator=generator, dtype=torch.float64) * 2 * torch.pi
    start = torch.polar(torch.ones_like(turn), turn)
    phase = start.to(magnitude.device, torch.promote_types(magnitude.dtype, torch.complex64))
    previous = torch.zeros_like(phase)
    for _ in range(num_iterations):
        rebuilt = stft(synthesise(phase), window, hop)
        phase = rebuilt + MOMENTUM * (rebuilt - previous)
        phase = phase / (phase.abs() + 1e-12)
        previous = rebuilt
    return synthesise(phase)
