"""The settings of all benchmarks: how thoroughly to measure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LEAST_PAIRS = 5


@dataclass(frozen=True)
class Settings:
    """Attributes:
    pairs: interleaved pairs per row, after one warm-up pair.
    quick: a smoke test with one pair of very few steps of the smallest case. Its numbers mean nothing.
    seeds: runs per method to the onset of generalisation.
    grokfast: a checkout of github.com/ironjr/grokfast.
    orthograd: a checkout of github.com/LucasPrietoAl/grokking-at-the-edge-of-numerical-stability.
    """

    pairs: int = 7
    quick: bool = False
    seeds: int = 3
    grokfast: Path | None = None
    orthograd: Path | None = None

    def __post_init__(self) -> None:
        if not self.quick and self.pairs < LEAST_PAIRS:
            raise ValueError(f"--pairs {self.pairs} must be at least {LEAST_PAIRS}: fewer say nothing about the spread")
        if self.seeds < 1:
            raise ValueError(f"--seeds {self.seeds} must be at least 1")
        if self.quick:
            object.__setattr__(self, "pairs", 1)
            object.__setattr__(self, "seeds", 1)
