"""1,797 handwritten digits of 8 x 8 pixels, which come with scikit-learn: nothing is downloaded.

    corpora:
      digits:
        source: digits

They are the test part of the Optical Recognition of Handwritten Digits data set: bitmaps of 32 x 32, of which each
pixel here counts the dark ones in 4 x 4 (0 to 16). There is no official split among them. E. Alpaydin, C. Kaynak, 1998,
https://doi.org/10.24432/C50P49.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from stages.media import image
from stages.protocols.corpus import Collected, Corpus

LICENCE = "CC BY 4.0 (UCI Machine Learning Repository, Optical Recognition of Handwritten Digits)"
MOST = 16
"""The value of a black pixel."""


@dataclass(frozen=True)
class DigitsConfig:
    num_pieces: int = 0
    """In the order of the data set; 0 takes all."""

    def __post_init__(self) -> None:
        if self.num_pieces < 0:
            raise ValueError(f"num_pieces = {self.num_pieces}: expected 0 (all) or more")


class Digits(Corpus):
    """`source: digits`."""

    Config: ClassVar[type] = DigitsConfig
    config: DigitsConfig

    def collect(self, folder: Path, work: Path) -> Collected:
        from sklearn.datasets import load_digits

        found: Any = load_digits()
        num = self.config.num_pieces or len(found.images)
        pixels = image.quantise(found.images[:num].astype(np.float32) / MOST)
        return Collected(image.write_pieces(folder, "digit", pixels, found.target[:num].tolist(), LICENCE), ())
