"""Options of pooling in ``prepare`` and ``predict``: which belong together."""

from pathlib import Path
from typing import Any

import pytest

from triplex_deploy.errors import ConfigError
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.training.prepare_options import PrepareOptions


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"layout": "visium-hd"}, "give their distance"),
        ({"layout": "st", "pool_um": 100.0}, "has spots of its own"),
        ({"layout": "visium", "lattice": "hexagonal"}, "pool_um: is needed"),
        ({"layout": "xenium", "pool_um": 1.0}, "at least 20"),
        ({"layout": "visium-hd", "pool_um": 100.0, "alignment": Path("a.csv")}, "is for xenium"),
        ({"layout": "visium-hd", "pool_um": 100.0, "bin_um": 2}, "8 or 16"),
    ],
)
def test_prepare_refuses_what_does_not_fit(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        PrepareOptions(**options)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"pool_um": 100.0}, "nothing to pool"),
        ({"spots": "outs", "spots_format": "xenium"}, "pool_um: is needed"),
        ({"lattice": "hexagonal"}, "pool_um: is needed"),
        ({"spots": "outs", "bin_um": 16}, "pool_um: is needed"),
        ({"spots": "outs", "alignment": Path("a.csv")}, "pool_um: is needed"),
        ({"spots": "outs", "pool_um": 100.0, "lattice": "round"}, "lattice"),
        ({"spots": "a.csv", "min_tissue": 0.2}, "min_tissue: spots are given"),
        ({"min_tissue": 0.0}, "above 0"),
        ({"mask_class": "Tumor"}, "there is no mask"),
        ({"mask": "a.geojson", "mask_origin": "corner"}, "scanned or slide"),
    ],
)
def test_predict_refuses_what_does_not_fit(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        PredictOptions(**options)


def test_prepared_data_record_how_they_were_pooled() -> None:
    pooling = PrepareOptions("visium-hd", pool_um=55.0, lattice="hexagonal", bin_um=16).pooling
    assert pooling is not None
    assert pooling.recorded() == {"pool_um": 55.0, "lattice": "hexagonal", "bin_um": 16}
    assert PrepareOptions("st").pooling is None
