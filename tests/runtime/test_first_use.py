"""A precision is compared with PyTorch on this machine before it is used."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from triplex_deploy.bundle import MANIFEST, PARITY_INPUTS
from triplex_deploy.files.digest import sha256_of
from triplex_deploy.runtime import cpu_choice, first_use
from triplex_deploy.runtime.cpu_choice import has_fast_bf16
from triplex_deploy.runtime.first_use import InaccurateError
from triplex_deploy.runtime.gates import GATES
from triplex_deploy.runtime.model import RunnableBundle, load_bundle
from triplex_deploy.runtime.replay import replay_chain


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def with_stored(bundle: RunnableBundle, folder: Path, **changed: np.ndarray) -> RunnableBundle:
    """Return a copy of ``bundle`` in which some stored arrays are others, or left out if empty."""
    shutil.copytree(bundle.path, folder)
    path = folder / PARITY_INPUTS
    with np.load(path) as stored:
        arrays = {**stored, **{name.replace("__", "/"): a for name, a in changed.items()}}
    np.savez_compressed(path, **{name: a for name, a in arrays.items() if a.size})
    files = {**bundle.manifest.files, PARITY_INPUTS: sha256_of(path)}
    manifest = bundle.manifest.model_copy(update={"files": files})
    (folder / MANIFEST).write_text(manifest.sealed().to_json())
    return load_bundle(folder)


def test_stored_slide_gives_the_same_expression(bundle: RunnableBundle) -> None:
    with bundle.open(device="cpu", backend="onnxruntime") as model:
        result = replay_chain(model, GATES["fp32"])
    assert result is not None
    assert result.passed
    assert result.spots == 25


def test_verdict_is_kept_and_a_miss_is_an_error_with_figures(
    bundle: RunnableBundle, tmp_path: Path
) -> None:
    with np.load(bundle.path / PARITY_INPUTS) as stored:
        features = stored["tile_encoder/out/features"]
    wrong = with_stored(bundle, tmp_path / "wrong", tile_encoder__out__features=features[::-1])
    with pytest.raises(InaccurateError, match=r"tile_encoder: relative error .* cosine 0\.\d+"):
        wrong.open(device="cpu", backend="openvino")
    wrong.open(device="cpu", backend="onnxruntime").close()  # the export has compared this


def test_second_opening_does_not_run_the_stored_inputs(
    bundle: RunnableBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle.open(device="cpu", backend="openvino").close()
    monkeypatch.setattr(first_use, "replay_parity", lambda model: pytest.fail("run again"))
    bundle.open(device="cpu", backend="openvino").close()
    monkeypatch.setattr(cpu_choice, "processor_name", lambda: "another processor")
    with pytest.raises(pytest.fail.Exception, match="run again"):
        bundle.open(device="cpu", backend="openvino")


def test_auto_goes_back_to_fp32_where_genes_cannot_be_compared(
    bundle: RunnableBundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if not has_fast_bf16():
        pytest.skip("this CPU does not multiply bf16 in hardware")
    old = with_stored(bundle, tmp_path / "old", chain__expression=np.zeros(0))
    with old.open(device="cpu", backend="openvino", precision="auto") as model:
        assert model.precision == "fp32" or "auto" not in caplog.text
    with old.open(device="cpu", backend="openvino", precision="bf16") as model:
        assert model.precision == "bf16"
