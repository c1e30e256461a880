"""Open a prepared data set for training: measurements, cached features, labels and folds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import CONFIGS, N_NEIGHBORS, TILE_PX, Config, Neighborhood
from triplex_deploy.contract.neighborhood import KIND_KEY, STRIDE_KEY
from triplex_deploy.data import Fold, Section, make_folds
from triplex_deploy.errors import ConfigError, DatasetError
from triplex_deploy.expression import LabelTransform, select_genes
from triplex_deploy.files.damaged import damage_as
from triplex_deploy.files.sparse_parts import require_sparse_parts
from triplex_deploy.training.array_files import REMEDY, first_altered, open_array, read_prepared_npz
from triplex_deploy.training.encode_section import MEASURED, TILE_PLAN
from triplex_deploy.training.features import FEATURES, TARGETS
from triplex_deploy.training.options import SELECTIONS, VALIDATION, current_selection

PREPARED_FILE: Final = "prepared.json"
"""Describes the prepared data set; it is written last, so its presence means it is complete."""
SECTIONS: Final = "sections"
SCHEMA: Final = 1

C = TypeVar("C", bound=Config)

_KEYS: Final = frozenset(
    {
        "schema",
        "source",
        "tile",
        "tile_encoder",
        "label_transform",
        "genes",
        "folds",
        "sections",
        "versions",
    }
)


@dataclass(frozen=True, eq=False)
class PreparedSection:
    """Measurements of a section with the features of its tiles; large arrays stay on disk."""

    measured: Section
    """Counts and places of the N spots."""
    features: NDArray[np.float32]
    """Features (T, F) of all T tiles of the section, each encoded once."""
    tiles: NDArray[np.uint8]
    """Target tiles (N, 224, 224, 3) of the spots, RGB."""
    neighbor_tile: NDArray[np.int64]
    """Row (N, 25) of ``features`` for each tile of the neighborhood, -1 where masked."""
    neighbor_mask: NDArray[np.bool_]
    """True (N, 25) where the neighbor lies on the slide."""
    spot_tile: NDArray[np.int64]
    """Row (N,) of ``features`` for each target tile."""
    masked_feature: NDArray[np.float32]
    """Feature (F,) that stands for a masked neighbor."""

    def spot_features(self) -> NDArray[np.float32]:
        """Return features (N, F) of the target tiles, which are the global encoder's input."""
        return np.asarray(self.features[self.spot_tile])

    def neighbor_features(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return features (B, 25, F) of the neighborhoods of ``rows``, constant where masked."""
        features = np.asarray(self.features[self.neighbor_tile[rows]])
        features[~self.neighbor_mask[rows]] = self.masked_feature
        return features

    def labels(self, panel: tuple[str, ...], transform: LabelTransform) -> NDArray[np.float32]:
        """Return labels (N, G) for the genes of ``panel``."""
        counts = self.measured.panel_counts(panel)
        values = transform(counts, self.measured.grid_rc, self.measured.library)
        return values.astype(np.float32)


@dataclass(frozen=True, eq=False, repr=False)
class Prepared:
    """A prepared data set, opened by ``open_prepared``."""

    def __repr__(self) -> str:
        spots = sum(section.measured.n_spots for section in self.sections.values())
        return (
            f"<Prepared {self.path}: {len(self.sections)} sections, {spots} spots, "
            f"{self.n_genes} genes, {len(self.folds)} folds>"
        )

    path: Path
    """Folder of the data set."""
    sections: Mapping[str, PreparedSection]
    """Sections by name, in the order in which they were prepared."""
    tile_mpp: float
    """Scale of the tiles, microns per pixel."""
    tile_encoder: Mapping[str, Any]
    """Kind, name, digest, feature_dim and file of the frozen tile encoder."""
    label_transform: LabelTransform
    """How labels are made from counts."""
    n_genes: int
    """Number of genes to predict."""
    gene_list: tuple[str, ...] | None
    """Genes that the user chose; None where the most abundant genes are selected."""
    fold_scheme: str
    """Scheme of ``make_folds``."""
    fold_seed: int
    """Seed of the folds."""
    neighborhood: Neighborhood
    """Where the neighbor tiles of spots were taken."""

    @cached_property
    def patient_of(self) -> dict[str, str]:
        """Patient of each section, by section name."""
        return {name: section.measured.patient for name, section in self.sections.items()}

    @cached_property
    def folds(self) -> tuple[Fold, ...]:
        """Return the folds of the data set."""
        return make_folds(self.patient_of, self.fold_scheme, self.fold_seed)

    @property
    def feature_dim(self) -> int:
        """Number of features per tile."""
        return int(self.tile_encoder["feature_dim"])

    @property
    def tile_encoder_path(self) -> Path:
        """File of the frozen tile encoder."""
        return self.path / str(self.tile_encoder["file"])

    def panel(self, fold: Fold, selection: str) -> tuple[str, ...]:
        """Return the genes to train on.

        With ``validation`` they are selected from the training sections, with ``test_fold`` from
        all sections, as published. A gene list that the user chose is returned for both.

        Raises:
            DatasetError: For an unknown selection.
        """
        selection = current_selection(selection)
        if selection not in SELECTIONS:
            raise DatasetError(f"selection {selection!r}: use {' or '.join(SELECTIONS)}")
        if self.gene_list is not None:
            return self.gene_list
        names = fold.train if selection == VALIDATION else tuple(self.sections)
        totals = [self.sections[name].measured.gene_totals() for name in names]
        return select_genes(totals, self.n_genes)


def open_prepared(path: str | Path) -> Prepared:
    """Open a folder that ``prepare_dataset`` wrote.

    Raises:
        DatasetError: If the folder is no prepared data set, or is incomplete or altered.
    """
    path = Path(path)
    content = _read_description(path)
    with damage_as(DatasetError, f"{path}: incomplete or altered", REMEDY):
        genes, tile, folds = content["genes"], content["tile"], content["folds"]
        sections = {entry["name"]: _open_section(path, entry) for entry in content["sections"]}
        return Prepared(
            path=path,
            sections=sections,
            tile_mpp=float(tile["mpp"]),
            tile_encoder=content["tile_encoder"],
            label_transform=LabelTransform.from_dict(content["label_transform"]),
            n_genes=int(genes["count"]),
            gene_list=tuple(genes["list"]) if genes["list"] is not None else None,
            fold_scheme=str(folds["scheme"]),
            fold_seed=int(folds["seed"]),
            neighborhood=_neighborhood(path, tile),
        )


@dataclass(frozen=True, eq=False)
class LabeledSections:
    """Prepared sections with their labels."""

    sections: Sequence[PreparedSection]
    labels: Sequence[NDArray[np.float32]]
    """Labels (N, G) of each section."""
    panel: tuple[str, ...] = ()
    """The G genes."""

    @property
    def n_spots(self) -> int:
        """Number of spots of all sections."""
        return sum(section.measured.n_spots for section in self.sections)

    def mean_label(self) -> NDArray[np.float32]:
        """Return the mean label (G,) over all spots."""
        mean: NDArray[np.float32] = np.concatenate(self.labels).mean(0)
        return mean

    def counts(self) -> list[NDArray[np.float32]]:
        """Return raw counts (N, G) of each section, neither normalized nor smoothed."""
        return [
            section.measured.panel_counts(self.panel).astype(np.float32)
            for section in self.sections
        ]


def label_sections(
    prepared: Prepared, names: Sequence[str], panel: tuple[str, ...]
) -> LabeledSections:
    """Return the sections ``names`` with labels made as the data set was prepared for."""
    sections = [prepared.sections[name] for name in names]
    labels = [section.labels(panel, prepared.label_transform) for section in sections]
    return LabeledSections(sections, labels, panel)


def fit_to_data(config: C, prepared: Prepared, n_genes: int) -> C:
    """Return the configuration with as many array positions as the largest section needs.

    Raises:
        ConfigError: If the number of genes or of features, or the neighborhood, is not the
            prepared one.
    """
    for key, given in (("n_genes", n_genes), ("feature_dim", prepared.feature_dim)):
        if getattr(config, key) != given:
            raise ConfigError(f"{key}={getattr(config, key)}: {given} were prepared; use {given}")
    if _has_neighborhood(type(config)) and config.neighbors != prepared.neighborhood:
        raise ConfigError(
            f"{KIND_KEY} {config.neighbors}: {prepared.path} was prepared with "
            f"{prepared.neighborhood}; leave {KIND_KEY} and {STRIDE_KEY} out, or train on a "
            "folder prepared so"
        )
    if getattr(config, "bank_size", 0):
        raise ConfigError("bank_size: training sets it; leave it out")
    largest = max(int(section.measured.grid_rc.max()) for section in prepared.sections.values())
    known = getattr(config, "n_positions", 0)
    return _with(config, n_positions=max(known, 1 + largest))


def with_data_settings(values: Mapping[str, Any], prepared: Prepared) -> dict[str, Any]:
    """Return settings together with those that the prepared data decide.

    A neighborhood among ``values`` is kept, so that ``fit_to_data`` refuses another one than the
    prepared.

    Args:
        values: Settings by key; ``model`` names the model, triplex if absent.
        prepared: The prepared data set.
    """
    decided = {"n_genes": prepared.n_genes, "feature_dim": prepared.feature_dim}
    kind = CONFIGS.get(str(values.get("model", "triplex")))
    is_open = KIND_KEY not in values and STRIDE_KEY not in values
    if kind is not None and _has_neighborhood(kind) and is_open:
        decided |= prepared.neighborhood.recorded()
    return {**values, **decided}


def _has_neighborhood(kind: type[Config]) -> bool:
    return KIND_KEY in {field.name for field in fields(kind)}


def with_bank(config: C, n_spots: int) -> C:
    """Return the configuration with a bank of ``n_spots``, unchanged for a model without a bank."""
    return _with(config, bank_size=n_spots)


def _neighborhood(path: Path, tile: Mapping[str, Any]) -> Neighborhood:
    try:
        return Neighborhood.of_record(tile)
    except ConfigError as error:
        raise DatasetError(f"{path / PREPARED_FILE}: {error}; {REMEDY}") from error


def _read_description(path: Path) -> dict[str, Any]:
    try:
        content = json.loads((path / PREPARED_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DatasetError(
            f"{path}: not a prepared data set, or not finished; run triplex-deploy prepare"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(
            f"{path / PREPARED_FILE}: not readable ({error}); prepare again"
        ) from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or set(content) != _KEYS:
        raise DatasetError(f"{path}: not of schema {SCHEMA}; run triplex-deploy prepare again")
    return content


def _open_section(path: Path, entry: Mapping[str, Any]) -> PreparedSection:
    folder = path / SECTIONS / str(entry["name"])
    altered = first_altered(folder, entry.get("digests"))
    if altered is not None:
        raise DatasetError(f"{folder / altered}: altered since it was written; {REMEDY}")
    arrays = read_prepared_npz(folder / TILE_PLAN)
    section = PreparedSection(
        measured=_open_measured(folder, entry),
        features=open_array(folder / FEATURES),
        tiles=open_array(folder / TARGETS),
        neighbor_tile=arrays["neighbor_tile"],
        neighbor_mask=arrays["neighbor_mask"],
        spot_tile=arrays["spot_tile"],
        masked_feature=arrays["masked_feature"],
    )
    _check_shapes(folder, section)
    return section


def _check_shapes(folder: Path, section: PreparedSection) -> None:
    """Check that the arrays of a section fit together and indices stay inside."""
    n_spots, n_tiles = section.measured.n_spots, len(section.features)
    n_neighbors = N_NEIGHBORS
    shapes = (
        (section.features.ndim, 2),
        (section.tiles.shape, (n_spots, TILE_PX, TILE_PX, 3)),
        (section.neighbor_tile.shape, (n_spots, n_neighbors)),
        (section.neighbor_mask.shape, (n_spots, n_neighbors)),
        (section.spot_tile.shape, (n_spots,)),
        (section.masked_feature.shape, section.features.shape[1:]),
    )
    types = (
        (section.features.dtype, np.float32),
        (section.tiles.dtype, np.uint8),
        (section.neighbor_mask.dtype, np.bool_),
        (section.masked_feature.dtype, np.float32),
    )
    if any(found != wanted for found, wanted in shapes + types):
        raise DatasetError(f"{folder}: arrays do not fit together; {REMEDY}")
    for index, lowest in ((section.neighbor_tile, -1), (section.spot_tile, 0)):
        whole = index.dtype.kind in "iu"
        if not whole or int(index.min()) < lowest or int(index.max()) >= n_tiles:
            raise DatasetError(f"{folder}: a tile index is outside its features; {REMEDY}")


def _open_measured(folder: Path, entry: Mapping[str, Any]) -> Section:
    from scipy.sparse import csr_array

    arrays = read_prepared_npz(folder / MEASURED)
    genes = tuple(map(str, arrays["genes"]))
    shape = (len(arrays["grid_rc"]), len(genes))
    parts = (len(arrays["data"]), arrays["indices"], arrays["indptr"])
    require_sparse_parts(DatasetError, str(folder / MEASURED), parts, shape)
    return Section(
        name=entry["name"],
        patient=entry["patient"],
        slide_path=Path(entry["slide"]),
        slide_mpp=float(entry["slide_mpp"]),
        counts=csr_array((arrays["data"], arrays["indices"], arrays["indptr"]), shape=shape),
        genes=genes,
        grid_rc=arrays["grid_rc"],
        level0_xy=arrays["level0_xy"],
        is_hexagonal=bool(entry["is_hexagonal"]),
    )


def _with(config: C, **values: int) -> C:
    """Return the configuration with those of ``values`` whose keys it has."""
    known = {field.name for field in fields(config)}
    fitting: dict[str, Any] = {key: value for key, value in values.items() if key in known}
    return replace(config, **fitting)
