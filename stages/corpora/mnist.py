"""MNIST: 70,000 handwritten digits of 28 x 28 pixels, from the four IDX files; the official split is kept.

    corpora:
      digits:
        source: mnist
        path: /home/me/mnist      # holds train-images-idx3-ubyte and the three others, plain or .gz

      digits:
        source: mnist
        url: https://storage.googleapis.com/cvdf-datasets/mnist    # the folder of the four .gz files, https only
        sha256:                                                    # required, of each
          train-images-idx3-ubyte.gz: 440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609
          train-labels-idx1-ubyte.gz: 3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c
          t10k-images-idx3-ubyte.gz: 8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6
          t10k-labels-idx1-ubyte.gz: f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6

The test part is the official one; of the official training part the stage `split` keeps some for validation. Yann
LeCun, Léon Bottou, Yoshua Bengio, Patrick Haffner, "Gradient-based learning applied to document recognition", 1998,
http://yann.lecun.com/exdb/mnist.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from stages.media import fetch, idx, image
from stages.media.fetch import Trust
from stages.protocols.corpus import Collected, Corpus, Piece

PARTS = {"train": "train", "test": "t10k"}
FORMS = {"images": ("idx3-ubyte", 3), "labels": ("idx1-ubyte", 1)}
FILES = tuple(f"{prefix}-{form}-{ending}" for prefix in PARTS.values() for form, (ending, _) in FORMS.items())
MAX_BYTES = 100_000_000
"""Of one packed file; the largest has 10 MB."""
NUM_DIGITS = 10


@dataclass(frozen=True)
class MnistConfig:
    path: str = ""
    """A folder with the four files; relative paths start where params.yaml lies."""
    url: str = ""
    """Where there is no path: the folder of the four .gz files on the web."""
    sha256: Mapping[str, str] = field(default_factory=dict)
    """File name -> sha256, of what `url` brings."""
    num_pieces: int = 0
    """Of each part, in their order; 0 takes all."""
    licence: str = ""

    def __post_init__(self) -> None:
        problems = []
        if bool(self.path) == bool(self.url):
            problems.append("path and url: expected one of them, a folder with the MNIST files here or on the web")
        if self.url and urlsplit(self.url).scheme != "https":
            problems.append(f"url = {self.url!r}: expected https://...")
        wanted = [f"{name}.gz" for name in FILES]
        wrong = [name for name in wanted if not re.fullmatch(r"[0-9a-f]{64}", self.sha256.get(name, ""))]
        if self.url and (wrong or set(self.sha256) - set(wanted)):
            problems.append(f"sha256: expected 64 hex digits for each of {', '.join(wanted)}")
        if self.num_pieces < 0:
            problems.append(f"num_pieces = {self.num_pieces}: expected 0 (all) or more")
        if problems:
            raise ValueError("\n".join(problems))


class Mnist(Corpus):
    """`source: mnist`."""

    Config: ClassVar[type] = MnistConfig
    config: MnistConfig

    def __init__(self, config: MnistConfig, trust: Trust | None = None) -> None:
        super().__init__(config)
        self.trust = trust

    def collect(self, folder: Path, work: Path) -> Collected:
        root = Path(self.config.path).expanduser() if self.config.path else work
        if self.config.path and not root.is_dir():
            raise ValueError(f"path = {self.config.path!r}: there is no such folder; give that of the MNIST files")
        for name, sha256 in self.config.sha256.items() if self.config.url else ():
            fetch.fetch(f"{self.config.url.rstrip('/')}/{name}", work / name, sha256, MAX_BYTES, self.trust)
        return Collected(tuple(piece for split in PARTS for piece in self.pieces(root, split, folder)), ())

    def pieces(self, root: Path, split: str, folder: Path) -> Iterator[Piece]:
        """One official part as a stack of its own."""
        pixels, digits = (
            idx.read(find(root, f"{PARTS[split]}-{form}-{ending}"), num_axes)
            for form, (ending, num_axes) in FORMS.items()
        )
        if len(pixels) != len(digits) or digits.max(initial=0) >= NUM_DIGITS:
            raise ValueError(
                f"{root}: {len(pixels)} {split} images with {len(digits)} labels up to {digits.max(initial=0)}: "
                "the files do not belong together"
            )
        num = self.config.num_pieces or len(pixels)
        yield from image.write_pieces(folder, split, pixels[:num], digits[:num].tolist(), self.config.licence, split)


def find(root: Path, name: str) -> Path:
    """The file, plain or packed. ValueError where there is neither."""
    for path in (root / name, root / f"{name}.gz"):
        if path.is_file():
            return path
    raise ValueError(f"{root} holds neither {name} nor {name}.gz")
