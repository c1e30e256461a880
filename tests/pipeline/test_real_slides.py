"""Real slides end to end: formats of the same region agree, and a real array is predicted."""

from pathlib import Path

import numpy as np
import pytest

from triplex_deploy import predict_slide
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.runtime.gates import gene_pcc
from triplex_deploy.runtime.model import Model
from triplex_deploy.spots import Spots

MAX_SHARE_OF_RANGE = 0.02
MIN_GENE_PCC = 0.99


@pytest.mark.slow
def test_svs_and_dicom_of_one_region_agree(shared_data: Path, model: Model) -> None:
    """The DICOM is a second JPEG compression with halved chroma: 3.4 gray levels on average."""
    slides = shared_data / "slides"
    svs = predict_slide(slides / "CMU-1-Small-Region.svs", model)
    spots = Spots(svs.level0_xy, svs.grid_rc, "file", svs.spot_diameter_px)
    dicom = predict_slide(
        slides / "dicom_cmu1_small" / "level-0-frames-0-30.dcm", model, PredictOptions(spots=spots)
    )
    assert svs.n_spots > 40
    assert dicom.spot_names == svs.spot_names
    largest = np.abs(svs.expression - dicom.expression).max()
    assert 0 < largest <= MAX_SHARE_OF_RANGE * np.ptp(svs.expression)
    assert gene_pcc(dicom.expression, svs.expression).min() >= MIN_GENE_PCC


@pytest.mark.slow
def test_her2st_section_is_predicted_with_its_spot_file(shared_data: Path, model: Model) -> None:
    """Predict every eighth spot; the whole section would take minutes."""
    from triplex_deploy.spots import read_spots

    spots = read_spots(shared_data / "her2st/ST-spotfiles/C3_selection.tsv")
    assert len(spots.level0_xy) == 182
    some = Spots(spots.level0_xy[::8], spots.grid_rc[::8], "file", spots.spot_diameter_px)
    image = shared_data / "her2st/ST-imgs/C/C3/5714_HE_BT_D1.jpg"
    prediction = predict_slide(image, model, PredictOptions(spots=some, mpp=0.5))
    assert prediction.expression.shape == (23, 30)
    assert np.isfinite(prediction.expression).all()
    assert np.ptp(prediction.expression, axis=0).min() > 0
