"""Gains on modulation spectra: perfect reconstruction, nothing from beyond a clip's end, tones lifted out of errors."""

import math

import pytest
import torch
from torch import Tensor

from stages.networks.postfilter import HOP, MOST, WINDOW, Postfilter

FRAME = 6


def made(width: int = 4) -> Postfilter:
    torch.manual_seed(0)
    return Postfilter(FRAME, width).double()


def whole(y: Tensor) -> Tensor:
    return torch.ones(y.shape[:2], dtype=torch.bool)


@pytest.mark.parametrize("num_steps", [1, 7, HOP, WINDOW, WINDOW + 1, 50])
def test_the_windows_reconstruct(num_steps: int) -> None:
    y = torch.randn(2, num_steps, FRAME, dtype=torch.float64)
    filtered = made()
    assert torch.allclose(filtered.synthesise(filtered.analyse(y), num_steps), y, atol=1e-7)  # the window is float32


def test_it_begins_as_nothing_and_never_gains_more_than_it_may() -> None:
    y, filtered = torch.randn(2, 40, FRAME, dtype=torch.float64), made()
    assert (filtered(y, whole(y)) - y).abs().max() < 0.3 * y.abs().max()
    with torch.no_grad():
        filtered.leave.bias += 50.0  # type: ignore[operator]
    assert torch.allclose(filtered(y, whole(y)), MOST * y, atol=1e-6)


@pytest.mark.parametrize("num_steps", [1, HOP, HOP + 1, 2 * WINDOW - 1])
def test_a_longer_batch_changes_nothing(num_steps: int) -> None:
    y, filtered = torch.randn(2, num_steps, FRAME, dtype=torch.float64), made()
    with torch.no_grad():
        filtered.enter.bias += 1.0  # type: ignore[operator]
    padded = torch.nn.functional.pad(y, (0, 0, 0, 3 * WINDOW + 1))
    mask = torch.arange(padded.shape[1]).expand(2, -1) < num_steps
    longer = filtered(padded, mask)
    assert torch.allclose(longer[:, :num_steps], filtered(y, whole(y)), atol=1e-12)
    assert not longer[:, num_steps:].any()


def test_clips_of_a_batch_do_not_meet() -> None:
    y, filtered = torch.randn(3, 30, FRAME, dtype=torch.float64), made()
    alone = torch.cat([filtered(row, whole(row)) for row in y.split(1)])
    assert torch.allclose(filtered(y, whole(y)), alone, atol=1e-12)


def test_a_tone_stands_out_of_errors_by_half_the_window() -> None:
    """White errors put the same power at every rate; a swing of steady rate puts all of it at one."""
    filtered, steps = made(), 400 * HOP
    swing = math.sqrt(2) * torch.cos(2 * math.pi * 3 / WINDOW * torch.arange(steps, dtype=torch.float64) + 0.4)
    tone = filtered.analyse(swing.reshape(1, -1, 1)).abs().square().mean((0, 1, 2))
    error = filtered.analyse(torch.randn(1, steps, FRAME, dtype=torch.float64)).abs().square().mean((0, 1, 2))
    inner = error[1:-1]
    assert inner.max() / inner.min() < 1.3 and int(tone.argmax()) == 3
    lifted = tone[3] / error[3]
    assert lifted == pytest.approx(WINDOW / 2 * 8 / math.pi**2, rel=0.1)  # 8 / pi^2: what the sine window keeps
