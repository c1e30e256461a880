"""How long a graph's dynamic axis may be: the optimisation profile of its TensorRT engine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from triplex_deploy.contract import GraphSpec, TensorSpec
from triplex_deploy.errors import ConfigError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Extent:
    """Least, typical and greatest length of a dynamic axis; engines are fastest at ``typical``."""

    least: int
    typical: int
    most: int

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.typical <= self.most:
            raise ConfigError(f"profile {self}: use 1 <= MIN <= TYPICAL <= MAX, such as 1:64:512")

    def __str__(self) -> str:
        return f"{self.least}:{self.typical}:{self.most}"

    @property
    def lengths(self) -> tuple[int, int, int]:
        return self.least, self.typical, self.most

    def __contains__(self, length: object) -> bool:
        return isinstance(length, int) and self.least <= length <= self.most

    def shapes(self, tensor: TensorSpec) -> tuple[Shape, Shape, Shape]:
        """Least, typical and greatest shape of ``tensor``."""
        least, typical, most = (
            tuple(length if isinstance(axis, str) else axis for axis in tensor.axes)
            for length in self.lengths
        )
        return least, typical, most


Extents = dict[str, Extent]

OF_AXIS: Final = {"batch": Extent(1, 64, 512), "spots": Extent(1, 4096, 20000)}
"""Unless told otherwise: the batches of the benchmark, and slides up to 20,000 spots, of which
Visium's 4,992 are typical."""

_WRITTEN: Final = re.compile(r"(\w+)=(\d+):(\d+):(\d+)")


def choose_extents(specs: Mapping[str, GraphSpec], asked: Iterable[str] = ()) -> Extents:
    """An extent for each graph: the default of its dynamic axis, or as ``asked``.

    ``asked`` are texts ``NAME=MIN:TYPICAL:MAX``, where the name is a graph or an axis; a graph's
    own wins. Raises ``ConfigError`` if one is malformed, or names neither.
    """
    given = dict(_parse(text, specs) for text in asked)
    return {
        name: given.get(name, given.get(spec.batch_axis, OF_AXIS[spec.batch_axis]))
        for name, spec in specs.items()
    }


def _parse(text: str, specs: Mapping[str, GraphSpec]) -> tuple[str, Extent]:
    match = _WRITTEN.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"profile {text!r}: write NAME=MIN:TYPICAL:MAX, such as batch=1:64:512")
    name = match[1]
    known = [*dict.fromkeys(spec.batch_axis for spec in specs.values()), *specs]
    if name not in known:
        raise ConfigError(f"profile {text!r}: {name} is not one of {', '.join(known)}")
    return name, Extent(int(match[2]), int(match[3]), int(match[4]))
