"""Labels of the real sections against the numbers published beside them."""

from pathlib import Path

import numpy as np
import pytest

from triplex_deploy.data import Section, read_dataset
from triplex_deploy.expression import (
    LabelTransform,
    constant_predictor,
    measure_slide,
    select_genes,
)

pytestmark = pytest.mark.lengthy


@pytest.fixture(scope="module")
def sections(shared_data: Path) -> tuple[Section, ...]:
    return read_dataset(shared_data / "her2st", "st")


def test_constant_predictor_on_the_held_out_section(sections: tuple[Section, ...]) -> None:
    *train, test = sections
    panel = select_genes([section.gene_totals() for section in train], 250)
    transform = LabelTransform()
    *labels, truth = (transform(s.panel_counts(panel), s.grid_rc) for s in (*train, test))
    constant = np.broadcast_to(constant_predictor(labels), truth.shape)
    metrics = measure_slide(truth, constant)
    assert metrics.mse == pytest.approx(0.0365, abs=0.0002)
    assert np.isnan(metrics.pcc).all()


def test_genes_of_four_sections_resemble_those_of_all_thirty_six(
    sections: tuple[Section, ...], shared_data: Path
) -> None:
    published = (shared_data / "paper" / "bc1_genes250.txt").read_text().split()
    panel = select_genes([section.gene_totals() for section in sections], 250)
    assert {"GNAS", "CLDN4", "FASN", "ERBB2"} <= set(panel) & set(published)
    assert len(set(panel) & set(published)) > 170
