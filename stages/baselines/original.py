"""The original itself, as 16-bit PCM: the ceiling of every score."""

from typing import ClassVar

from stages.media.audio import Clip
from stages.protocols.baseline import Baseline, Coded


class Original(Baseline):
    clips: ClassVar[frozenset[str]] = frozenset({"audio"})

    def variants(self) -> list[str]:
        return ["original"]

    def code(self, variant: str, clip: Clip) -> Coded:
        return Coded(clip, 2 * len(clip.samples))
