"""MP3 as libsndfile writes it with LAME, constant bitrate (MPEG-2 Layer III at 24 kHz).

ISO/IEC 13818-3; LAME, https://lame.sourceforge.io
"""

from typing import ClassVar

from stages.media.audio import Clip
from stages.media.coded import through_file
from stages.protocols.baseline import Baseline, Coded

LEVELS = {"mp3_16kbps": 0.95, "mp3_24kbps": 0.9, "mp3_40kbps": 0.8, "mp3_56kbps": 0.7, "mp3_80kbps": 0.5}
"""Variant -> libsndfile's compression level, which picks the standard's rate for 24 kHz mono."""


class Mp3(Baseline):
    clips: ClassVar[frozenset[str]] = frozenset({"audio"})

    def variants(self) -> list[str]:
        return list(LEVELS)

    def code(self, variant: str, clip: Clip) -> Coded:
        return through_file(clip, "MP3", "MPEG_LAYER_III", compression_level=LEVELS[variant], bitrate_mode="CONSTANT")
