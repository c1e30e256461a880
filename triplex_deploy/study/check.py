"""What can be known to be wrong with a study before hours of training."""

from __future__ import annotations

import numpy as np

from triplex_deploy.errors import ConfigError, DatasetError
from triplex_deploy.study.config import ExternalEntry, MapEntry, Study
from triplex_deploy.study.paper import paper_row
from triplex_deploy.training.prepared import Prepared, open_prepared


def check_study(study: Study) -> None:
    """Raise ``ConfigError`` or ``DatasetError`` for maps, tests and columns that cannot be had."""
    config = study.config
    for label, dataset in config.datasets.items():
        prepared = open_prepared(study.path(dataset.prepared))
        if dataset.paper is not None:
            paper_row(dataset.paper.table, dataset.paper.column, "")
        if label in config.maps:
            _check_map(study, label, config.maps[label], prepared)
    for label, entry in config.external.items():
        trained = open_prepared(study.path(config.datasets[entry.trained_on].prepared))
        _check_external(label, entry, open_prepared(study.path(entry.prepared)), trained)


def _check_map(study: Study, label: str, entry: MapEntry, prepared: Prepared) -> None:
    """The section is tested on by a fold of the study, which predicts the genes."""
    wanted = study.config.folds
    folds = [fold for fold in prepared.folds if wanted == "all" or fold.index in wanted]
    tested = {name: fold for fold in folds for name in fold.test}
    if entry.section not in tested:
        raise ConfigError(
            f"maps.{label}: no fold tests section {entry.section}; they test {', '.join(tested)}"
        )
    panel = prepared.panel(tested[entry.section], study.config.selection)
    for gene in entry.genes:
        if gene not in panel:
            raise ConfigError(f"maps.{label}: {gene} is not predicted; choose another gene")


def _check_external(
    label: str, entry: ExternalEntry, prepared: Prepared, trained: Prepared
) -> None:
    """The same frozen encoder and label steps, but for the smoothing window; no shared slide."""
    for name, column in entry.samples.items():
        paper_row("table2", column, "")
        if name not in prepared.sections:
            raise ConfigError(
                f"external.{label}.samples: no section {name}; it has "
                f"{', '.join(prepared.sections)}"
            )
    if prepared.tile_encoder["digest"] != trained.tile_encoder["digest"]:
        raise DatasetError(
            f"external.{label}: prepared with another tile encoder; prepare it with that of the "
            "data set trained on"
        )
    ours, theirs = prepared.label_transform.to_dict(), trained.label_transform.to_dict()
    changed = [key for key in ours if key != "smoothing" and ours[key] != theirs[key]]
    if changed:
        raise DatasetError(
            f"external.{label}: label {changed[0]} is {ours[changed[0]]}, the models learned "
            f"{theirs[changed[0]]}; prepare it with that"
        )
    for name, section in prepared.sections.items():
        for other, seen in trained.sections.items():
            if np.array_equal(section.features, seen.features):
                raise DatasetError(
                    f"external.{label}: section {name} is {other} of the data set trained on; "
                    "prepare it without that"
                )
