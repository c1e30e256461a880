"""Turn the metadata of a run into labels and text for the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from triplex_deploy.progress import TOTAL

UNITS: Final = {
    "_s": "s",
    "_mb": "MB",
    "_gb": "GB",
    "_um": "µm",
    "_mm": "mm",
    "_px": "px",
    "mpp": "µm/px",
}
"""Unit of a value, by the end of its key."""
WALL: Final = "wall_s"
"""Key of the elapsed seconds of the steps of a run, which add up."""
LABELS: Final = {
    "timings_s": "Work by graph, in seconds",
    "cpu_s": "Processor time, in seconds",
    "idle_s": "Waiting for each other, in seconds",
    "kept_in": "Where features were kept",
    "layout": "Where spots are",
    "array_places": "Rows and columns of spots",
    "regions": "Regions in which spots were compared",
    "neighborhood": "Tissue around a spot",
    "neighborhood_stride_px": "Distance of shared tiles",
    "slide_tiles_decoded": "Parts of the slide read",
    "slide_tiles_unreadable": "Parts of the slide that cannot be read",
    "hardly_he": "What speaks against H&E",
    "tiles_encoded": "Tiles of tissue encoded",
    "tiles_from_cache": "Tiles known from an earlier run",
    "tiles_without_sharing": "Tiles, if each spot had its own",
    "sharing": "Spots that use one tile, on average",
    "workers": "Tiles encoded side by side",
    "batch_size": "Tiles in one call",
    "bf16_gain": "Gain by bf16",
    "panel": "Genes of the model",
}
"""Labels of keys that are not plain words."""
ACRONYMS: Final = {
    "id": "ID",
    "mpp": "scale",
    "mb": "MB",
    "level0": "level-0",
    "gpu": "GPU",
    "cpu": "CPU",
    "fp16": "FP16",
}
"""Spelling of words of a key that are not plain words."""


@dataclass(frozen=True)
class MetadataRow:
    """One row of a table of metadata."""

    label: str
    """Name of the value, in words."""
    value: str
    """Text of the value, with its unit."""


@dataclass(frozen=True)
class Stage:
    """One stage of the run."""

    label: str
    """Name of the stage."""
    seconds: str
    """Wall time, with its unit."""
    part: float | None
    """Share of the total, 0 to 1; None for the total."""


def format_metadata(run: Mapping[str, Any]) -> list[MetadataRow]:
    """Return a row for each plain value, without timings, groups and empty texts."""
    return [
        _row(key, value)
        for key, value in run.items()
        if not isinstance(value, Mapping) and value != ""
    ]


def grouped_metadata(run: Mapping[str, Any]) -> dict[str, list[MetadataRow]]:
    """Return the rows of each group, such as versions, by its label; empty groups are left out."""
    shown_as_stages = _stage_keys(run)
    return {
        _label(key): [MetadataRow(str(name), _text(value)) for name, value in group.items()]
        for key, group in run.items()
        if isinstance(group, Mapping) and group and key not in shown_as_stages
    }


def stages(run: Mapping[str, Any]) -> list[Stage]:
    """Return the wall time of each stage, in the order of the run.

    Runs of earlier versions have the work of each graph in place of stages that add up.
    """
    timings = {
        str(name): float(value)
        for key in _stage_keys(run)
        if isinstance(group := run[key], Mapping)
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


def _stage_keys(run: Mapping[str, Any]) -> list[str]:
    if isinstance(run.get(WALL), Mapping):
        return [WALL]
    return [key for key in run if key.startswith("timings")]


def _row(key: str, value: Any) -> MetadataRow:
    if key.endswith("_per_s"):
        return MetadataRow(_label(key.removesuffix("s") + "second"), _text(value))
    for ending, unit in UNITS.items():
        if "_per_" not in key and key.endswith(ending) and isinstance(value, int | float):
            label = key if ending == "mpp" else key.removesuffix(ending)
            return MetadataRow(_label(label), f"{_text(value)} {unit}")
    return MetadataRow(_label(key), _text(value))


def _label(key: str) -> str:
    if key in LABELS:
        return LABELS[key]
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
