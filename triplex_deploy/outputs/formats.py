"""The file formats a prediction can be converted to, beside its own h5ad."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from triplex_deploy.errors import ConfigError, OutputError
from triplex_deploy.outputs.geojson import is_own_geojson, write_geojson
from triplex_deploy.outputs.ome_tiff import is_own_ome_tiff, write_ome_tiff
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.outputs.spatial_data import is_own_spatialdata, write_spatialdata
from triplex_deploy.outputs.table import is_own_csv, is_own_parquet, write_csv, write_parquet


@dataclass(frozen=True)
class FileFormat:
    """How one format is written, and how a file of ours is told from somebody else's."""

    suffix: str
    write: Callable[[Prediction, Path], None]
    is_own: Callable[[Path], bool]
    library: str | None = None
    """Package of the ``files`` extra that it needs."""
    is_folder: bool = False


FORMATS: Final = {
    "csv": FileFormat(".csv", write_csv, is_own_csv),
    "parquet": FileFormat(".parquet", write_parquet, is_own_parquet, "pyarrow"),
    "geojson": FileFormat(".geojson", write_geojson, is_own_geojson),
    "spatialdata": FileFormat(
        ".spatialdata.zarr", write_spatialdata, is_own_spatialdata, "spatialdata", is_folder=True
    ),
    "ome-tiff": FileFormat(".ome.tif", write_ome_tiff, is_own_ome_tiff),
}


def convert(
    prediction: Prediction,
    format_name: str,
    path: str | Path,
    genes: Sequence[str] | None = None,
    pixel_um: float | None = None,
) -> Path:
    """Write ``prediction``, or its ``genes`` alone, to ``path`` in one of ``FORMATS``.

    ``pixel_um`` is the pixel size of an OME-TIFF. A file of ours is replaced, another is not.
    Raises ``ConfigError`` for an unknown format or gene and ``OutputError`` where it cannot be
    written or a library is missing.
    """
    path = Path(path)
    require_target(format_name, path)
    chosen = prediction if genes is None else prediction.select_genes(genes)
    write = FORMATS[format_name].write
    if format_name == "ome-tiff":
        write = partial(write_ome_tiff, pixel_um=pixel_um)
    elif pixel_um is not None:
        raise ConfigError(f"pixel size: a {format_name} has no pixels; leave it out")
    write(chosen, path)
    return path


def write_also(
    prediction: Prediction,
    folder: Path,
    formats: Sequence[str],
    genes: Sequence[str] | None = None,
) -> list[Path]:
    """Write ``<slide><suffix>`` into ``folder`` for each of ``formats``; returns the paths.

    Raises as ``convert``; all targets are checked before the first is written.
    """
    require_also(prediction.slide_name, folder, formats)
    paths = [also_path(prediction.slide_name, folder, name) for name in formats]
    for name, path in zip(formats, paths, strict=True):
        convert(prediction, name, path, genes)
    return paths


def require_also(slide_name: str, folder: Path, formats: Sequence[str]) -> None:
    """Raise now what ``write_also`` would raise after the prediction."""
    for name in formats:
        require_target(name, also_path(slide_name, folder, name))


def also_path(slide_name: str, folder: Path, format_name: str) -> Path:
    """Where ``write_also`` puts a format; an unknown one raises ``ConfigError``."""
    return folder / f"{slide_name}{_format(format_name).suffix}"


def require_target(format_name: str, path: Path) -> None:
    """Refuse a missing library, and a path that holds something we did not write."""
    wanted = _format(format_name)
    if wanted.library is not None and find_spec(wanted.library) is None:
        raise OutputError(
            f"{format_name}: {wanted.library} is not installed; "
            "run `pip install 'triplex-deploy[files]'`"
        )
    if not path.exists():
        return
    kind = "folder" if path.is_dir() else "file"
    if path.is_dir() != wanted.is_folder or not wanted.is_own(path):
        raise OutputError(
            f"{path}: this {kind} is no {format_name} of ours; choose another name to keep it"
        )


def _format(name: str) -> FileFormat:
    if name not in FORMATS:
        raise ConfigError(f"format {name!r}: not known; use {', '.join(FORMATS)}")
    return FORMATS[name]
