"""Pictures of results as PNG, in bytes that depend on the data alone (no date, no version inside)."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.media.audio import Clip

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WINDOW, HOP = 1024, 256
FLOOR_DB = -80.0


def spectrograms(clips: Mapping[str, Clip]) -> bytes:
    """The clips below each other, titled by their names, on one scale of 80 dB below the loudest cell."""
    levels = {name: level_db(clip) for name, clip in clips.items()}
    top = max(float(level.max()) for level in levels.values())
    figure, axes = _canvas(len(clips), (9.0, 2.1 * len(clips)))
    for axis, (name, clip) in zip(axes, clips.items(), strict=True):
        extent = (0.0, clip.duration_s, 0.0, clip.rate_hz / 2000)
        axis.imshow(
            levels[name].T, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=top + FLOOR_DB, vmax=top
        )
        axis.set_title(name, loc="left", fontsize=9)
        axis.set_ylabel("kHz")
    axes[-1].set_xlabel("s")
    return _png(figure)


def level_db(clip: Clip) -> np.ndarray:
    """Short-time levels in dB [num_frames, num_frequencies]."""
    window = np.hanning(WINDOW)
    padded = np.pad(clip.samples.astype(np.float64), WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    return 20 * np.log10(np.abs(np.fft.rfft(frames * window, axis=-1)) + 1e-9)


def curves(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The loss of each player over the steps: training faint, validation with dots."""
    import pandas

    figure, axes = _canvas(1, (9.0, 3.2))
    styles = {"train": {"alpha": 0.5, "linewidth": 0.8}, "valid": {"marker": "o", "markersize": 3}}
    log = pandas.DataFrame(list(rows), columns=["split", "player", "step", "loss"])
    for (split, player), points in log.groupby(["split", "player"]):  # pyright: ignore
        axes[0].plot(points["step"], points["loss"], label=f"{split}, {player}", **styles[split])
    axes[0].set_xlabel("step")
    axes[0].set_ylabel("loss")
    axes[0].legend(frameon=False, fontsize=8)
    return _png(figure)


def _canvas(num_rows: int, size: tuple[float, float]) -> tuple["Figure", list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(num_rows, 1, squeeze=False, sharex=True)
    return figure, list(axes[:, 0])


def _png(figure: "Figure") -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
