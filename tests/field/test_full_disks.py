"""A disk that takes no more is one error line in every command, and leaves nothing half-written.

A limit of the size of files stands for the full disk: the system refuses the same writes, with
another number of the error.
"""

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.field.conftest import Finished, Invoke
from tests.field.kit import Kit
from tests.training.conftest import write_mean_encoder

pytestmark = [pytest.mark.torch, pytest.mark.lengthy]


QUICK = ("--seconds", "0.01", "--rounds", "2", "--max-runs", "2")
"""Options of a benchmark that measures next to nothing."""


@contextmanager
def room_for(n_bytes: int) -> Iterator[None]:
    """Let this process write no file beyond a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def predicted(kit: Kit, invoke: Invoke) -> Path:
    """A prediction of the demo's slide at its measured spots."""
    spots = kit.demo / "dataset/ST-spotfiles/D1_selection.tsv"
    finished = invoke(
        "predict",
        kit.demo / "slide.tif",
        "--bundle",
        kit.bundle,
        "--spots",
        spots,
        "--out",
        kit.folder / "predicted",
        "--no-report",
    )
    assert finished.status == 0, finished.err
    return kit.folder / "predicted" / "slide.h5ad"


def refuse(finished: Finished, *named: str) -> None:
    assert "cannot be written" in finished.error or "needs " in finished.error
    for word in named:
        assert word in finished.error


@pytest.mark.parametrize("no_report", [True, False])
def test_predict(kit: Kit, invoke: Invoke, no_report: bool) -> None:
    out = kit.folder / "out"
    given = ("predict", kit.demo / "slide.tif", "--bundle", kit.bundle, "--out", out)
    with room_for(2_000):
        refuse(invoke(*given, *(["--no-report"] if no_report else [])), "slide.h5ad")
    assert files_of(out) == set()


def test_report_convert_and_evaluate(kit: Kit, invoke: Invoke, predicted: Path) -> None:
    before = files_of(kit.folder)
    truth = kit.demo / "truth.h5ad"
    with room_for(500):
        refuse(invoke("report", predicted), "slide.html")
        for name in ("csv", "parquet", "geojson", "ome-tiff", "spatialdata"):
            refuse(invoke("convert", predicted, "--to", name), "slide.")
        refuse(invoke("evaluate", predicted, "--truth", truth, "--out", "m.json"), "m.png")
    assert files_of(kit.folder) == before


def test_bench(kit: Kit, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ("bench", kit.bundle, "--graph", "fusion_head", "--batch-sizes", "1", *QUICK)
    with room_for(500):
        refuse(invoke(*given, "--json", "b.json", "--plot", "b.png"), "b.json")
    usage = shutil.disk_usage(kit.folder)._replace(free=4096)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    finished = invoke(*given, "--json", "b.json")
    assert "b.json: needs 1.05 MB, and its disk has 0.00 MB free" in finished.error
    assert files_of(kit.folder) == set()


def test_export(kit: Kit, invoke: Invoke) -> None:
    with room_for(2_000):
        refuse(invoke("export", kit.demo / "checkpoint.ckpt", "--out", "bundle"), "bundle")
    assert list(kit.folder.iterdir()) == []


def test_prepare_and_train(kit: Kit, invoke: Invoke) -> None:
    write_mean_encoder(kit.folder / "means.onnx", batch="batch")
    root = kit.sections("A1", "B1", "D1")
    prepare = ("prepare", root, "--format", "st", "--genes", "5", "--out", "prepared")
    encoder = ("--tile-encoder", kit.folder / "means.onnx")
    with room_for(20_000):
        refuse(invoke(*prepare, *encoder), "prepared")
    assert not (kit.folder / "prepared" / "prepared.json").exists()
    assert invoke(*prepare, *encoder).status == 0
    train = ("train", "prepared", "--out", "run", "--model", "gem", "--epochs", "1")
    small = ("--set", "embedding_dim=64", "--set", "global_heads=1", "--set", "global_depth=2")
    with room_for(2_000):
        refuse(invoke(*train, *small), "run")
    assert files_of(kit.folder / "run") == set()
