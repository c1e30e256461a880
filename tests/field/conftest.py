"""A small demo: slide, data set, truth, bundle and prediction, made once for the folder's tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.few_parity_cases import few_parity_cases
from tests.field.kit import MPP, Kit
from tests.invoke import Finished, Invoke, invoke
from tests.shared_cache import share_traces

__all__ = ["Finished", "Invoke", "invoke"]
SECTIONS = ("A1", "B1", "D1")


@pytest.fixture(autouse=True)
def _no_user(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hide settings and caches of whoever runs the tests; work in an empty folder."""
    cache = tmp_path_factory.mktemp("cache-home")
    share_traces(cache)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def small_demo(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``triplex-deploy demo`` leaves, with sections of 5 x 4 spots and an untrained model."""
    from triplex_deploy.demo.dataset import SectionPlan, image_path, write_dataset
    from triplex_deploy.demo.programs import GENES
    from triplex_deploy.demo.truth import write_truth
    from triplex_deploy.exporters.export import export_bundle
    from triplex_deploy.models import read_checkpoint, write_checkpoint

    root = tmp_path_factory.mktemp("field") / "demo"
    root.mkdir()
    plans = [SectionPlan(name[0], int(name[1]), (6, 5)) for name in SECTIONS]
    made = write_dataset(root / "dataset", plans, seed=1)
    shutil.copy(image_path(root / "dataset", plans[-1]), root / "slide.tif")
    write_truth(root / "truth.h5ad", made[-1])
    checkpoint = read_checkpoint(tiny_checkpoint)
    panel = tuple(GENES[: len(checkpoint.genes)])
    write_checkpoint(replace(checkpoint, genes=panel, tile_mpp=MPP), root / "checkpoint.ckpt")
    with few_parity_cases():
        export_bundle(root / "checkpoint.ckpt", root / "bundle")
    return root


@pytest.fixture
def kit(small_demo: Path, tmp_path: Path) -> Kit:
    """The small demo, with an empty folder for the case."""
    return Kit(small_demo, tmp_path)


@pytest.fixture
def predict(invoke: Invoke, kit: Kit) -> Callable[..., Finished]:
    """``predict`` with the small demo's bundle into ``out``, without a report."""

    def call(*arguments: object, out: str = "out") -> Finished:
        given = ("--bundle", kit.bundle, "--out", kit.folder / out, "--no-report")
        return invoke("predict", *arguments, *given)

    return call
