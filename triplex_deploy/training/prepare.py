"""``prepare_dataset``: read measurements, encode every tile once, fix genes, labels and folds."""

from __future__ import annotations

import json
import logging
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from triplex_deploy.contract import TILE_PX
from triplex_deploy.data import Section, make_folds, read_dataset, read_section_list
from triplex_deploy.data.folds import patients_of
from triplex_deploy.errors import DatasetError, OutputError
from triplex_deploy.expression import select_genes
from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.files.compressed import read_text
from triplex_deploy.files.ours import exists, has_keys, require_no_link, require_ours
from triplex_deploy.progress import Progress, Silent
from triplex_deploy.runtime.device import CPU
from triplex_deploy.training.encode_section import EncodeOptions, encode_section
from triplex_deploy.training.encoder_runner import EncoderRunner, RunOptions
from triplex_deploy.training.features import is_claimed
from triplex_deploy.training.prepare_options import PrepareOptions
from triplex_deploy.training.prepared import (
    PREPARED_FILE,
    SCHEMA,
    SECTIONS,
    Prepared,
    open_prepared,
)
from triplex_deploy.training.tile_encoder import (
    BACKBONE_FILE,
    ONNX_FILE,
    FrozenEncoder,
    open_tile_encoder,
)

logger = logging.getLogger(__name__)

SIMILAR_SCALE: Final = 1.5
"""Largest factor between the scales of tiles and of an encoder's training without a warning."""

MPP_DIGITS = 4
RECORDED_ONCE = ("precision", "backend")
"""Facts of a section that stay in its folder; the precision stands with the tile encoder."""


def prepare_dataset(
    root: str | Path,
    out: str | Path,
    options: PrepareOptions,
    progress: Progress | None = None,
) -> Prepared:
    """Prepare ``root`` for training in the folder ``out`` and open it.

    What an earlier or interrupted run encoded for the same slide, spots, scale and encoder is used
    again. Nothing is encoded before genes and folds are known to be possible.
    """
    out = Path(out)
    _require_own(out, options.tile_encoder)
    listed = read_section_list(options.section_list) if options.section_list else None
    sections = read_dataset(root, options.layout, listed, options.pooling)
    genes = _read_gene_list(options.gene_list)
    _check_genes(sections, genes, options.n_genes)
    make_folds(patients_of(sections), options.folds, options.seed)
    encoder = open_tile_encoder(
        options.tile_encoder,
        options.seed,
        options.device,
        1 if options.device == CPU else options.threads,  # the workers are the threads
        options.encoder_mean,
        options.encoder_std,
    )
    encode = EncodeOptions(_tile_mpp(sections, options), options.native_pixels, options.neighbors)
    _compare_scale(encoder, encode.tile_mpp)
    with EncoderRunner(encoder, _run_options(options)) as runner:
        entries = _encode_all(sections, runner, out, encode, progress or Silent())
    manifest = {
        "schema": SCHEMA,
        "source": {
            "format": options.layout,
            "path": str(Path(root).resolve()),
            **({} if options.pooling is None else options.pooling.recorded()),
        },
        "tile": {
            "px": TILE_PX,
            "mpp": encode.tile_mpp,
            "native_pixels": encode.native_pixels,
            **encode.neighborhood.recorded(),
        },
        "tile_encoder": {**runner.metadata(), "file": encoder.store(out)},
        "label_transform": options.labels.to_dict(),
        "genes": {"count": len(genes) if genes else options.n_genes, "list": genes},
        "folds": {"scheme": options.folds, "seed": options.seed},
        "sections": entries,
        "versions": {
            "triplex-deploy": version("triplex-deploy"),
            "python": platform.python_version(),
        },
    }
    with atomic_path(out / PREPARED_FILE) as path:
        path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return open_prepared(out)


_IS_PREPARED = has_keys("schema", "tile_encoder", "sections")


def _run_options(options: PrepareOptions) -> RunOptions:
    return RunOptions(
        backend=options.backend,
        precision=options.precision,
        workers=options.threads,
        device=options.device,
        batch_size=options.batch_size,
    )


def _encode_all(
    sections: Sequence[Section],
    runner: EncoderRunner,
    out: Path,
    options: EncodeOptions,
    progress: Progress,
) -> list[dict[str, Any]]:
    try:
        (out / SECTIONS).mkdir(parents=True, exist_ok=True)
        (out / PREPARED_FILE).unlink(missing_ok=True)  # unfinished until it is written again
        return [_entry(section, runner, out, options, progress) for section in sections]
    except OSError as error:
        raise OutputError(
            f"{out}: cannot be written ({error.strerror or error}); choose another --out"
        ) from error


def _require_own(out: Path, given_encoder: Path | None) -> None:
    """Raise ``OutputError`` if a file that is not of a prepared data set has one of our names."""
    require_ours(out / PREPARED_FILE, _IS_PREPARED, "a prepared data set")
    if exists(out / PREPARED_FILE) or any(map(is_claimed, (out / SECTIONS).glob("*"))):
        return
    for path in (out / BACKBONE_FILE, out / ONNX_FILE):
        require_no_link(path)
        is_given = given_encoder is not None and path.resolve() == given_encoder.resolve()
        if exists(path) and not is_given:
            raise OutputError(
                f"{path}: is not of a prepared data set; choose another --out to keep it"
            )


def _entry(
    section: Section,
    runner: EncoderRunner,
    out: Path,
    options: EncodeOptions,
    progress: Progress,
) -> dict[str, Any]:
    metadata = encode_section(section, runner, out / SECTIONS / section.name, options, progress)
    metadata = {key: value for key, value in metadata.items() if key not in RECORDED_ONCE}
    return {
        "name": section.name,
        "patient": section.patient,
        "slide": str(section.slide_path.resolve()),
        "slide_mpp": section.slide_mpp,
        "is_hexagonal": section.is_hexagonal,
        **metadata,
    }


def _tile_mpp(sections: Sequence[Section], options: PrepareOptions) -> float:
    if options.tile_mpp is not None:
        return options.tile_mpp
    return round(statistics.median(section.slide_mpp for section in sections), MPP_DIGITS)


def _compare_scale(encoder: FrozenEncoder, tile_mpp: float) -> None:
    """Warn if tiles show the encoder much more or less tissue than its training did."""
    if encoder.mpp is None or 1 / SIMILAR_SCALE <= tile_mpp / encoder.mpp <= SIMILAR_SCALE:
        return
    logger.warning(
        "tile encoder %s: its training corresponds to tiles of %.2f um per pixel, and these have "
        "%.2f; if the slides are fine enough, compare with --mpp %.2f",
        encoder.name,
        encoder.mpp,
        tile_mpp,
        encoder.mpp,
    )


def _read_gene_list(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    lines = read_text(path, DatasetError, "list of genes", "list one gene a line").splitlines()
    genes = [line.strip() for line in lines if line.strip()]
    if not genes or len(set(genes)) < len(genes):
        raise DatasetError(f"{path}: empty, or a gene is listed twice; list each gene once")
    return genes


def _check_genes(sections: Sequence[Section], genes: list[str] | None, count: int) -> None:
    if genes is None:
        select_genes([section.gene_totals() for section in sections], count)
        return
    measured = {gene for section in sections for gene in section.genes}
    absent = [gene for gene in genes if gene not in measured]
    if len(absent) == len(genes):
        raise DatasetError("gene list: no section measured any of it; give the symbols used there")
    if absent:
        logger.warning(
            "%d of %d listed genes are in no section and stay 0, such as %s",
            len(absent),
            len(genes),
            absent[0],
        )
