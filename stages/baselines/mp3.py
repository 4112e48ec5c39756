"""MP3 as libsndfile writes it with LAME, constant bitrate (MPEG-2 Layer III at 24 kHz).

At low rates LAME leaves out the header that says how long encoder and decoder delay the sound: then the file decodes to
more samples than went in, and the delay of 576 + 529 samples is taken off here, as a player with the number would.

ISO/IEC 13818-3; LAME, https://lame.sourceforge.io
"""

from typing import ClassVar

from stages.media.audio import Clip
from stages.media.coded import through_file
from stages.protocols.baseline import Baseline, Coded

LEVELS = {"mp3_16kbps": 0.95, "mp3_24kbps": 0.9, "mp3_40kbps": 0.8, "mp3_64kbps": 0.63}
"""Variant -> libsndfile's compression level, which picks the standard's rate for 24 kHz mono."""
DELAY = 576 + 529


class Mp3(Baseline):
    clips: ClassVar[frozenset[str]] = frozenset({"audio"})

    def variants(self) -> list[str]:
        return list(LEVELS)

    def code(self, variant: str, clip: Clip) -> Coded:
        options = {"compression_level": LEVELS[variant], "bitrate_mode": "CONSTANT"}
        return through_file(clip, "MP3", "MPEG_LAYER_III", delay=DELAY, **options)
