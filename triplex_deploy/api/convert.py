"""Write a prediction in the format of another program, as ``triplex-deploy convert`` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from triplex_deploy.outputs import formats
from triplex_deploy.outputs.h5ad import read_prediction
from triplex_deploy.outputs.prediction import Prediction


def convert(
    prediction: Prediction | str | Path,
    to: str,
    out: str | Path | None = None,
    *,
    genes: Sequence[str] | None = None,
    pixel_um: float | None = None,
    qupath_bounds: bool = False,
) -> Path:
    """Write a prediction in the format of another program.

    Args:
        prediction: A prediction, or the path of its h5ad.
        to: ``csv``, ``parquet``, ``geojson``, ``spatialdata`` or ``ome-tiff``.
        out: File to write; None for a file beside the h5ad, or in the working folder.
        genes: Genes to write, None for all.
        pixel_um: Pixel size of an ``ome-tiff`` in microns; None for an eighth of a spot.
        qupath_bounds: Let coordinates of a ``geojson`` begin at the scanned part of the slide, to
            which QuPath crops slides such as MRXS.

    Returns:
        The path of the file, or of the folder of a ``spatialdata`` store.

    Raises:
        ConfigError: If the format or a gene is unknown, or the format has no pixels.
        OutputError: If the prediction cannot be read, the path cannot be written or holds
            something else, or a library is missing.
    """
    folder = Path()
    if not isinstance(prediction, Prediction):
        folder = Path(prediction).parent
        prediction = read_prediction(prediction)
    target = formats.also_path(prediction.slide_name, folder, to) if out is None else out
    return formats.convert(prediction, to, target, genes, pixel_um, qupath_bounds)
