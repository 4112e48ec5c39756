"""The section `study`: which cells there are, and what each is asked for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Axes:
    """Lists by name; `matrix` in study/dvc.yaml multiplies the first four."""

    families: tuple[str, ...]
    networks: tuple[str, ...]
    tokenisations: tuple[str, ...]
    """Blocks of `representations`."""
    seeds: tuple[int, ...]
    num_steps: tuple[int, ...]
    """Each training is sampled with each of these."""
    corpus: str
    """What the floor is computed from."""
    classifier: str
    num_samples: int = 2000
    """Images of each sampler."""

    def __post_init__(self) -> None:
        if min((*self.num_steps, self.num_samples), default=0) < 1:
            raise ValueError(f"num_steps = {self.num_steps}, num_samples = {self.num_samples}: expected at least 1")

    @property
    def cells(self) -> tuple[str, ...]:
        """Their keys, in the order of the matrix."""
        return tuple(
            f"{family}-{network}-{tokenisation}-{seed}"
            for family in self.families
            for network in self.networks
            for tokenisation in self.tokenisations
            for seed in self.seeds
        )
