"""The run's facts, whatever they are, as labelled text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

UNITS: Final = {
    "_s": "s",
    "_mb": "MB",
    "_gb": "GB",
    "_um": "µm",
    "_mm": "mm",
    "_px": "px",
    "mpp": "µm/px",
}
"""Unit by the end of a key; the project's names say their unit."""
TOTAL: Final = "total"
ACRONYMS: Final = {
    "id": "ID",
    "mpp": "scale",
    "mb": "MB",
    "level0": "level-0",
    "gpu": "GPU",
    "cpu": "CPU",
    "fp16": "FP16",
}


@dataclass(frozen=True)
class Fact:
    label: str
    value: str


@dataclass(frozen=True)
class Stage:
    """One stage of the run and its part of the total, 0 to 1; the total itself has no part."""

    label: str
    seconds: str
    part: float | None


def format_metadata(run: Mapping[str, Any]) -> list[Fact]:
    """The plain facts, without stage timings and grouped facts."""
    return [_fact(key, value) for key, value in run.items() if not isinstance(value, Mapping)]


def grouped_metadata(run: Mapping[str, Any]) -> dict[str, list[Fact]]:
    """Facts that come in groups, such as versions, by the group's label, unless empty."""
    return {
        _label(key): [Fact(str(name), _text(value)) for name, value in group.items()]
        for key, group in run.items()
        if isinstance(group, Mapping) and group and not _is_timings(key)
    }


def stages(run: Mapping[str, Any]) -> list[Stage]:
    """Wall seconds of each stage, in the order they ran."""
    timings = {
        str(name): float(value)
        for key, group in run.items()
        if isinstance(group, Mapping) and _is_timings(key)
        for name, value in group.items()
        if isinstance(value, int | float)
    }
    total = timings.get(TOTAL) or sum(timings.values()) or 1.0
    return [
        Stage(
            label=_label(name.removesuffix("_s")),
            seconds=f"{seconds:,.2f} s",
            part=None if name == TOTAL else seconds / total,
        )
        for name, seconds in timings.items()
    ]


def _is_timings(key: str) -> bool:
    return key.startswith("timings")


def _fact(key: str, value: Any) -> Fact:
    if key.endswith("_per_s"):
        return Fact(_label(key.removesuffix("s") + "second"), _text(value))
    for ending, unit in UNITS.items():
        if "_per_" not in key and key.endswith(ending) and isinstance(value, int | float):
            label = key if ending == "mpp" else key.removesuffix(ending)
            return Fact(_label(label), f"{_text(value)} {unit}")
    return Fact(_label(key), _text(value))


def _label(key: str) -> str:
    words = [ACRONYMS.get(word, word) for word in key.removeprefix("n_").split("_")]
    return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]])


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "none"
    return str(value)
