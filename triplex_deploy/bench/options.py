"""Define and check the options of a benchmark."""

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
"""Returns operations and traffic of a graph file at the sizes of its dynamic axes."""


@dataclass(frozen=True)
class BenchOptions:
    """Say what to measure and for how long.

    Every bundle is opened on every backend in every precision. If several were asked for, those
    that a bundle, a backend or this CPU does not have are listed with the reason.

    Raises:
        ConfigError: If a value is out of range, or two options contradict each other.
    """

    bundles: tuple[Path, ...]
    """Folders of the bundles."""
    backends: tuple[str, ...] = ("auto",)
    """Backends to compare."""
    precisions: tuple[str, ...] = ()
    """Precisions of the run on a CPU to compare; empty for that of each bundle."""
    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda:N``."""
    threads: int | None = None
    """CPU threads of one operator; None leaves it to the runtime."""
    scenarios: tuple[str, ...] = (SINGLE_STREAM,)
    """How queries arrive, named as in MLPerf."""
    rate_per_s: float | None = None
    """Queries per second of the Server scenario."""
    graphs: bool = True
    """Measure each graph."""
    end_to_end: bool = False
    """Predict ``slide`` from end to end."""
    only_graphs: tuple[str, ...] = ()
    """Names of the graphs to measure; empty for all."""
    batch_sizes: tuple[int, ...] = BATCH_SIZES
    """Tiles or spots per call; in the Server scenario a call grows up to each of them."""
    token_counts: tuple[int, ...] = TOKEN_COUNTS
    """Spots of a slide, for the graphs that run on whole slides."""
    slide: Path | None = None
    """Slide of ``end_to_end``; None makes a small one."""
    slide_options: PredictOptions = field(default_factory=PredictOptions)
    """Options of the prediction of ``slide``."""
    seconds: float = 3.0
    """Time of each case over all rounds; each round has at least one query."""
    rounds: int = 5
    """Number of times that each case is measured."""
    warmup_runs: int = 2
    """Calls before the measurement."""
    max_runs: int = 5000
    """Maximum number of queries of a case."""
    seed: int = 0
    """Seed of made-up inputs and arrival times."""
    command: str = "triplex-deploy bench"
    """The command, for the record."""
    count_cost: CountCost | None = None
    """Counts the operations of a graph; None if they cannot be counted."""
    cost_absent: str = "not asked for"
    """Why operations are not counted."""

    def __post_init__(self) -> None:
        if not self.bundles:
            raise ConfigError("bundles: none given; name at least one")
        unknown = [name for name in self.scenarios if name not in SCENARIOS]
        if unknown or not self.scenarios:
            raise ConfigError(f"scenario {', '.join(unknown)!r}: use {', '.join(SCENARIOS)}")
        if (SERVER in self.scenarios) != (self.rate_per_s is not None):
            raise ConfigError("rate_per_s: give it for the Server scenario, and for no other")
        if self.rate_per_s is not None and not 0 < self.rate_per_s < math.inf:
            raise ConfigError(f"rate_per_s={self.rate_per_s}: give a positive number per second")
        for name in ("batch_sizes", "token_counts"):
            self._check_sizes(name)
        if self.rounds < 2:
            raise ConfigError(f"rounds={self.rounds}: use at least 2; their spread is the noise")
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
        """Return what of the options decides about the measurement."""
        return Settings(
            seconds=self.seconds,
            rounds=self.rounds,
            warmup_runs=self.warmup_runs,
            max_runs=self.max_runs,
            seed=self.seed,
        )
