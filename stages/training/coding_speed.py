"""How long coding takes: CPU seconds per second of audio, on the threads that torch was given.

After a warm-up each round takes every clip once, encoding and decoding in turn; reported is the median over clips and
rounds with its 95 % interval.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

from stages.media import audio
from stages.numerics import timing
from stages.training import coding
from stages.training.model_folder import Loaded


def measure(
    loaded: Loaded, clips: Sequence[audio.Clip], sampling: Any, entropy_coding: bool, num_rounds: int
) -> dict[str, float]:
    """`encode_rtf`, `decode_rtf` and their `_low` and `_high`; 0.01 is 100 times real time."""
    factors: dict[str, list[float]] = {"encode_rtf": [], "decode_rtf": []}

    def encode(clip: audio.Clip) -> bytes:
        (data,) = coding.to_bytes(loaded, [loaded.representation.encode(clip)], [0], entropy_coding)
        return data

    def decode(data: bytes) -> None:
        coding.decode(loaded, ["clip"], [coding.from_bytes(loaded, data, "clip")], sampling)

    decode(encode(clips[0]))
    for _ in range(num_rounds):
        for clip in clips:
            data, seconds = timed(encode, clip)
            factors["encode_rtf"].append(seconds / clip.duration_s)
            _, seconds = timed(decode, data)
            factors["decode_rtf"].append(seconds / clip.duration_s)
    found = {}
    for name, values in factors.items():
        median = timing.median(values)
        found |= {name: median.value, f"{name}_low": median.low, f"{name}_high": median.high}
    return found


def timed(function: Callable[[Any], Any], argument: Any) -> tuple[Any, float]:
    start = time.process_time()
    result = function(argument)
    return result, time.process_time() - start
