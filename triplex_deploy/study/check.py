"""Check a study before hours of training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from triplex_deploy.errors import ConfigError, DatasetError
from triplex_deploy.study.cells import folder_of_model, open_folders, settings_of
from triplex_deploy.study.config import ExternalEntry, MapEntry, Study
from triplex_deploy.study.paper import paper_row
from triplex_deploy.training.prepared import Prepared, open_prepared


def check_study(study: Study) -> None:
    """Check that maps can be drawn, external tests be run, and columns of the paper be found.

    Raises:
        ConfigError: If a map, a sample or a column of the paper does not exist.
        DatasetError: If a data set is not prepared, or cannot be tested on.
    """
    config = study.config
    opened = {label: open_folders(study, dataset) for label, dataset in config.datasets.items()}
    for label, dataset in config.datasets.items():
        prepared, *others = opened[label]
        for name, other in zip(dataset.also_prepared, others, strict=True):
            _check_same_data(label, name, prepared, other)
        if dataset.paper is not None:
            paper_row(dataset.paper.table, dataset.paper.column, "")
        if label in config.maps:
            _check_map(study, label, config.maps[label], prepared)
    for label, entry in config.external.items():
        folders = opened[entry.trained_on]
        prepared = open_prepared(study.path(entry.prepared))
        _check_external(label, entry, prepared, folders[0])
        _check_neighborhoods(study, label, entry, prepared, folders)


def _check_same_data(label: str, name: str, prepared: Prepared, other: Prepared) -> None:
    """Check that two folders differ by nothing but where neighbor tiles are taken."""
    for key in ("tile_mpp", "tile_encoder", "label_transform", "n_genes", "gene_list", "folds"):
        if getattr(other, key) != getattr(prepared, key):
            raise DatasetError(
                f"datasets.{label}.also_prepared: {name} has another {key} than {prepared.path}; "
                "prepare both from the same data, with the same options except --neighborhood"
            )


def _check_neighborhoods(
    study: Study,
    label: str,
    entry: ExternalEntry,
    prepared: Prepared,
    folders: Sequence[Prepared],
) -> None:
    """Check that the models of an external test were trained with the sections' neighborhood."""
    dataset = study.config.datasets[entry.trained_on]
    for model in entry.models or study.config.models:
        values = settings_of(study, dataset, model)
        trained = folder_of_model(folders, values, f"{entry.trained_on} / {model}")
        if trained.neighborhood != prepared.neighborhood:
            raise DatasetError(
                f"external.{label}: prepared with the neighborhood {prepared.neighborhood}, "
                f"{model} is trained with {trained.neighborhood}; prepare the sections with that, "
                "or leave the model out"
            )


def _check_map(study: Study, label: str, entry: MapEntry, prepared: Prepared) -> None:
    """Check that a fold of the study tests the section and predicts the genes."""
    wanted = study.config.folds
    folds = [fold for fold in prepared.folds if wanted == "all" or fold.index in wanted]
    tested = {name: fold for fold in folds for name in fold.test}
    if entry.section not in tested:
        raise ConfigError(
            f"maps.{label}: no fold tests section {entry.section}; use one of {', '.join(tested)}"
        )
    panel = prepared.panel(tested[entry.section], study.config.selection)
    for gene in entry.genes:
        if gene not in panel:
            raise ConfigError(f"maps.{label}: {gene} is not predicted; choose another gene")


def _check_external(
    label: str, entry: ExternalEntry, prepared: Prepared, trained: Prepared
) -> None:
    """Check that encoder and label steps are the same, and that no slide is in both.

    The smoothing window may differ.
    """
    for name, column in entry.samples.items():
        paper_row("table2", column, "")
        if name not in prepared.sections:
            raise ConfigError(
                f"external.{label}.samples: no section {name}; it has "
                f"{', '.join(prepared.sections)}"
            )
    if prepared.tile_encoder["digest"] != trained.tile_encoder["digest"]:
        raise DatasetError(
            f"external.{label}: prepared with another tile encoder; use the tile encoder of the "
            "data set that the models are trained on"
        )
    given, wanted = prepared.label_transform.to_dict(), trained.label_transform.to_dict()
    changed = [key for key in given if key != "smoothing" and given[key] != wanted[key]]
    if changed:
        raise DatasetError(
            f"external.{label}: label {changed[0]} is {given[changed[0]]}, the models learned "
            f"{wanted[changed[0]]}; prepare the sections with that"
        )
    for name, section in prepared.sections.items():
        for other, seen in trained.sections.items():
            if np.array_equal(section.spot_features(), seen.spot_features()):
                raise DatasetError(
                    f"external.{label}: section {name} is section {other} of the training data; "
                    "prepare the data set without it"
                )
