"""A prepared data set: measurements, cached features and folds, opened for training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import Config
from triplex_deploy.data import Fold, Section, make_folds
from triplex_deploy.errors import ConfigError, DatasetError
from triplex_deploy.expression import LabelTransform, select_genes
from triplex_deploy.training.encode_section import MEASURED, PLAN
from triplex_deploy.training.features import FEATURES, TARGETS

MANIFEST: Final = "prepared.json"
SECTIONS: Final = "sections"
SCHEMA: Final = 1
SELECTIONS: Final = ("honest", "paper")

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
    """One section's measurements beside the features of its tiles; large arrays stay on disk."""

    section: Section
    features: NDArray[np.float32]  # (T, F) of every planned tile
    tiles: NDArray[np.uint8]  # (N, 224, 224, 3) of the spots themselves
    neighbor_tile: NDArray[np.int64]  # (N, 25), -1 where masked
    neighbor_mask: NDArray[np.bool_]  # (N, 25)
    spot_tile: NDArray[np.int64]  # (N,)
    masked_feature: NDArray[np.float32]  # (F,) that stands for a masked neighbour

    def spot_features(self) -> NDArray[np.float32]:
        """Features (N, F) of the spots' own tiles: the global encoder's input."""
        return np.asarray(self.features[self.spot_tile])

    def neighbor_features(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Features (B, 25, F) around the spots of ``rows``, masked ones being one constant."""
        features = np.asarray(self.features[self.neighbor_tile[rows]])
        features[~self.neighbor_mask[rows]] = self.masked_feature
        return features

    def labels(self, panel: tuple[str, ...], transform: LabelTransform) -> NDArray[np.float32]:
        """Labels (N, G) for the genes of ``panel``."""
        counts = self.section.panel_counts(panel)
        values = transform(counts, self.section.grid_rc, self.section.library)
        return values.astype(np.float32)


@dataclass(frozen=True, eq=False)
class Prepared:
    """What ``open_prepared`` reads; sections come in the order they were prepared."""

    path: Path
    sections: Mapping[str, PreparedSection]
    tile_mpp: float
    tile_encoder: Mapping[str, Any]
    """Kind, name, digest, feature_dim and file of the frozen encoder."""
    label_transform: LabelTransform
    n_genes: int
    gene_list: tuple[str, ...] | None
    """Genes the user fixed; None where they are selected by abundance."""
    fold_scheme: str
    fold_seed: int

    @cached_property
    def patient_of(self) -> dict[str, str]:
        return {name: one.section.patient for name, one in self.sections.items()}

    @cached_property
    def folds(self) -> tuple[Fold, ...]:
        return make_folds(self.patient_of, self.fold_scheme, self.fold_seed)

    @property
    def feature_dim(self) -> int:
        return int(self.tile_encoder["feature_dim"])

    @property
    def tile_encoder_path(self) -> Path:
        return self.path / str(self.tile_encoder["file"])

    def panel(self, fold: Fold, selection: str) -> tuple[str, ...]:
        """The genes to train on: from all sections (``paper``), or the training ones (``honest``).

        A fixed gene list is itself in both.
        """
        if selection not in SELECTIONS:
            raise DatasetError(f"selection {selection!r}: use {' or '.join(SELECTIONS)}")
        if self.gene_list is not None:
            return self.gene_list
        names = fold.train if selection == "honest" else tuple(self.sections)
        totals = [self.sections[name].section.gene_totals() for name in names]
        return select_genes(totals, self.n_genes)


def open_prepared(path: str | Path) -> Prepared:
    """Open a folder ``prepare_dataset`` wrote; ``DatasetError`` names what is wrong with it."""
    path = Path(path)
    content = _read_manifest(path)
    try:
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
        )
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise DatasetError(
            f"{path}: incomplete or altered ({error}); run triplex-deploy prepare again"
        ) from error


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        content = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DatasetError(
            f"{path}: not a prepared data set, or not finished; run triplex-deploy prepare"
        ) from error
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path / MANIFEST}: not readable ({error}); prepare again") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or set(content) != _KEYS:
        raise DatasetError(f"{path}: not of schema {SCHEMA}; run triplex-deploy prepare again")
    return content


def _open_section(path: Path, entry: Mapping[str, Any]) -> PreparedSection:
    folder = path / SECTIONS / entry["name"]
    with np.load(folder / PLAN) as plan:
        arrays = dict(plan)
    return PreparedSection(
        section=_open_measured(folder, entry),
        features=np.load(folder / FEATURES, mmap_mode="r"),
        tiles=np.load(folder / TARGETS, mmap_mode="r"),
        neighbor_tile=arrays["neighbor_tile"],
        neighbor_mask=arrays["neighbor_mask"],
        spot_tile=arrays["spot_tile"],
        masked_feature=arrays["masked_feature"],
    )


def _open_measured(folder: Path, entry: Mapping[str, Any]) -> Section:
    from scipy.sparse import csr_array

    with np.load(folder / MEASURED) as arrays:
        genes = tuple(map(str, arrays["genes"]))
        shape = (len(arrays["grid_rc"]), len(genes))
        parts = (arrays["data"], arrays["indices"], arrays["indptr"])
        return Section(
            name=entry["name"],
            patient=entry["patient"],
            slide_path=Path(entry["slide"]),
            slide_mpp=float(entry["slide_mpp"]),
            counts=csr_array(parts, shape=shape),
            genes=genes,
            grid_rc=arrays["grid_rc"],
            level0_xy=arrays["level0_xy"],
            is_hexagonal=bool(entry["is_hexagonal"]),
        )


@dataclass(frozen=True, eq=False)
class LabelledSections:
    """Prepared sections with their labels (N, G) for the genes of ``panel``."""

    sections: Sequence[PreparedSection]
    labels: Sequence[NDArray[np.float32]]
    panel: tuple[str, ...] = ()

    @property
    def n_spots(self) -> int:
        return sum(one.section.n_spots for one in self.sections)

    def mean_label(self) -> NDArray[np.float32]:
        """The mean (G,) over all spots."""
        mean: NDArray[np.float32] = np.concatenate(self.labels).mean(0)
        return mean

    def counts(self) -> list[NDArray[np.float32]]:
        """Raw counts (N, G) of each section: neither normalised nor smoothed."""
        return [one.section.panel_counts(self.panel).astype(np.float32) for one in self.sections]


def label_sections(
    prepared: Prepared, names: Sequence[str], panel: tuple[str, ...]
) -> LabelledSections:
    """The sections called ``names``, labelled as the data set was prepared to be."""
    sections = [prepared.sections[name] for name in names]
    labels = [one.labels(panel, prepared.label_transform) for one in sections]
    return LabelledSections(sections, labels, panel)


C = TypeVar("C", bound=Config)


def fit_to_data(config: C, prepared: Prepared, n_genes: int) -> C:
    """The configuration with as many array positions as any prepared section needs.

    Another number of genes, or another width of features, than were prepared raise ``ConfigError``.
    """
    for key, given in (("n_genes", n_genes), ("feature_dim", prepared.feature_dim)):
        if getattr(config, key) != given:
            raise ConfigError(f"{key}={getattr(config, key)}: {given} were prepared; use that")
    if getattr(config, "bank_size", 0):
        raise ConfigError("bank_size: training fills it in; leave it out")
    largest = max(int(one.section.grid_rc.max()) for one in prepared.sections.values())
    known = getattr(config, "n_positions", 0)
    return _with(config, n_positions=max(known, 1 + largest))


def with_bank(config: C, n_spots: int) -> C:
    """The configuration of the model that looks up ``n_spots``, where it looks up any."""
    return _with(config, bank_size=n_spots)


def _with(config: C, **values: int) -> C:
    """The keys that this configuration has."""
    known = {field.name for field in fields(config)}
    fitting: dict[str, Any] = {key: value for key, value in values.items() if key in known}
    return replace(config, **fitting)
