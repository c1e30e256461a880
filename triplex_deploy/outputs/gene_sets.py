"""Score gene sets at every spot, and show them in a report like genes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import ConfigError
from triplex_deploy.files.compressed import read_text
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.reliability import GeneReliability

logger = logging.getLogger(__name__)

BINS: Final = 25
"""Most groups of genes of like mean expression; scanpy's default."""
GENES_OF_BIN: Final = 10
"""Genes of a group, at the least: a small panel has fewer groups, or sets had no controls."""
CONTROLS: Final = 50
"""Most genes of a group that a set is compared with; scanpy's default."""
SEED: Final = 0
"""Seed by which they are drawn; scanpy's default."""
MOST_SETS: Final = 500
"""Most gene sets of a report."""
NAMED: Final = 5
"""Most sets that a message names."""
LEAST_GENES: Final = 2
"""Least genes of a set that must be predicted."""


def read_gene_sets(path: Path) -> dict[str, tuple[str, ...]]:
    """Read gene sets from a GMT file: in each line a name, a description and genes, between tabs.

    Source of the format: MSigDB and GSEA, "Data formats". The file may be gzipped.

    Raises:
        ConfigError: If the file cannot be read, or a line is no gene set.
    """
    lines = read_text(path, ConfigError, "list of gene sets (.gmt)", "give a .gmt file").split("\n")
    sets: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, *rest = (cell.strip() for cell in line.split("\t"))
        genes = tuple(dict.fromkeys(gene for gene in rest[1:] if gene))
        if not name or not genes:
            raise ConfigError(
                f"{path}: line {number} is no gene set; write a name, a description and genes, "
                "with tabs between them"
            )
        if name in sets:
            raise ConfigError(f"{path}: line {number}: {name} is there twice; name it once")
        sets[name] = genes
    if not sets:
        raise ConfigError(f"{path}: has no gene set; give a .gmt file")
    if len(sets) > MOST_SETS:
        raise ConfigError(f"{path}: {len(sets)} gene sets; keep those to show, at most {MOST_SETS}")
    return sets


def score_genes(expression: NDArray[np.float32], chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the score of a gene set at every spot, (N,), as ``scanpy.tl.score_genes`` does.

    The score is the mean of the set's genes less the mean of control genes: up to 50 others of each
    of the groups of like mean expression that the set reaches into. There are 25 groups, and fewer
    for less than 250 genes: ``n_groups``. Source: Satija et al., 2015, "Spatial reconstruction of
    single-cell gene expression data".

    Args:
        expression: Values of the spots, (N, G).
        chosen: Numbers of the set's genes.

    Raises:
        ConfigError: If there is no other gene of like expression.
    """
    values = expression.astype(np.float64)
    means = np.nanmean(expression, axis=0)
    ordered = np.sort(means)
    rank = np.searchsorted(ordered, means) + 1  # of equal means the least
    group = np.asarray(rank // max(round(len(means) / (n_groups(len(means)) - 1)), 1))
    draw = np.random.RandomState(SEED)
    controls: list[int] = []
    for one in np.unique(group[chosen]).tolist():
        others = np.flatnonzero(group == one)
        if len(others) > CONTROLS:
            others = others[draw.choice(len(others), CONTROLS, replace=False)]
        controls += np.setdiff1d(others, chosen).tolist()
    if not controls:
        raise ConfigError("no other genes of like expression are predicted")
    of_set = np.nanmean(values[:, chosen], axis=1)
    return np.asarray(of_set - np.nanmean(values[:, sorted(controls)], axis=1))


def n_groups(n_genes: int) -> int:
    """Return the number of groups, ``n_bins`` of scanpy, for so many predicted genes."""
    return min(BINS, max(2, n_genes // GENES_OF_BIN))


def with_gene_sets(
    prediction: Prediction, sets: Mapping[str, Sequence[str]]
) -> tuple[Prediction, int]:
    """Return a prediction in which gene sets follow the genes, and their number.

    A set is named with the number of its genes that are predicted, such as ``HYPOXIA (7 genes)``.
    Sets of fewer than two predicted genes, and sets without genes to be compared with, are left
    out with a warning.

    Raises:
        ConfigError: If no set is left.
    """
    place = {gene: index for index, gene in enumerate(prediction.genes)}
    scores: dict[str, NDArray[np.float64]] = {}
    left_out: dict[str, list[str]] = {}
    for name, genes in sets.items():
        chosen = np.array([place[gene] for gene in genes if gene in place], np.int64)
        if len(chosen) < LEAST_GENES:
            reason = f"fewer than {LEAST_GENES} of their genes are predicted"
            left_out.setdefault(reason, []).append(name)
            continue
        try:
            score = score_genes(prediction.expression, chosen)
        except ConfigError as error:
            left_out.setdefault(str(error), []).append(name)
            continue
        scores[f"{name} ({len(chosen)} of {len(genes)} genes)"] = score
    reasons = [f"{reason}: {_some(names)}" for reason, names in left_out.items()]
    if not scores:
        raise ConfigError(
            f"gene sets: none of {len(sets)} can be scored: {'; '.join(reasons)}; predict more "
            f"genes, under the names of the model, such as {', '.join(prediction.genes[:3])}"
        )
    for reason in reasons:
        logger.warning("gene sets left out, as %s", reason)
    names = tuple(scores)
    added = np.stack(list(scores.values()), axis=1).astype(np.float32)
    known = prediction.reliability
    extended = replace(
        prediction,
        expression=np.concatenate([prediction.expression, added], axis=1),
        genes=(*prediction.genes, *names),
        spread=None,
        reliability=known and _extended(known, len(names)),
    )
    return extended, len(names)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} others" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _extended(known: GeneReliability, n_sets: int) -> GeneReliability:
    """Return the numbers with places for sets, whose reliability was not measured."""
    columns: dict[str, Any] = {}
    for field in fields(known):
        values = getattr(known, field.name)
        if isinstance(values, np.ndarray):
            missing = 0 if field.name.endswith("rmse") else np.nan
            columns[field.name] = np.append(values, np.full(n_sets, missing, np.float32))
    return replace(known, **columns)
