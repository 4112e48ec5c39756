"""Ogg Opus as libsndfile writes it (variable bitrate, music and speech chosen by the encoder).

libsndfile's compression level runs from 256 kbit/s per channel at 0 to 6 at 1; the true rate, with the container, is
what the results show. Valin, Vos, Terriberry, RFC 6716, 2012, https://www.rfc-editor.org/rfc/rfc6716
"""

from typing import ClassVar

from stages.media.audio import Clip
from stages.media.coded import through_file
from stages.protocols.baseline import Baseline, Coded

RATES_KBPS = (6, 12, 18, 32, 64)


class OggOpus(Baseline):
    clips: ClassVar[frozenset[str]] = frozenset({"audio"})

    def variants(self) -> list[str]:
        return [f"opus_{rate}kbps" for rate in RATES_KBPS]

    def code(self, variant: str, clip: Clip) -> Coded:
        rate_kbps = int(variant.removeprefix("opus_").removesuffix("kbps"))
        return through_file(clip, "OGG", "OPUS", compression_level=(256 - rate_kbps) / 250)
