"""Reports with measured expression beside the prediction."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.outputs.test_report import data_of
from triplex_deploy.errors import ContractError
from triplex_deploy.outputs import Prediction
from triplex_deploy.outputs.measured import Measured
from triplex_deploy.outputs.report import render_report, write_report


def test_the_report_holds_both_and_the_correlation(
    prediction: Prediction, measured: Measured
) -> None:
    html = render_report(prediction, measured)
    data = data_of(html)
    assert data["genes"]["pcc"] == [0.9, -0.25, None]
    assert data["measured"]["low"][1] == pytest.approx(float(np.nanmin(measured.values[:, 1])))
    assert 'id="measured-codes"' in html
    assert "<b>28</b> spots and" in html
    assert "<b>2</b> genes measured" in html
    assert "median correlation <b>0.33</b>" in html  # of 0.9 and -0.25
    assert "From &lt;counts&gt;." in html


def test_chosen_genes_keep_their_own_measurement(
    prediction: Prediction, measured: Measured, tmp_path: Path
) -> None:
    write_report(prediction, tmp_path / "a.html", ["ERBB2", "FASN"], measured)
    data = data_of((tmp_path / "a.html").read_text(encoding="utf-8"))
    assert data["genes"]["names"] == ["ERBB2", "FASN"]
    assert data["genes"]["pcc"] == [None, -0.25]
    assert data["measured"]["high"][1] == pytest.approx(float(np.nanmax(measured.values[:, 1])))


def test_another_slides_measurement_is_refused(prediction: Prediction, measured: Measured) -> None:
    other = replace(measured, values=measured.values[:5])
    with pytest.raises(ContractError, match=r"values \(5, 3\).*expected \(30, 3\)"):
        render_report(prediction, other)


def test_a_large_comparison_stays_small(large_prediction: Prediction) -> None:
    rng = np.random.default_rng(1)
    measured = Measured(rng.random((5000, 250), np.float32), rng.random(250), "Made up.")
    assert len(render_report(large_prediction, measured).encode()) < 15e6
