"""The page of Python functions: its examples run in order, with small files of the same names."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.docs.pages import ROOT, blocks
from tests.training.conftest import write_mean_encoder, write_section
from triplex_deploy.runtime.model import Model, RunnableBundle

PAGE = ROOT / "docs" / "from-python.md"
SETTINGS = {
    "model": "gem",
    "embedding_dim": 8,
    "global_depth": 2,
    **{f"{part}_heads": 2 for part in ("fusion", "global", "neighbor")},
    "selection": "test_fold",
    "batch_size": 16,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, bundle: RunnableBundle, model: Model) -> Path:
    """What the page names."""
    import triplex_deploy as td
    from triplex_deploy.demo.slide import synthesize_slide

    folder = tmp_path_factory.mktemp("from-python")
    (folder / "bundle").symlink_to(bundle.path)
    (folder / "predictions").mkdir()
    synthesize_slide(folder / "slide.svs", 500, 500, 0.5, seed=3)
    options = td.PredictOptions(all_tiles=True)
    prediction = td.predict_slide(folder / "slide.svs", model, options)
    prediction.write_h5ad(folder / "predictions" / "slide.h5ad")
    counts = prediction.to_anndata()
    counts.X = np.random.default_rng(1).poisson(5, counts.shape).astype(np.float32)
    del counts.uns["triplex"]
    counts.write_h5ad(folder / "counts.h5ad")
    for number, name in enumerate(("A1", "B1", "C1")):
        write_section(folder / "dataset", name, np.random.default_rng(number))
    write_mean_encoder(folder / "encoder.onnx", batch="batch")
    (folder / "settings.json").write_text(json.dumps(SETTINGS))
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("small_parity")
def test_examples_run_in_order(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib").use("Agg")
    monkeypatch.chdir(folder)
    names: dict[str, object] = {"__name__": "__main__"}
    for example in blocks(PAGE, "python"):
        exec(compile(example, str(PAGE), "exec"), names)
    assert (folder / "out" / "slide.h5ad").is_file()
    assert (folder / "slide.geojson").is_file()


def test_every_function_is_public() -> None:
    import re

    import triplex_deploy as td

    named = set(re.findall(r"td\.(\w+)", PAGE.read_text(encoding="utf-8")))
    assert {"predict_slides", "convert", "prepare", "train", "evaluate", "export"} <= named
    assert named <= set(td.__all__)
    assert all(callable(getattr(td, name)) for name in named)


def test_import_loads_nothing_large() -> None:
    code = (
        "import sys, triplex_deploy as td; td.train, td.predict_slides, td.export, td.convert;"
        "print(*sorted({'torch', 'onnxruntime', 'matplotlib', 'anndata'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
