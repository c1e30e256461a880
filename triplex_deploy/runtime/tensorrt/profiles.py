"""Optimization profiles: the lengths of a graph's dynamic axis that its TensorRT engine takes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from triplex_deploy.contract import GraphSpec, TensorSpec
from triplex_deploy.errors import ConfigError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ProfileRange:
    """The lengths of a dynamic axis that an engine takes, in TensorRT's words.

    Raises ``ConfigError`` unless ``1 <= min <= opt <= max``.
    """

    min: int
    """Smallest length."""
    opt: int
    """Length that the engine is optimized for."""
    max: int
    """Greatest length."""

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise ConfigError(f"profile {self}: use 1 <= MIN <= OPT <= MAX, such as 1:64:512")

    def __str__(self) -> str:
        return f"{self.min}:{self.opt}:{self.max}"

    @property
    def lengths(self) -> tuple[int, int, int]:
        """Return ``(min, opt, max)``, as engine settings and engine manifests store it."""
        return self.min, self.opt, self.max

    def shapes(self, tensor: TensorSpec) -> tuple[Shape, Shape, Shape]:
        """Return the smallest, the optimized and the greatest shape of ``tensor``."""
        smallest, optimized, greatest = (
            tuple(length if isinstance(axis, str) else axis for axis in tensor.axes)
            for length in self.lengths
        )
        return smallest, optimized, greatest


Profiles = dict[str, ProfileRange]
"""The profile of each graph, by the graph's name."""

DEFAULT_PROFILES: Final = {"batch": ProfileRange(1, 64, 512), "spots": ProfileRange(1, 4096, 20000)}
"""The profile of a graph by its dynamic axis: the batch sizes of the benchmark, and slides of up to
20,000 spots, of which Visium's 4,992 are typical."""

_WRITTEN: Final = re.compile(r"(\w+)=(\d+):(\d+):(\d+)")


def choose_profiles(specs: Mapping[str, GraphSpec], asked: Iterable[str] = ()) -> Profiles:
    """Choose a profile for each graph.

    Args:
        specs: The graphs by name.
        asked: Texts ``NAME=MIN:OPT:MAX``, where NAME is a graph or a dynamic axis. A graph's own
            text is preferred to its axis's; a graph without any gets the default of its axis.

    Returns:
        A profile for every graph of ``specs``.

    Raises:
        ConfigError: A text is malformed, or its name is neither a graph nor an axis.
    """
    given = dict(_parse(text, specs) for text in asked)
    return {
        name: given.get(name, given.get(spec.batch_axis, DEFAULT_PROFILES[spec.batch_axis]))
        for name, spec in specs.items()
    }


def _parse(text: str, specs: Mapping[str, GraphSpec]) -> tuple[str, ProfileRange]:
    match = _WRITTEN.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"profile {text!r}: write NAME=MIN:OPT:MAX, such as batch=1:64:512")
    name = match[1]
    known = [*dict.fromkeys(spec.batch_axis for spec in specs.values()), *specs]
    if name not in known:
        raise ConfigError(f"profile {text!r}: {name} is not one of {', '.join(known)}")
    return name, ProfileRange(int(match[2]), int(match[3]), int(match[4]))
