"""A prepared data set of three tiny sections, and a study of two tiny models on it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.conftest import mean_encoder, st_root, write_section
from triplex_deploy.training.prepare import prepare_dataset
from triplex_deploy.training.prepare_options import PrepareOptions

__all__ = ["mean_encoder", "st_root"]

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"embedding_dim": 16, "batch_size": 7}
GEM = {"model": "gem", "global_depth": 2, "global_heads": 2, "global_mlp_ratio": 1.0}
NEM = {"model": "nem", "neighbor_depth": 1, "neighbor_heads": 2}


@pytest.fixture(scope="session")
def prepared_path(
    st_root: Path, mean_encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Three folds, a patient each; features are channel means."""
    out = tmp_path_factory.mktemp("study") / "prepared"
    prepare_dataset(st_root, out, PrepareOptions(layout="st", n_genes=3, tile_encoder=mean_encoder))
    return out


@pytest.fixture(scope="session")
def elsewhere_path(mean_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sections of other patients, prepared in the same way."""
    root = tmp_path_factory.mktemp("elsewhere")
    for number, name in enumerate(("D1", "E1"), start=10):
        write_section(root, name, np.random.default_rng(number))
    options = PrepareOptions(layout="st", n_genes=3, tile_encoder=mean_encoder)
    prepare_dataset(root, root / "prepared", options)
    return root / "prepared"


def study_values(prepared: Path, **changes: Any) -> dict[str, Any]:
    """The content of a study of two models on two folds."""
    return {
        "name": "tiny",
        "datasets": {"ST": {"prepared": str(prepared)}},
        "models": {"GEM": dict(GEM), "NEM": dict(NEM)},
        "reference": "GEM",
        "folds": [0, 1],
        "seeds": [1],
        "selection": "test_fold",
        "settings": {"epochs": 1, **SMALL},
        **changes,
    }


def write_study(folder: Path, values: dict[str, Any]) -> Path:
    path = folder / "study.yaml"
    path.write_text(json.dumps(values))  # which is YAML too
    return path
