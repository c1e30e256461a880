"""``prepare_dataset``: read measurements, encode every tile once, fix genes, labels and folds."""

from __future__ import annotations

import json
import logging
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from triplex_deploy.contract import IMAGE_MEAN, IMAGE_STD, TILE_PX
from triplex_deploy.data import Section, make_folds, read_dataset, read_section_list
from triplex_deploy.data.folds import patients_of
from triplex_deploy.errors import ConfigError, DatasetError, OutputError
from triplex_deploy.expression import LabelTransform, select_genes
from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.progress import Progress, Silent
from triplex_deploy.runtime.device import CPU, Device
from triplex_deploy.training.encode_section import EncodeOptions, encode_section
from triplex_deploy.training.prepared import (
    PREPARED_FILE,
    SCHEMA,
    SECTIONS,
    Prepared,
    open_prepared,
)
from triplex_deploy.training.tile_encoder import FrozenEncoder, open_tile_encoder

logger = logging.getLogger(__name__)

MPP_DIGITS = 4


@dataclass(frozen=True)
class PrepareOptions:
    """Options of ``prepare_dataset``; every default is what the command line uses.

    ``layout`` is st, visium or hest; ``section_list`` the table of ``read_section_list``;
    ``gene_list`` a file of one symbol a line, in place of the ``n_genes`` most abundant;
    ``tile_encoder`` a trunk's weights or an ONNX file, None for random weights of ``seed``;
    ``encoder_mean`` and ``encoder_std`` normalise RGB in [0, 1] for an ONNX file that takes floats;
    ``folds`` a scheme of ``make_folds``; ``tile_mpp`` the scale of tiles, the sections' median if
    None; ``native_pixels`` reads slides without rescaling, as the published code does.
    """

    layout: str
    section_list: Path | None = None
    n_genes: int = 250
    gene_list: Path | None = None
    tile_encoder: Path | None = None
    encoder_mean: tuple[float, float, float] = IMAGE_MEAN
    encoder_std: tuple[float, float, float] = IMAGE_STD
    folds: str = "patients"
    tile_mpp: float | None = None
    native_pixels: bool = False
    labels: LabelTransform = field(default_factory=LabelTransform)
    seed: int = 2021
    batch_size: int = 32
    threads: int | None = None
    device: Device = CPU

    def __post_init__(self) -> None:
        if self.n_genes < 1:
            raise ConfigError(f"genes: {self.n_genes} asked for; use at least 1")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size={self.batch_size}: must be at least 1")
        if min(self.encoder_std) <= 0:
            raise ConfigError(f"encoder std {self.encoder_std}: use positive numbers")
        if self.tile_mpp is not None and not 0 < self.tile_mpp < np.inf:
            raise ConfigError(f"tile mpp {self.tile_mpp}: use positive microns per pixel")


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
    listed = read_section_list(options.section_list) if options.section_list else None
    sections = read_dataset(root, options.layout, listed)
    genes = _read_gene_list(options.gene_list)
    _check_genes(sections, genes, options.n_genes)
    make_folds(patients_of(sections), options.folds, options.seed)
    encoder = open_tile_encoder(
        options.tile_encoder,
        options.seed,
        options.device,
        options.threads,
        options.encoder_mean,
        options.encoder_std,
    )
    encode = EncodeOptions(_tile_mpp(sections, options), options.native_pixels, options.batch_size)
    out = Path(out)
    entries = _encode_all(sections, encoder, out, encode, progress or Silent())
    manifest = {
        "schema": SCHEMA,
        "source": {"format": options.layout, "path": str(Path(root).resolve())},
        "tile": {"px": TILE_PX, "mpp": encode.tile_mpp, "native_pixels": encode.native_pixels},
        "tile_encoder": {**encoder.facts(), "file": encoder.store(out)},
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


def _encode_all(
    sections: Sequence[Section],
    encoder: FrozenEncoder,
    out: Path,
    options: EncodeOptions,
    progress: Progress,
) -> list[dict[str, Any]]:
    try:
        (out / SECTIONS).mkdir(parents=True, exist_ok=True)
        (out / PREPARED_FILE).unlink(missing_ok=True)  # unfinished until it is written again
        return [_entry(section, encoder, out, options, progress) for section in sections]
    except OSError as error:
        raise OutputError(
            f"{out}: cannot be written ({error.strerror or error}); choose another --out"
        ) from error


def _entry(
    section: Section,
    encoder: FrozenEncoder,
    out: Path,
    options: EncodeOptions,
    progress: Progress,
) -> dict[str, Any]:
    facts = encode_section(section, encoder, out / SECTIONS / section.name, options, progress)
    return {
        "name": section.name,
        "patient": section.patient,
        "slide": str(section.slide_path.resolve()),
        "slide_mpp": section.slide_mpp,
        "is_hexagonal": section.is_hexagonal,
        **facts,
    }


def _tile_mpp(sections: Sequence[Section], options: PrepareOptions) -> float:
    if options.tile_mpp is not None:
        return options.tile_mpp
    return round(statistics.median(section.slide_mpp for section in sections), MPP_DIGITS)


def _read_gene_list(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); list one gene a line") from error
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
            *(len(absent), len(genes), absent[0]),
        )
