"""Convert predictions to the file formats of other programs.

A new format is a file of its own that makes a ``FileFormat``, and one line in ``FORMATS``.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from triplex_deploy.errors import ConfigError, OutputError
from triplex_deploy.files.ours import exists, require_no_link
from triplex_deploy.install import install_command
from triplex_deploy.outputs.file_format import FileFormat
from triplex_deploy.outputs.gene_table import GENES
from triplex_deploy.outputs.geojson import GEOJSON
from triplex_deploy.outputs.ome_tiff import OME_TIFF
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.outputs.spatial_data import SPATIALDATA
from triplex_deploy.outputs.table import CSV, PARQUET

FORMATS: Final = {
    file_format.name: file_format
    for file_format in (CSV, PARQUET, GEOJSON, SPATIALDATA, OME_TIFF, GENES)
}
"""All formats by name, in the order in which ``convert`` lists them."""


def convert(
    prediction: Prediction,
    format_name: str,
    path: str | Path,
    genes: Sequence[str] | None = None,
    pixel_um: float | None = None,
    qupath_bounds: bool = False,
) -> Path:
    """Write a prediction in one of ``FORMATS`` and return the path.

    Args:
        prediction: What to write.
        format_name: Name of the format.
        path: File or folder to write, in a folder that is made if needed. It may replace what this
            package wrote, and nothing else.
        genes: Genes to write, None for all.
        pixel_um: Pixel size in microns, for a format that is a picture; None for its default.
        qupath_bounds: Let coordinates begin at the scanned part of the slide, to which QuPath
            crops some slides; for a format that has this choice.

    Raises:
        ConfigError: If the format or a gene is unknown, or the format has no pixels.
        OutputError: If the path cannot be written or replaced, or a library is missing.
    """
    path = Path(path)
    require_target(format_name, path)
    chosen = prediction if genes is None else prediction.select_genes(genes)
    file_format = _format(format_name)
    if pixel_um is not None and not file_format.has_pixels:
        raise ConfigError(f"pixel size: a {format_name} has no pixels; leave it out")
    if qupath_bounds and not file_format.has_bounds:
        raise ConfigError(f"qupath_bounds: a {format_name} has whole slides; leave it out")
    own = {"pixel_um": pixel_um} if file_format.has_pixels else {}
    own |= {"qupath_bounds": qupath_bounds} if file_format.has_bounds else {}
    file_format.write(chosen, path, **own)
    return path


def write_also(
    prediction: Prediction,
    folder: Path,
    formats: Sequence[str],
    genes: Sequence[str] | None = None,
) -> list[Path]:
    """Write ``<slide><suffix>`` into a folder for each of ``formats``; return the paths.

    All paths are checked before the first file is written. Raises as ``convert``.
    """
    require_also(prediction.slide_name, folder, formats)
    paths = [also_path(prediction.slide_name, folder, name) for name in formats]
    for name, path in zip(formats, paths, strict=True):
        convert(prediction, name, path, genes)
    return paths


def require_also(slide_name: str, folder: Path, formats: Sequence[str]) -> None:
    """Raise, before the prediction, what ``write_also`` would raise after it."""
    for name in formats:
        require_target(name, also_path(slide_name, folder, name))


def also_path(slide_name: str, folder: Path, format_name: str) -> Path:
    """Return the path that ``write_also`` gives a format; raises ``ConfigError`` if unknown."""
    return folder / f"{slide_name}{_format(format_name).suffix}"


def require_target(format_name: str, path: Path) -> None:
    """Raise ``OutputError`` if a library is missing, or the path holds somebody else's data."""
    wanted = _format(format_name)
    if wanted.library is not None and find_spec(wanted.library) is None:
        raise OutputError(
            f"{format_name}: {wanted.library} is not installed; run `{install_command('files')}`"
        )
    require_no_link(path)
    if not exists(path):
        return
    is_kind = path.is_dir() if wanted.is_folder else path.is_file()
    kind = "folder" if path.is_dir() else "file"
    if not is_kind or not _is_own(wanted, path):
        raise OutputError(
            f"{path}: this {kind} is not a {format_name} written by triplex-deploy; "
            "choose another name to keep it"
        )


def _is_own(wanted: FileFormat, path: Path) -> bool:
    try:
        return wanted.is_own(path)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be read ({error.strerror or error}); choose another name to keep it"
        ) from error


def _format(name: str) -> FileFormat:
    if name not in FORMATS:
        raise ConfigError(f"format {name!r}: not known; use {', '.join(FORMATS)}")
    return FORMATS[name]
