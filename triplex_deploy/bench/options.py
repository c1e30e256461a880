"""What a caller may choose about one benchmark, checked once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from triplex_deploy.bench.result import SCENARIOS, SERVER, SINGLE_STREAM, Settings
from triplex_deploy.errors import ConfigError
from triplex_deploy.pipeline.options import PredictOptions

BATCH_SIZES: Final = (1, 8, 32, 128)
TOKEN_COUNTS: Final = (256, 1024, 4096)

CountCost = Callable[[Path, Mapping[str, int]], tuple[int, int]]
"""Operations and traffic of a graph file at the sizes of its dynamic axes."""


@dataclass(frozen=True)
class BenchOptions:
    """What to measure and for how long.

    Every bundle is opened on every backend. ``batch_sizes`` are swept by graphs of a ``batch``
    axis, ``token_counts`` by those of a whole slide's ``spots``. With ``end_to_end``, ``slide`` is
    predicted with ``slide_options``. ``rate_per_s`` belongs to the Server scenario, whose calls
    grow up to each of ``batch_sizes``. ``seconds`` goes to each case over all ``rounds``, at least
    one query per round; ``count_cost`` is None where graphs cannot be counted, for ``cost_absent``.
    """

    bundles: tuple[Path, ...]
    backends: tuple[str, ...] = ("auto",)
    device: str = "auto"
    threads: int | None = None
    scenarios: tuple[str, ...] = (SINGLE_STREAM,)
    rate_per_s: float | None = None
    graphs: bool = True
    end_to_end: bool = False
    only_graphs: tuple[str, ...] = ()
    batch_sizes: tuple[int, ...] = BATCH_SIZES
    token_counts: tuple[int, ...] = TOKEN_COUNTS
    slide: Path | None = None
    slide_options: PredictOptions = field(default_factory=PredictOptions)
    seconds: float = 3.0
    rounds: int = 5
    warmup_runs: int = 2
    max_runs: int = 5000
    seed: int = 0
    command: str = "triplex-deploy bench"
    count_cost: CountCost | None = None
    cost_absent: str = "not asked for"

    def __post_init__(self) -> None:
        if not self.bundles:
            raise ConfigError("bundles: none given; name at least one")
        unknown = [name for name in self.scenarios if name not in SCENARIOS]
        if unknown or not self.scenarios:
            raise ConfigError(f"scenario {', '.join(unknown)!r}: use {', '.join(SCENARIOS)}")
        if (SERVER in self.scenarios) != (self.rate_per_s is not None):
            raise ConfigError("rate_per_s: the Server scenario needs one, the others take none")
        if self.rate_per_s is not None and not 0 < self.rate_per_s < math.inf:
            raise ConfigError(f"rate_per_s={self.rate_per_s}: give a positive number per second")
        for name in ("batch_sizes", "token_counts"):
            self._check_sizes(name)
        if self.rounds < 2:
            raise ConfigError(f"rounds={self.rounds}: use at least 2, their spread is the noise")
        if not 0 < self.seconds < math.inf:
            raise ConfigError(f"seconds={self.seconds}: give a positive number")
        if not (self.graphs or self.end_to_end):
            raise ConfigError("graphs=False, end_to_end=False: nothing is left to measure")

    def _check_sizes(self, name: str) -> None:
        sizes = getattr(self, name)
        if not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
            raise ConfigError(f"{name}={sizes}: give different numbers of at least 1")

    @property
    def settings(self) -> Settings:
        return Settings(
            seconds=self.seconds,
            rounds=self.rounds,
            warmup_runs=self.warmup_runs,
            max_runs=self.max_runs,
            seed=self.seed,
        )
