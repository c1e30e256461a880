"""Prepared sections beside what is to be predicted of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.training.prepared import Prepared, PreparedSection


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
