"""The MDCT of a minute against torch.stft of the same minute: 320 bins, float32, one thread."""

import numpy as np
import pytest
import torch

from stages.numerics import mdct
from tests.benchmarks import table

pytestmark = pytest.mark.bench


def test_mdct_of_a_minute(figure):
    torch.set_num_threads(1)
    samples = np.random.Generator(np.random.Philox(0)).standard_normal(60 * 24_000).astype(np.float32)
    tensor, sine, hann = torch.from_numpy(samples), mdct.sine_window(320), torch.hann_window(640)
    found = table.pairs(
        lambda: mdct.mdct(samples, sine),
        lambda: torch.stft(tensor, 640, 320, window=hann, return_complex=True),
        num=41,
    )
    ratios = [one / other for one, other in found]
    figure(table.of("mdct_vs_stft", ratios, "CPU time of torch.stft (60 s, N = 320, float32)", must=0.7, aim=0.45))
    figure(table.of("mdct_60s", [1000 * one for one, _ in found], "ms"))
